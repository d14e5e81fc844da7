"""A Reranker that reads long documents in windows: a tiny artifact, with words that are one token each."""

from __future__ import annotations

import asyncio
import json
import pickle
from dataclasses import asdict

import numpy as np
import pytest

from resift import InputError, OutputError, Ranking, Reranker, Settings
from resift.encoding.windows import reach, spans
from resift.pools.collection import rerank_pools
from resift.pools.job import Job, rerank_file
from resift.pools.reading import CandidatePool
from tests.support import tiny
from tests.support.columns import columns_of
from tests.support.commands import LINES, QUERY, answered, resift
from tests.support.jobs import lines
from tests.support.serving import serving

MAX_LENGTH, WINDOWS = 40, 3
LATE = 1e9


@pytest.fixture(scope="module")
def words(reranker):
    """Words of one token."""
    found = [word for word in dict.fromkeys(" ".join(tiny.texts()).lower().split()) if word.isalpha()]
    return [word for word, length in zip(found, reranker.tokenizer.encode("", found).lengths.tolist(), strict=True) if length == 4]


@pytest.fixture(scope="module")
def room(cut):
    """Tokens of a document that a pair of QUERY has room for."""
    return MAX_LENGTH - cut.tokenizer.overhead(QUERY)


@pytest.fixture(scope="module")
def documents(words, room):
    """Documents of words in random order: short ones, some that just fit or just do not, and longer ones than the windows reach."""
    random = np.random.default_rng(5)
    most = reach(room, WINDOWS)
    lengths = [3, room - 1, room, room + 1, 2 * room, most - 1, most, most + 1, 3 * most, *random.integers(1, 2 * most, 30)]
    return ["", *(" ".join(random.choice(words, length)) for length in lengths)]


@pytest.fixture(scope="module")
def windowed(artifact):
    with Reranker.load(artifact, settings=Settings(windows=WINDOWS, max_length=MAX_LENGTH)) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def cut(artifact):
    with Reranker.load(artifact, settings=Settings(max_length=MAX_LENGTH)) as loaded:
        yield loaded


def texts_of(document, room):
    """The text of each window that is read."""
    parts = document.split()
    return [" ".join(parts[start:end]) for start, end in spans(min(len(parts), reach(room, WINDOWS)), room)]


def each_window(reranker, documents, room):
    """Of each document, the logits of its windows' texts, each ranked as a document of its own."""
    return [reranker.logits(QUERY, texts_of(document, room)).tolist() for document in documents]


def test_a_documents_logit_is_that_of_its_best_window_to_the_bit(windowed, cut, documents, room):
    expected = each_window(cut, documents, room)
    assert {len(found) for found in expected} == {1, 2, 3}
    best = [max(found) for found in expected]
    assert sum(max(found) != found[0] for found in expected) > 5
    scored = windowed.submit(QUERY, documents).result()
    assert scored.logits.tolist() == best
    assert scored.windows.tolist() == [len(found) for found in expected]
    assert scored.window.tolist() == [found.index(max(found)) for found in expected]
    whole = np.array([len(document.split()) for document in documents])
    read = np.minimum(whole, reach(room, WINDOWS))
    assert scored.tokens_cut.tolist() == (whole - read).tolist()
    assert scored.lengths.tolist() == (read + MAX_LENGTH - room).tolist()
    assert scored.outputs[:, 0].tolist() == best


def test_every_method_ranks_by_the_best_window(windowed, documents):
    scored = windowed.submit(QUERY, documents).result()
    ranking = Ranking.of(documents, scored)
    assert [result.logit for result in ranking] == sorted(scored.logits.tolist(), reverse=True)
    assert [(scored.windows[each.index], scored.window[each.index]) for each in ranking] == [
        (each.windows, each.window) for each in ranking
    ]
    assert ranking.windowed
    assert type(ranking[0].windows) is type(ranking[0].window) is int
    assert windowed.rerank(QUERY, documents) == ranking
    assert windowed.rerank(QUERY, documents, budget_ms=LATE) == ranking
    assert windowed.rerank_many([QUERY] * 2, [documents, documents[:3]], top_k=3) == [
        windowed.rerank(QUERY, pool, top_k=3) for pool in (documents, documents[:3])
    ]
    assert windowed.logits(QUERY, documents).tolist() == scored.logits.tolist()
    assert windowed.score_pairs([(QUERY, document) for document in documents]).tolist() == scored.scores.tolist()
    assert [found for _, found in rerank_pools(windowed, [CandidatePool(QUERY, documents)])] == [ranking]
    assert pickle.loads(pickle.dumps(windowed)).rerank(QUERY, documents) == ranking

    async def asked():
        encoded = await windowed.aencode(QUERY, documents)
        assert encoded.tokens > int(encoded.lengths.sum())
        assert encoded.lengths.tolist() == scored.lengths.tolist()
        later = await asyncio.wrap_future(windowed.submit_encoded(encoded))
        return await windowed.arerank(QUERY, documents), Ranking.of(documents, later)

    assert asyncio.run(asked()) == (ranking, ranking)


def test_equal_documents_are_read_once_and_share_their_windows(windowed, documents, room):
    ranking = windowed.rerank(QUERY, [documents[5]] * 3)
    assert {(each.logit, each.windows, each.window) for each in ranking} == {
        (each.logit, each.windows, each.window) for each in windowed.rerank(QUERY, [documents[5]])
    }


def test_off_by_default_and_one_window_is_the_same(artifact, cut, documents):
    expected = cut.rerank(QUERY, documents)
    assert {(each.windows, each.window) for each in expected} == {(1, 0)}
    assert not expected.windowed
    assert cut.submit(QUERY, documents).result().windows is None
    with Reranker.load(artifact, settings=Settings(max_length=MAX_LENGTH, windows=1)) as one:
        assert one.rerank(QUERY, documents) == expected


def test_documents_that_fit_are_not_touched(windowed, cut, documents, room):
    short = [document for document in documents if len(document.split()) <= room]
    expected = [asdict(each) for each in cut.rerank(QUERY, short)]
    assert [asdict(each) for each in windowed.rerank(QUERY, short)] == expected
    assert windowed.rerank(QUERY, []).results == ()
    assert windowed.submit(QUERY, []).result().logits.tolist() == []


def test_a_limit_of_a_documents_tokens_comes_before_its_windows(windowed, documents, room):
    limit = room + 5
    encoded = asyncio.run(windowed.aencode(QUERY, documents, document_tokens=limit))
    found = windowed.submit_encoded(encoded).result()
    kept = [" ".join(document.split()[:limit]) for document in documents]
    assert found.logits.tolist() == windowed.logits(QUERY, kept).tolist()
    assert found.windows.max() == 2


def test_a_document_of_50_megabytes_is_read(windowed, words):
    [found] = windowed.rerank(QUERY, [f"{words[0]} {words[1]} " * (50_000_000 // (len(words[0]) + len(words[1]) + 2) + 1)])
    assert (found.windows, found.tokens_cut_at_least) == (WINDOWS, True)
    assert found.tokens_cut > 1000


@pytest.fixture(scope="module")
def both(planned_artifact):
    """A Reranker with a first look that reads in windows, and one that does not."""
    length = Settings(max_length=MAX_LENGTH)
    with (
        Reranker.load(planned_artifact, settings=Settings(max_length=MAX_LENGTH, windows=WINDOWS)) as windowed,
        Reranker.load(planned_artifact, settings=length) as cut,
    ):
        yield windowed, cut


@pytest.mark.parametrize("keep", [1, 7, 0.25])
def test_a_plan_keeps_documents_by_the_best_window_and_reads_all_windows_of_those(both, documents, room, keep):
    windowed, cut = both
    look = [cut.submit(QUERY, texts_of(document, room), plan="first-look").result().logits.tolist() for document in documents]
    full = each_window(cut, documents, room)
    first = sorted(range(len(documents)), key=lambda index: (-max(look[index]), index))
    size = keep if isinstance(keep, int) else 10
    kept = sorted(first[:size], key=lambda index: (-max(full[index]), index))
    ranking = windowed.rerank(QUERY, documents, plan=f"first-look:{keep},full")
    assert len(documents) == 40
    assert [each.index for each in ranking] == [*kept, *first[size:]]
    assert [each.scored_by for each in ranking] == ["full"] * size + ["first-look"] * (40 - size)
    assert [each.logit for each in ranking] == [
        *(max(full[index]) for index in kept),
        *(max(look[index]) for index in first[size:]),
    ]
    assert [each.windows for each in ranking] == [len(full[each.index]) for each in ranking]
    assert all(each.score is not None for each in ranking[:size])


def test_a_deadline_that_has_passed_leaves_documents_in_the_order_given(artifact, gate, documents):
    opened, begun, _ = gate
    with Reranker.load(artifact, settings=Settings(windows=WINDOWS, max_length=MAX_LENGTH, threads=1)) as busy:
        blocking = busy.submit("a", ["b"])
        assert begun.wait(60)
        ranking = busy.rerank(QUERY, documents, budget_ms=50)
        assert [each.index for each in ranking] == list(range(len(documents)))
        assert {(each.logit, each.scored_by, each.windows) for each in ranking} == {(None, None, 0)}
        opened.set()
        blocking.result()
        assert busy.queued.rows == 0


@pytest.mark.parametrize("value", [0, -1, 65, 1 << 40])
def test_a_number_of_windows_out_of_range_is_refused(value):
    with pytest.raises(InputError, match=rf"Settings\.windows is {value}; expected 1 to 64, or 'auto'"):
        Settings(windows=value)


@pytest.mark.parametrize("value", ["3", 2.0, True, None])
def test_a_number_of_windows_that_is_no_int_is_refused(value):
    with pytest.raises(TypeError, match=r"Settings\.windows is .*; expected an int or 'auto'"):
        Settings(windows=value)


def test_windows_are_for_pairs_whose_query_is_never_cut():
    with pytest.raises(
        InputError, match=r"Settings\.windows is 2 but Settings\.truncation is 'longest_first', which may cut the query"
    ):
        Settings(windows=2, truncation="longest_first")
    for windows in (1, "auto"):
        assert Settings(windows=windows, truncation="longest_first").windows == windows


def test_the_command_line_takes_windows_and_json_says_which_counted(artifact, file, windowed, cut, documents):
    pool = [document for document in documents if document]
    given = "".join(f"{document}\n" for document in pool).encode()
    length = ("--model", artifact, "--max-length", MAX_LENGTH)
    by_option = answered(resift("rerank", QUERY, *length, "--windows", WINDOWS, "--json", given=given))
    found = [(each["index"], each["logit"], each["windows"], each["window"]) for each in json.loads(by_option)["results"]]
    assert found == [(each.index, each.logit, each.windows, each.window) for each in windowed.rerank(QUERY, pool)]
    settings = file(f"[settings]\nwindows = {WINDOWS}\nmax_length = {MAX_LENGTH}\n".encode(), "s.toml")
    assert Settings.read(settings) == windowed.settings
    assert answered(resift("rerank", QUERY, "--model", artifact, "--settings", settings, "--json", given=given)) == by_option
    off = answered(resift("rerank", QUERY, *length, "--json", given=given))
    assert answered(resift("rerank", QUERY, *length, "--settings", settings, "--windows", 1, "--json", given=given)) == off
    plain = json.loads(off)["results"]
    assert {tuple(each) for each in plain} == {("index", "score", "logit", "scored_by", "tokens_cut", "document")}
    assert [each["logit"] for each in plain] == [each.logit for each in cut.rerank(QUERY, pool)]
    refused = resift("rerank", QUERY, "--windows", 65, given=LINES)
    assert refused.code == 2
    assert "argument --windows: expected a whole number from 1 to 64; found '65'" in refused.err


def test_a_job_writes_windows_and_resumes_with_the_same_number_only(windowed, cut, documents, tmp_path):
    source, out = tmp_path / "pools.jsonl", tmp_path / "out.jsonl"
    whole = lines([{"qid": f"q{number}", "query": QUERY, "documents": documents} for number in range(3)])
    job = Job(source=str(source), out=out)
    source.write_bytes(whole + b"bad\n")
    with pytest.raises(InputError, match="line 4"):
        rerank_file(windowed, job)
    source.write_bytes(whole)
    with pytest.raises(OutputError, match=r"another job \(windows was 3, now None\)"):
        rerank_file(cut, job)
    rerank_file(windowed, job)
    expected = windowed.rerank(QUERY, documents)
    for line in out.read_bytes().splitlines():
        found = [(each["logit"], each["windows"], each["window"]) for each in json.loads(line)["results"]]
        assert found == [(each.logit, each.windows, each.window) for each in expected]
    rerank_file(cut, job, overwrite=True)
    assert b'"window' not in out.read_bytes()


def test_a_candidates_own_field_of_that_name_is_kept():
    ranking = CandidatePool(QUERY, ["a"], fields=[{"window": "left"}])
    count = np.ones(1, np.int32)
    for columns, expected in (
        ({}, {"window": "left"}),
        ({"windows": count, "window": count}, {"given_window": "left", "window": 1}),
    ):
        [found] = ranking.ranked(Ranking.of(["a"], columns_of([1.0], **columns)))["results"]
        assert expected.items() <= found.items()


def test_the_server_answers_by_the_best_window_and_admits_by_all_of_them(windowed, documents, room):
    long, longer = documents[5], documents[9]
    tokens = asyncio.run(windowed.aencode(QUERY, [long])).tokens
    assert tokens == 3 * MAX_LENGTH
    with serving({"tiny": windowed}, max_request_tokens=tokens) as served:
        body = {"query": QUERY, "texts": [long], "raw_scores": True, "truncate": False}
        [found] = served.post("/rerank", body).json()
        assert found["score"] == windowed.rerank(QUERY, [long])[0].logit
        cut = served.post("/rerank", body | {"texts": [longer]})  # what no window reads
        assert cut.status_code == 413
        assert cut.json()["error"].endswith(f" Given: {3 * reach(room, WINDOWS) + MAX_LENGTH - room}")
        more = served.post("/rerank", body | {"texts": [long, "a"]})
        assert more.status_code == 413
        assert f"expected at most {tokens}" in more.json()["error"]
        capped = {"query": QUERY, "documents": [long, "a"], "max_tokens_per_doc": room}
        assert served.post("/v2/rerank", capped).status_code == 200
