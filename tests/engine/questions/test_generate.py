"""Questions are asked for once each, kept over a kill, and left out where they do not find their document again."""

from __future__ import annotations

import json
import threading

import pytest

from resift import InputError, OutputError
from resift.mining.collection import MiningDocument
from resift.pools.training_pairs import to_pairs
from resift.questions.asking import FIRST_REFUSALS
from resift.questions.endpoint import Address, Budget
from resift.questions.generate import LOST, TOO_SHORT, WITHOUT, Generation, QuestionOptions, encode_rows
from resift.questions.journal import DocumentEntry, Head, QuestionJournal
from resift.questions.round_trip import RoundTrip
from tests.support import chat_server
from tests.support.chat_server import chatting, says

SUBJECTS = ("moon", "bread", "salt", "glass", "wool", "clay", "iron", "silk", "rice", "wind")
DOCUMENTS = [
    MiningDocument(f"The {subject} is a thing of many uses, number {place}.", subject) for place, subject in enumerate(SUBJECTS)
]
NO_ROUND_TRIP = {"best": 0}


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "queries.jsonl.journal"


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Waiting takes no time."""
    monkeypatch.setattr(Budget, "wait", lambda self, seconds: None)


def generate(server, journal, documents=DOCUMENTS, write=lambda found: None, **given):
    return Generation(documents, QuestionOptions(**given)).ask(Address.parse(server.url, "model"), journal, write)


def join_threads():
    """Waits for the threads of a run that is over."""
    for thread in threading.enumerate():
        if thread.name.startswith("resift-questions"):
            thread.join(60)
            assert not thread.is_alive()


def asked_about(server):
    return [body["messages"][1]["content"] for _, _, body in server.asked]


def test_every_document_is_asked_about_once_and_the_rows_are_in_their_order(journal):
    written = []
    with chatting(seconds=0.02) as server:
        found = generate(server, journal, write=written.append, concurrency=3)
    assert sorted(asked_about(server)) == sorted(document.text for document in DOCUMENTS)
    assert 1 < server.most_at_once <= 3
    assert [row["positive"][0]["docid"] for row in found.rows] == list(SUBJECTS)
    assert found.rows[0] == {
        "qid": "q0-1",
        "query": "What is said of The moon is a thing of?",
        "positive": [{"docid": "moon", "text": DOCUMENTS[0].text}],
        "negative": [],
        "method": "model",
    }
    assert (written, found.requests, found.remaining) == ([found], 10, 0)
    assert not journal.exists()
    assert [to_pairs(json.loads(line), "line").query for line in encode_rows(found.rows).splitlines()][9] == found.rows[9]["query"]


def test_a_killed_run_goes_on_and_asks_nothing_again(journal):
    class Killed(BaseException):
        """What no code catches."""

    def kill(stage, done, total):
        if done == 4:
            raise Killed

    with chatting() as server:
        address = Address.parse(server.url, "model")
        with pytest.raises(Killed):
            Generation(DOCUMENTS, QuestionOptions(concurrency=1), progress=kill).ask(address, journal, lambda found: None)
        join_threads()
        first = len(server.asked)
        content = journal.read_bytes()
        journal.write_bytes(content + b'{"document": 3, "que')  # what a kill leaves of a line
        found = generate(server, journal, concurrency=1)
        assert 4 <= first < 10
        assert len(server.asked) - first == 10 - 4
        assert len(found.rows) == 10
        assert found.requests == 10
    assert not journal.exists()


def test_what_failed_is_asked_again_by_the_next_run(journal):
    with chatting(chat_server.is_broken, chat_server.is_huge, chat_server.answers("Sorry.")) as server:
        first = generate(server, journal, concurrency=1)
        assert (len(first.rows), first.requests, journal.exists()) == (7, 10, True)
        assert sorted(first.left_out.values()) == [0, 0, 0, 1, 1, 1]
        second = generate(server, journal, concurrency=1)
    assert len(server.asked) == 13
    assert (len(second.rows), second.requests) == (10, 13)
    assert not journal.exists()


def test_a_budget_ends_the_run_with_what_there_is_and_a_higher_one_goes_on(journal):
    with chatting(says(500)) as server:
        found = generate(server, journal, max_requests=4, concurrency=2)
        assert (len(server.asked), len(found.rows), found.remaining, found.requests) == (4, 3, 7, 4)
        generate(server, journal, max_requests=4)
        assert len(server.asked) == 4
        assert len(generate(server, journal, max_requests=100).rows) == 10
        assert len(server.asked) == 11


def test_an_endpoint_that_refuses_the_first_requests_ends_the_run(journal):
    with chatting(*[says(400, "no such model")] * 9) as server:
        with pytest.raises(InputError, match=r"refuses every request; the last: answered 400 \(no such model\)"):
            generate(server, journal, concurrency=1)
        assert len(server.asked) <= FIRST_REFUSALS + 1


def test_a_run_that_is_refused_at_once_leaves_nothing(journal):
    journal.parent.joinpath("missing").mkdir()
    with chatting() as server, pytest.raises(OutputError, match="cannot be written"):
        generate(server, journal.parent / "missing" / ("x" * 300))
    documents = [MiningDocument("")]
    with chatting() as server:
        assert generate(server, journal, documents).rows == []
    assert not journal.exists()
    with chatting(says(401)) as server, pytest.raises(InputError, match="answered 401"):
        generate(server, journal, concurrency=1)
    assert b"answered 401" in journal.read_bytes()  # its request counts for the budget


def test_a_failing_run_leaves_no_thread(journal):
    with chatting(says(404)) as server, pytest.raises(InputError, match="answered 404"):
        generate(server, journal, concurrency=4)
    join_threads()


def test_another_run_does_not_take_a_journal_over(journal):
    with chatting() as server:
        generate(server, journal, max_requests=2)
        with pytest.raises(InputError, match="belongs to a run with other documents, another model or other questions"):
            generate(server, journal, DOCUMENTS[1:])
        with pytest.raises(InputError, match="belongs to a run"):
            generate(server, journal, per_document=2)
        assert len(server.asked) == 2


@pytest.mark.parametrize("content", [b"mine", b"mine\n", b'{"a": 1}\n', b'{"documents": "x'])
def test_a_file_of_someone_else_stays(journal, content):
    journal.write_bytes(content)
    with chatting() as server, pytest.raises(InputError, match=r"no journal of this command|belongs to a run"):
        generate(server, journal)
    assert journal.read_bytes() == content


def test_a_line_that_a_kill_cut_short_spoils_no_later_one(journal):
    head = Head(documents="", method="", instruction="")
    first = QuestionJournal(journal, head)
    first.add(DocumentEntry(document=1, questions=["one"], requests=2))
    first.close()
    journal.write_bytes(journal.read_bytes() + b'{"document": 2, "que')
    second = QuestionJournal(journal, head)
    assert list(second.entries) == [1]
    second.add(DocumentEntry(document=3, fault="none", requests=1))
    second.close()
    third = QuestionJournal(journal, head)
    assert [(each.document, each.questions, each.fault) for each in third.entries.values()] == [(1, ["one"], None), (3, [], "none")]
    assert third.requests == 3
    third.close()


def test_two_runs_do_not_write_one_journal(journal):
    head = Head(documents="", method="", instruction="")
    held = QuestionJournal(journal, head)
    with pytest.raises(OutputError, match="another process is writing this OUT"):
        QuestionJournal(journal, head)
    held.close()
    QuestionJournal(journal, head).delete()
    assert not journal.exists()


def test_a_sample_is_drawn_by_the_seed(journal):
    def sample(**given):
        with chatting() as server:
            return [row["positive"][0]["docid"] for row in generate(server, journal, limit=3, **given).rows]

    assert sample(seed=1) == sample(seed=1)
    assert len({tuple(sample(seed=seed)) for seed in range(5)}) > 1


def test_short_texts_and_answers_without_questions_are_counted(journal):
    documents = [*DOCUMENTS[:2], MiningDocument("Too short."), MiningDocument("")]
    with chatting(question=lambda text: '{"questions": []}' if "moon" in text else "What of bread?") as server:
        found = generate(server, journal, documents, concurrency=1)
    assert len(server.asked) == 2
    assert (found.left_out[TOO_SHORT], found.left_out["an answer without a question"]) == (2, 1)
    assert [row["query"] for row in found.rows] == ["What of bread?"]


def test_a_question_that_does_not_find_its_document_is_left_out(journal):
    questions = {"moon": "what of the moon", "bread": "what of the moon and number 0", "salt": "quarks"}
    with chatting(question=lambda text: f"{next((q for s, q in questions.items() if s in text), 'number')}?") as server:
        found = generate(server, journal, DOCUMENTS[:3], best=1)
    assert [row["query"] for row in found.rows] == ["what of the moon?"]
    assert found.left_out[LOST] == 2


def test_one_question_on_several_documents_is_one_query(journal):
    documents = [MiningDocument("The moon pulls the sea twice a day."), MiningDocument("The moon pulls the sea two times a day.")]
    with chatting(question=lambda text: "What does the moon do?") as server:
        found = generate(server, journal, documents)
    assert [(row["query"], len(row["positive"])) for row in found.rows] == [("What does the moon do?", 2)]


def test_questions_in_other_languages_come_out_as_they_are(journal):
    documents = [MiningDocument("月亮和太阳一起引起海洋的潮汐。"), MiningDocument("Der Mond zieht das Wasser der Meere an.")]
    with chatting(question=lambda text: json.dumps([f"{text[:12]}\uff1f"])) as server:
        found = generate(server, journal, documents, best=1)
    assert [row["query"] for row in found.rows] == [f"{each.text[:12]}\uff1f" for each in documents]


# Without an endpoint


def test_without_an_endpoint_nothing_is_sent_and_the_method_is_named(monkeypatch):
    import socket

    monkeypatch.setenv("OPENAI_API_KEY", "x")
    monkeypatch.setattr(socket, "socket", None)
    found = Generation(DOCUMENTS, QuestionOptions()).extract()
    assert {row["method"] for row in found.rows} == {"extractive"}
    assert len(found.rows) == len(DOCUMENTS)
    assert found.requests == 0
    assert all(
        set(row["query"].split()) <= set(row["positive"][0]["text"].lower().replace(",", "").replace(".", "").split())
        for row in found.rows
    )


def test_texts_without_a_query_are_counted():
    found = Generation([MiningDocument("of the and of the and of"), *DOCUMENTS], QuestionOptions(**NO_ROUND_TRIP)).extract()
    assert found.left_out[WITHOUT] == 1


# The round trip


def test_copies_count_as_found_again():
    documents = [MiningDocument("The moon pulls the sea."), MiningDocument("the moon pulls the sea"), MiningDocument("Bread.")]
    assert list(RoundTrip(documents, 1).survive([("moon", 1), ("moon", 2)])) == [True, False]


def test_a_reranker_reads_the_best_and_the_documents_own(reranker):
    documents = [MiningDocument(text) for text in ("The moon pulls the sea.", "Bread rises by yeast.", "Salt is a mineral.")]
    texts = [document.text for document in documents]
    questions = [("sea moon", place) for place in range(3)]
    found = list(RoundTrip(documents, 1, reranker).survive(questions))
    logits = reranker.logits("sea moon", texts)
    assert found == [place == 0 or logits[place] > logits[0] for place in range(3)]
