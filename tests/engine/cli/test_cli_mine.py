"""`resift mine` and `resift questions` as commands: from a folder of documents to training pairs, or one line that says why not."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from collections import Counter

import pytest

from resift.cli.main import main
from resift.pools.training_pairs import read_pairs
from resift.questions.endpoint import Budget
from tests.support import chat_server, children
from tests.support.chat_server import chatting, says
from tests.support.commands import running

DOCUMENTS = [
    {
        "docid": f"d{number}",
        "text": f"The {subject} of the sea is {subject} number {number}, and bread is bread. {'Word ' * number}",
    }
    for number, subject in enumerate(
        ("moon", "tide", "ebb", "flood", "wave", "salt", "sand", "wind", "reef", "gull", "crab", "kelp")
    )
]


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """run(*arguments): exit code, standard output and standard error of a command in the folder of the test."""
    monkeypatch.chdir(tmp_path)

    def of(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        found = capsys.readouterr()
        return code, found.out, found.err

    return of


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in DOCUMENTS))
    (tmp_path / "queries.jsonl").write_text(
        '{"qid": "q1", "query": "what is the moon of the sea", "docids": ["d0"]}\n{"query": "tide and sea", "docids": ["d1"]}\n'
    )
    return path


MINE = ("mine", "corpus.jsonl", "--queries", "queries.jsonl", "--out", "pairs.jsonl.gz")


def test_a_corpus_becomes_pairs_with_the_teachers_logits(run, corpus, artifact, tmp_path):
    code, out, err = run(*MINE, "--teacher", artifact, "--max-share", "1", "--negatives", "3", "--max-overlap", "1")
    assert (code, err) == (0, "")
    assert out.startswith("pairs.jsonl.gz: 2 queries with ")
    assert "documents  answers the query" in out
    pairs = list(read_pairs(tmp_path / "pairs.jsonl.gz"))
    assert [(each.qid, each.query) for each in pairs] == [("q1", "what is the moon of the sea"), (None, "tide and sea")]
    assert all(each.is_scored() for each in pairs)
    best = pairs[0].positive[0].score
    assert all(each.score <= best and each.docid != "d0" and 1 <= each.rank <= 100 for each in pairs[0].negative)
    content = (tmp_path / "pairs.jsonl.gz").read_bytes()
    again = run(*MINE, "--teacher", artifact, "--max-share", "1", "--negatives", "3", "--max-overlap", "1")
    assert "already exists" in again[2]
    run(*MINE, "--teacher", artifact, "--max-share", "1", "--negatives", "3", "--max-overlap", "1", "--overwrite", "--threads", "1")
    assert (tmp_path / "pairs.jsonl.gz").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "pairs.jsonl.gz", "queries.jsonl"]


def test_no_teacher_takes_candidates_unread_from_rank_ten(run, corpus, tmp_path):
    code, out, _ = run(*MINE, "--no-teacher", "--negatives", "2", "--max-overlap", "1", "--json")
    assert code == 0
    record = json.loads(out)
    assert (record["queries"], record["read_by_teacher"]) == (2, 0)
    found = list(read_pairs(tmp_path / "pairs.jsonl.gz"))
    assert all(each.score is None and each.rank >= 10 for pairs in found for each in pairs.negative)
    assert record["negatives"] == sum(len(pairs.negative) for pairs in found)


def test_the_sample_and_its_beir_folder_become_pairs(run, artifact, tmp_path):
    assert run("sample", "sample")[0] == 0
    options = ("--relevant-from", "2", "--teacher", artifact, "--max-share", "1", "--trust-labels")
    code, _, err = run("mine", "sample/pools.jsonl", "--out", "pools.jsonl", *options)
    assert (code, err) == (0, "")
    judged = {
        each["docid"]: each["label"]
        for pool in map(json.loads, (tmp_path / "sample/pools.jsonl").read_text(encoding="utf-8").splitlines())
        for each in pool["candidates"]
    }
    for pairs in read_pairs(tmp_path / "pools.jsonl"):
        assert {judged[each.docid] for each in pairs.positive} == {2}
        assert {judged[each.docid] for each in pairs.negative} <= {0}
    assert "no qrels/train.tsv" in run("mine", "sample/beir", "--out", "beir.jsonl")[2]
    assert run("mine", "sample/beir", "--split", "test", "--no-teacher", "--ranks", "1-50", "--out", "beir.jsonl", "--stem")[0] == 0
    code, _, err = run(
        "mine", "sample/beir", "--split", "test", "--run", "sample/run.trec", "--no-teacher", "--ranks", "1-50", "--out", "r.jsonl"
    )
    assert (code, err) == (0, "")
    for name in ("beir.jsonl", "r.jsonl"):
        assert all(pairs.negative for pairs in read_pairs(tmp_path / name))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--ranks", "500-600", "--no-teacher"), 1, "no query has a candidate at ranks 500-600"),
        (("--ranks", "3-5", "--no-teacher"), 2, "ranks 3-5 hold 3 documents, too few for 7 negatives"),
        (("--ranks", "9-3"), 2, "expected two rising ranks"),
        (("--ranks", "ten"), 2, "expected two rising ranks"),
        (("--max-share", "0"), 2, "a share above 0"),
        (("--margin", "nan"), 2, "a number of 0 or more"),
        (("--teacher", "x", "--no-teacher"), 2, "not allowed with"),
        (("--vectors", "a.npy", "b.npy", "--no-teacher"), 1, "a.npy cannot be read as vectors"),
        (("--qrels", "none.tsv"), 1, "none.tsv cannot be read"),
        (("--split", "train"), 1, "--split cannot be used"),
        (("--same-source", "file"), 1, "no document has a field 'file'"),
        (("--out", "corpus.jsonl", "--overwrite"), 1, "is also an input"),
        (("--out", "none/pairs.jsonl"), 1, "is not a folder"),
        (("--relevant-from", "0"), 2, "a whole number of 1 or more"),
    ],
)
def test_what_cannot_be_mined_is_one_line_and_nothing_is_written(run, corpus, tmp_path, arguments, code, message):
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    found, out, err = run(*MINE, *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_mining_leaves_pytorch_and_the_evaluation_out(corpus, tmp_path):
    code = (
        "import sys; from resift.cli.main import main; main(sys.argv[1:]);"
        "bad = {'torch', 'transformers', 'ir_measures', 'pytrec_eval', 'matplotlib', 'resift_export'} & set(sys.modules);"
        "assert not bad, bad"
    )
    command = [sys.executable, "-c", code, *MINE, "--no-teacher", "--ranks", "1-50"]
    children.run(command, check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)


# Questions


QUESTIONS = ("questions", "corpus.jsonl", "--out", "made.jsonl")


def test_documents_without_queries_become_pairs(run, corpus, tmp_path):
    code, out, err = run(*QUESTIONS, "--per-document", "2")
    assert (code, err) == (0, "")
    assert "keywords of their own sentences: no endpoint was named, and no question was invented" in out
    rows = [json.loads(line) for line in (tmp_path / "made.jsonl").read_text().splitlines()]
    assert Counter(row["method"] for row in rows) == {"extractive": len(rows)}
    code, _, err = run("mine", "corpus.jsonl", "--queries", "made.jsonl", "--out", "pairs.jsonl", "--no-teacher", "--ranks", "1-50")
    assert (code, err) == (0, "")
    assert {pairs.qid for pairs in read_pairs(tmp_path / "pairs.jsonl")} <= {row["qid"] for row in rows}


def test_an_endpoint_writes_questions_and_its_key_is_shown_nowhere(run, corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "top-secret\n")
    with chatting() as server:
        options = ("--endpoint", server.url, "--model", "tiny", "--key-variable", "MY_KEY")
        code, out, err = run(*QUESTIONS, *options, "--json")
        assert (code, err) == (0, "")
        assert {headers["Authorization"] for _, headers, _ in server.asked} == {"Bearer top-secret"}
    record = json.loads(out)
    assert (record["method"], record["requests"], record["remaining"]) == ("tiny", 12, 0)
    assert len((tmp_path / "made.jsonl").read_text().splitlines()) == record["queries"]
    assert b"secret" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "made.jsonl", "queries.jsonl"]


def test_a_spent_budget_says_how_to_go_on(run, corpus, tmp_path):
    with chatting() as server:
        options = ("--endpoint", server.url, "--model", "tiny", "--max-requests")
        code, _, err = run(*QUESTIONS, *options, "5")
        assert code == 0
        assert "5 requests is spent, and 7 documents were not asked about" in err
        assert len((tmp_path / "made.jsonl").read_text().splitlines()) == 5
        assert run(*QUESTIONS, *options, "50", "--overwrite")[0] == 0
        assert len(server.asked) == 12
    assert not (tmp_path / "made.jsonl.journal").exists()


def test_an_endpoint_in_trouble_is_one_line_and_what_it_said_is_kept(run, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(Budget, "wait", lambda self, seconds: None)
    with chatting() as server:
        fine = [chat_server.answers(f"What of {number}?") for number in range(4)]
        server.faults = [*fine, *[says(503, "down\x1b[2J")] * 99]
        options = ("--endpoint", server.url, "--model", "tiny", "--concurrency", "1", "--round-trip", "0")
        code, out, err = run(*QUESTIONS, *options)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "answered 503 (down\\x1b[2J), after 6 attempts; the same command goes on" in err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "made.jsonl.journal", "queries.jsonl"]
        server.faults = []
        assert run(*QUESTIONS, *options)[0] == 0
        assert len(server.asked) == 4 + 6 + 8


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--model", "x"), 2, "--model: only with --endpoint URL"),
        (("--endpoint", "http://127.0.0.1:9/v1"), 2, "also name the endpoint's model"),
        (("--endpoint", "http://127.0.0.1:9/v1", "--model", "x", "--key-variable", "NONE_SUCH"), 1, "'NONE_SUCH' is not set"),
        (("--endpoint", "127.0.0.1", "--model", "x"), 1, "is no URL of http or https"),
        (("--round-trip", "-1"), 2, "a whole number of 0 or more"),
        (("--per-document", "0"), 2, "a whole number from 1 to 100"),
        (("--out", "corpus.jsonl", "--overwrite"), 1, "is also an input"),
    ],
)
def test_questions_that_cannot_be_made_are_one_line(run, corpus, tmp_path, arguments, code, message):
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    found, out, err = run(*QUESTIONS, *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_a_killed_process_goes_on(run, corpus, tmp_path):
    journal = tmp_path / "made.jsonl.journal"
    with chatting(seconds=0.2) as server:
        options = ("--endpoint", server.url, "--model", "tiny", "--concurrency", "2", "--round-trip", "0")
        with running(*QUESTIONS, *options) as process:
            while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
                assert process.poll() is None, process.communicate()
                time.sleep(0.05)
            process.kill()
        done = journal.read_bytes().count(b"\n") - 1
        asked = len(server.asked)
        assert 3 <= done <= asked < 12
        assert run(*QUESTIONS, *options)[0] == 0
        assert len(server.asked) - asked == 12 - done
    assert len((tmp_path / "made.jsonl").read_text().splitlines()) == 12
    assert not journal.exists()


def test_texts_without_a_query_are_one_line(run, tmp_path):
    (tmp_path / "corpus.jsonl").write_text("short\n\nalso short\n")
    assert run(*QUESTIONS)[2] == "resift: corpus.jsonl: no query remains: 2 too short; expected longer texts, or --round-trip 0\n"
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_packed_corpora_and_queries_are_read(run, corpus, tmp_path):
    for name in ("corpus.jsonl", "queries.jsonl"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    assert (
        run("mine", "corpus.jsonl.gz", "--queries", "queries.jsonl.gz", "--out", "p.jsonl", "--no-teacher", "--ranks", "1-50")[0]
        == 0
    )


@pytest.mark.parametrize("command", ["mine", "questions"])
def test_help_fits_a_terminal(run, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(command, "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert f"  {command} " in run("--help")[1]
