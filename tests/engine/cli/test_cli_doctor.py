"""`resift doctor POOLS`."""

from __future__ import annotations

import gzip
import json

import pytest

from tests.support.commands import answered, complaint, resift

WORDS = "moon tide water harbour boat light earth coast"


def row(*documents, qid="q", labels=()):
    candidates = [{"docid": f"d{place}", "text": text} for place, text in enumerate(documents)]
    for candidate, label in zip(candidates, labels, strict=False):
        candidate["label"] = label
    return json.dumps({"qid": qid, "query": "how do tides work", "candidates": candidates}).encode() + b"\n"


FINE = row(*(f"{WORDS} {place}" for place in range(12)))
SINGLE = row(WORDS)


@pytest.fixture
def doctor(artifact):
    return lambda *arguments, **options: resift("doctor", *arguments, "--model", artifact, **options)


def test_findings_are_listed_with_their_advice(doctor, file):
    path = file(SINGLE * 3, "pools.jsonl")
    lines = answered(doctor(path)).splitlines()
    assert lines[0] == f"{path}: 3 pools, 3 pairs"
    place = lines.index("problem: few-candidates")
    assert lines[place + 1].startswith("  half of the pools have 1 candidates or fewer, and 3 have fewer than two")
    assert lines[place + 2].startswith("  advice: ask the retriever for more candidates")


def test_json_holds_the_same_findings(doctor, file):
    found = json.loads(answered(doctor(file(SINGLE * 3, "pools.jsonl"), "--json")))
    assert {name: found[name] for name in ("pools", "pairs", "precision")} == {"pools": 3, "pairs": 3, "precision": "int8"}
    assert found["data"].endswith("pools.jsonl")
    assert {"name", "severity", "value", "words", "advice"} == found["findings"][0].keys()
    assert "few-candidates" in [finding["name"] for finding in found["findings"]]


@pytest.mark.parametrize(("option", "code"), [((), 0), (("--strict",), 3)])
def test_a_problem_fails_only_a_strict_run(doctor, file, option, code):
    done = doctor(file(SINGLE, "pools.jsonl"), *option)
    assert (done.code, done.err) == (code, "")
    assert "problem: few-candidates" in done.out


def test_strict_tolerates_warnings(doctor, file):
    done = doctor(file(row(*(f"{WORDS} {place % 8}" for place in range(10))), "pools.jsonl"), "--strict")
    assert "warning: duplicates" in done.out
    assert "problem:" not in done.out
    assert done.code == 0


def test_only_the_first_pools_are_examined(doctor, file):
    path = file(FINE + SINGLE * 4, "pools.jsonl")
    assert answered(doctor(path, "--limit", 1)).splitlines()[0] == f"{path}: the first 1 pools, 12 pairs"
    assert answered(doctor(path, "--limit", 5)).splitlines()[0] == f"{path}: 5 pools, 16 pairs"


def test_lines_behind_the_limit_are_not_read(doctor, file):
    path = file(FINE * 2 + b"not JSON\n", "pools.jsonl")
    assert answered(doctor(path, "--limit", 1))
    assert "line 3: not JSON" in complaint(doctor(path, "--limit", 2))


def test_judgements_next_to_the_pools_are_read(doctor, file):
    judged = file(b"q 0 d0 0\nq 0 elsewhere 1\n", "some.qrels")
    out = answered(doctor(file(gzip.compress(FINE), "some.part.jsonl.gz")))
    assert f"judged by {judged}" in out
    assert "recall-ceiling" in out


def test_judgements_can_be_named(doctor, file):
    file(b"q 0 d0 1\n", "pools.qrels")
    other = file(b"q\t0\telsewhere\t2\n", "other.txt")
    assert "recall-ceiling" in answered(doctor(file(FINE, "pools.jsonl"), "--qrels", other))


def test_pools_come_from_standard_input(doctor):
    assert answered(doctor("-", given=FINE)).startswith("-: 1 pools, 12 pairs\n")


def test_judgements_that_cannot_be_read(doctor, file):
    judged = file(b"q 0 d0 1\nq 0 d1 high\n", "pools.qrels")
    assert f"{judged}, line 2: " in complaint(doctor(file(FINE, "pools.jsonl")))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds 0 pools and no candidates"),
        (b"\n \n", "holds 0 pools and no candidates"),
        (row() * 2, "holds 2 pools and no candidates"),
        (row("text", labels=["high"]), "candidates[0]: 'label' is a string, 'high'; expected an integer"),
        (
            row("text", labels=[2**63]),
            "candidates[0]: the label is 9223372036854775808; expected a relevance grade of at most 1000000",
        ),
        (b'{"query": 1, "documents": []}', "line 1: 'query' is a number"),
    ],
    ids=["empty", "blank", "no candidates", "a label as text", "a label of 64 bits", "no pool"],
)
def test_pools_that_cannot_be_examined(doctor, file, content, said):
    assert said in complaint(doctor(file(content, "pools.jsonl")))
