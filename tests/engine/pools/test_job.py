from __future__ import annotations

import gzip
import json
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from resift import InputError
from resift.pools.collection import rerank_pools
from resift.pools.job import Job, rerank_file
from tests.support import children
from tests.support.commands import RESIFT, complaint, running, without_progress
from tests.support.commands import resift as answer
from tests.support.jobs import lines, rows

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "pools.jsonl"
    path.write_bytes(lines(rows(40)))
    return path


def job(source: Path, name: str = "out.jsonl", **more) -> Job:
    return Job(source=str(source), out=source.parent / name, **more)


def left_over(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_ranked_line_by_line(reranker, source):
    assert rerank_file(reranker, job(source)) == 0
    found = [json.loads(line) for line in (source.parent / "out.jsonl").read_text().splitlines()]
    assert [row["qid"] for row in found] == [f"q{number}" for number in range(40)]
    for row, given in zip(found, rows(40), strict=True):
        texts = [item["text"] for item in given["candidates"]]
        ranking = reranker.rerank(given["query"], texts)
        assert [(item["index"], item["logit"]) for item in row["results"]] == [(item.index, item.logit) for item in ranking]
        assert all(item["docid"] == given["candidates"][item["index"]]["docid"] for item in row["results"])
        assert all(item["bm25"] == item["index"] % 5 / 2 for item in row["results"])
    assert left_over(source.parent) == {"pools.jsonl", "out.jsonl"}


def test_half_a_surrogate_pair_is_scored_as_in_the_library(reranker, source):
    query, texts = "tides \ud83d", ["the moon \ude00", "a \ud83d\ud83d\ude00", "the sea"]
    plain = {"query": query, "documents": texts}
    with_fields = {"query": query, "candidates": [{"text": text, "note": text} for text in texts]}
    source.write_text(f"{json.dumps(plain)}\n{json.dumps(with_fields)}\n")
    assert rerank_file(reranker, job(source)) == 0
    expected = [(result.index, result.logit) for result in reranker.rerank(query, texts)]
    for line in (source.parent / "out.jsonl").read_text().splitlines():
        assert [(item["index"], item["logit"]) for item in json.loads(line)["results"]] == expected


def test_gzip_in_and_out(reranker, source):
    packed = source.with_name("pools.jsonl.gz")
    packed.write_bytes(gzip.compress(source.read_bytes()))
    rerank_file(reranker, job(source))
    rerank_file(reranker, job(packed, "packed.jsonl.gz"))
    assert gzip.decompress((source.parent / "packed.jsonl.gz").read_bytes()) == (source.parent / "out.jsonl").read_bytes()


def test_trec_lines_rank_from_one(reranker, source):
    rerank_file(reranker, job(source, "run.trec", format="trec", top_k=2))
    found = [line.split() for line in (source.parent / "run.trec").read_text().splitlines()]
    assert [(line[0], line[3]) for line in found[:3]] == [("q1", "1"), ("q2", "1"), ("q2", "2")]
    assert all(line[1] == "Q0" and line[5] == "resift" and line[2].startswith("d") for line in found)


def test_trec_without_ids_is_refused_with_the_line(reranker, source):
    source.write_bytes(lines(rows(3)) + b'{"query": "a", "documents": ["b"]}\n')
    with pytest.raises(InputError, match=r"pools\.jsonl, line 4: a TREC run needs a 'qid'"):
        rerank_file(reranker, job(source, "run.trec", format="trec"))


def test_max_candidates_leaves_out_the_rest(reranker, source):
    rerank_file(reranker, job(source, max_candidates=1))
    found = [json.loads(line) for line in (source.parent / "out.jsonl").read_text().splitlines()]
    assert {len(row["results"]) for row in found} == {0, 1}
    assert {item["index"] for row in found for item in row["results"]} == {0}


def test_a_bad_line_stops_behind_everything_before_it_and_the_mended_file_goes_on(reranker, source, monkeypatch):
    good = rows(40)
    source.write_bytes(lines(good[:25]) + b'{"query": "no documents"}\n' + lines(good[26:]))
    with pytest.raises(InputError, match=r"pools\.jsonl, line 26: expected either 'documents' or 'candidates'"):
        rerank_file(reranker, job(source))
    assert not (source.parent / "out.jsonl").exists()
    assert len((source.parent / "out.jsonl.partial").read_bytes().splitlines()) == 25
    source.write_bytes(lines(good))
    ranked = []

    def noting(reranker, pools, **more):
        for pool, ranking in rerank_pools(reranker, pools, **more):
            ranked.append(pool.qid)
            yield pool, ranking

    monkeypatch.setattr("resift.pools.job.rerank_pools", noting)
    rerank_file(reranker, job(source))
    assert ranked == [f"q{number}" for number in range(25, 40)]
    assert len((source.parent / "out.jsonl").read_bytes().splitlines()) == 40


def test_skipped_lines_are_told_once_however_often_it_resumes(reranker, source):
    good = rows(6)
    bad = [b"not json\n", b'{"query": 7, "documents": []}\n', b"\xff\xfe\n"]
    skipped = lines(good[:2]) + bad[0] + lines(good[2:4]) + bad[1] + bad[2]
    packed = source.with_name("pools.jsonl.gz")
    whole = gzip.compress(skipped + lines(good[4:]))
    skipping = job(packed, on_error="skip")
    for _ in range(2):
        packed.write_bytes(whole[:-1])
        with pytest.raises(InputError, match="cannot be read"):
            rerank_file(reranker, skipping)
    packed.write_bytes(whole)
    assert rerank_file(reranker, skipping) == 3
    found = [json.loads(line) for line in skipping.errors.read_text().splitlines()]
    assert [row["line"] for row in found] == [3, 6, 7]
    assert "not JSON" in found[0]["reason"]
    assert found[0]["content"] == "not json"
    assert len(skipping.out.read_bytes().splitlines()) == 6


BEHIND = 1200
"""Pools that are fed to a process before it is stopped: many more than a pipe and what is read ahead hold, so that the process
has read and written pools when the last of them is in the pipe."""


def fed(process, content):
    process.stdin.write(content)
    process.stdin.flush()


@pytest.fixture
def command(artifact, tmp_path):
    return ["rerank", "--pools", "-", "--out", tmp_path / "out.jsonl", "--model", artifact]


@pytest.fixture
def expected(reranker, source):
    """expected(count): OUT of so many pools."""

    def find(count):
        source.write_bytes(lines(rows(count)))
        rerank_file(reranker, job(source, "expected.jsonl"), overwrite=True)
        return source.with_name("expected.jsonl").read_bytes()

    return find


@pytest.mark.slow
def test_killed_processes_lose_and_repeat_nothing(command, tmp_path, expected):
    end, sizes = expected(4 * BEHIND), [0]
    for turn, number in enumerate([signal.SIGKILL, signal.SIGTERM, signal.SIGKILL], 1):
        with running(*command) as process:
            fed(process, lines(rows(turn * BEHIND)))
            process.send_signal(number)
            assert process.wait() == -number
        sizes.append((tmp_path / "out.jsonl.partial").stat().st_size)
    assert sizes == sorted(set(sizes))
    assert not (tmp_path / "out.jsonl").exists()
    done = answer(*command, given=lines(rows(4 * BEHIND)))
    assert done.code == 0, done.err
    assert (tmp_path / "out.jsonl").read_bytes() == end
    assert left_over(tmp_path) == {"pools.jsonl", "expected.jsonl", "out.jsonl"}


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_keeps_what_is_done(command, tmp_path, expected):
    end = expected(BEHIND)
    with running(*command) as process:
        fed(process, lines(rows(BEHIND)))
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert without_progress(process.stderr.read()) == b"resift: interrupted\n"
    assert not (tmp_path / "out.jsonl").exists()
    assert (tmp_path / "out.jsonl.partial").stat().st_size
    assert answer(*command, given=lines(rows(BEHIND))).code == 0
    assert (tmp_path / "out.jsonl").read_bytes() == end


@pytest.mark.parametrize("more", [[], ["--overwrite"]], ids=["anew", "overwrite"])
def test_a_second_process_at_the_same_file_takes_nothing_from_the_first(command, tmp_path, expected, more):
    end = expected(BEHIND + 9)
    with running(*command) as first:
        fed(first, lines(rows(BEHIND)))
        assert "another process is writing" in complaint(answer(*command, *more, given=lines(rows(3))))
        _, said = first.communicate(lines(rows(BEHIND + 9)[BEHIND:]))
        assert (first.returncode, without_progress(said)) == (0, b"")
    assert (tmp_path / "out.jsonl").read_bytes() == end
    assert left_over(tmp_path) == {"pools.jsonl", "expected.jsonl", "out.jsonl"}


def test_what_cannot_be_is_refused_on_the_command_line(command, tmp_path):
    before = left_over(tmp_path)
    for more, match in [
        (["--out", "/"], "OUT is /, a folder"),
        (["--model", tmp_path / "none"], "none"),
        (["--pools", tmp_path / "none.jsonl"], "none.jsonl cannot be read"),
    ]:
        assert match in complaint(answer(*command, *more))
        assert left_over(tmp_path) == before
    assert answer(*command, "--top-k", "3", given=lines(rows(3))).code == 0


def test_a_full_disk_is_told_with_the_way_on(command, tmp_path, expected):
    """A limit on the size of files stands in for the disk."""
    end, given = expected(60), lines(rows(60))
    size = len(end) // 2
    limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
    code = f"import os, resource, sys; {limit}; os.execv(sys.argv[1], sys.argv[1:])"
    full = [sys.executable, "-c", code, RESIFT, *map(str, command)]
    done = children.run(full, input=given, capture_output=True)
    assert done.returncode == 1
    assert done.stderr.decode() == (
        f"resift: {tmp_path / 'out.jsonl.partial'} cannot be written: File too large; "
        "finished work is kept: fix this and run the same command again to resume\n"
    )
    assert answer(*command, given=given).code == 0
    assert (tmp_path / "out.jsonl").read_bytes() == end
