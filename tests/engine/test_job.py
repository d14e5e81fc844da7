from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sysconfig
import time
from pathlib import Path

import pytest

import tiny
from resift import InputError, OutputError, Reranker
from resift.job import Job, rerank_file

TEXTS = tiny.texts()


def rows(count: int) -> list[dict]:
    """Pools of 0 to 4 candidates with a field of their own each."""
    return [
        {
            "qid": f"q{number}",
            "query": TEXTS[number % 40],
            "candidates": [
                {"docid": f"d{number}-{place}", "text": TEXTS[(number * 7 + place) % len(TEXTS)][:60], "bm25": place / 2}
                for place in range(number % 5)
            ],
        }
        for number in range(count)
    ]


def lines(pools: list[dict]) -> bytes:
    return b"".join(json.dumps(pool).encode() + b"\n" for pool in pools)


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


@pytest.mark.parametrize("form", ["jsonl", "trec"])
def test_it_resumes_from_any_byte(reranker, source, form):
    whole = job(source, f"whole.{form}", format=form, top_k=3)
    rerank_file(reranker, whole)
    expected = whole.out.read_bytes()
    for cut in sorted({0, 1, *range(7, len(expected), len(expected) // 9), len(expected) - 1, len(expected)}):
        part = job(source, f"part-{cut}.{form}", format=form, top_k=3)
        part.beside(".partial").write_bytes(expected[:cut])
        rerank_file(reranker, part)
        assert part.out.read_bytes() == expected


def test_a_bad_line_stops_behind_everything_before_it_and_the_mended_file_goes_on(reranker, source, monkeypatch):
    good = rows(40)
    source.write_bytes(lines(good[:25]) + b'{"query": "no documents"}\n' + lines(good[26:]))
    with pytest.raises(InputError, match=r"pools\.jsonl, line 26: expected either 'documents' or 'candidates'"):
        rerank_file(reranker, job(source))
    assert not (source.parent / "out.jsonl").exists()
    assert len((source.parent / "out.jsonl.partial").read_bytes().splitlines()) == 25
    source.write_bytes(lines(good))
    asked = []
    inner = Reranker.rerank_many
    monkeypatch.setattr(
        Reranker, "rerank_many", lambda self, queries, *a, **k: asked.extend(queries) or inner(self, queries, *a, **k)
    )
    rerank_file(reranker, job(source))
    assert len(asked) == 15
    assert len((source.parent / "out.jsonl").read_bytes().splitlines()) == 40


def test_skipped_lines_are_told_once_however_often_it_resumes(reranker, source):
    good = rows(6)
    bad = [b"not json\n", b'{"query": 7, "documents": []}\n', b"\xff\xfe\n"]
    source.write_bytes(lines(good[:2]) + bad[0] + lines(good[2:4]) + bad[1] + bad[2] + lines(good[4:]))
    skipping = job(source, on_error="skip")
    assert rerank_file(reranker, skipping) == 3
    found = [json.loads(line) for line in skipping.beside(".errors.jsonl").read_text().splitlines()]
    assert [row["line"] for row in found] == [3, 6, 7]
    assert "not JSON" in found[0]["reason"]
    assert found[0]["content"] == "not json"
    first = skipping.out.read_bytes()
    skipping.out.rename(skipping.beside(".partial"))
    skipping.beside(".partial").write_bytes(first[: len(first) // 2])
    assert rerank_file(reranker, skipping) == 3
    assert skipping.out.read_bytes() == first
    assert len(skipping.beside(".errors.jsonl").read_text().splitlines()) == 3


def test_an_existing_file_is_kept_unless_told(reranker, source):
    (source.parent / "out.jsonl").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        rerank_file(reranker, job(source))
    assert (source.parent / "out.jsonl").read_text() == "mine"
    rerank_file(reranker, job(source), overwrite=True)
    assert len((source.parent / "out.jsonl").read_text().splitlines()) == 40


def test_another_jobs_partial_file_is_not_continued(reranker, source):
    source.write_bytes(lines(rows(5)) + b"bad\n")
    with pytest.raises(InputError):
        rerank_file(reranker, job(source))
    with pytest.raises(OutputError, match=r"begun by another job \(top_k was None, now 2\)"):
        rerank_file(reranker, job(source, top_k=2))


def test_a_changed_input_is_noticed(reranker, source):
    source.write_bytes(lines(rows(5)) + b"bad\n")
    with pytest.raises(InputError):
        rerank_file(reranker, job(source))
    source.write_bytes(lines(rows(9)[3:]))
    with pytest.raises(OutputError, match="the input has changed"):
        rerank_file(reranker, job(source))
    source.write_bytes(lines(rows(2)))
    with pytest.raises(OutputError, match="holds more pools"):
        rerank_file(reranker, job(source))


def test_a_full_disk_keeps_what_is_done_and_says_how_to_go_on(reranker):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OutputError, match="cannot write"):
        rerank_file(reranker, Job(source="/dev/null", out=Path("/dev/full/out.jsonl")))


def resift(*arguments, **more) -> subprocess.Popen:
    script = Path(sysconfig.get_path("scripts")) / "resift"
    return subprocess.Popen([str(script), *map(str, arguments)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, **more)


def test_killed_processes_lose_and_repeat_nothing(artifact, reranker, tmp_path):
    source = tmp_path / "pools.jsonl"
    source.write_bytes(lines(rows(4000)))
    rerank_file(reranker, job(source, "expected.jsonl"))
    command = ["rerank", "--pools", source, "--out", tmp_path / "out.jsonl", "--model", artifact]
    partial, sizes = tmp_path / "out.jsonl.partial", [0]
    for _ in range(2):
        process = resift(*command)
        deadline = time.monotonic() + 120
        while process.poll() is None and not (partial.exists() and partial.stat().st_size > sizes[-1]):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        sizes.append(partial.stat().st_size)
    assert not (tmp_path / "out.jsonl").exists()
    process = resift(*command)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "expected.jsonl").read_bytes()


def test_a_second_process_at_the_same_file_is_refused(artifact, tmp_path):
    command = ["rerank", "--pools", "-", "--out", tmp_path / "out.jsonl", "--model", artifact]
    first = resift(*command, stdin=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (tmp_path / "out.jsonl.errors.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)  # from opening the file to locking it
    second = resift(*command, stdin=subprocess.DEVNULL)
    _, said = second.communicate(timeout=120)
    assert second.returncode == 1
    assert b"another process is writing" in said
    _, said = first.communicate(lines(rows(3)), timeout=120)
    assert first.returncode == 0, said
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 3


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_keeps_what_is_done(artifact, tmp_path):
    command = ["rerank", "--pools", "-", "--out", tmp_path / "out.jsonl", "--model", artifact]
    process = resift(*command, stdin=subprocess.PIPE)
    process.stdin.write(lines(rows(400)))
    process.stdin.flush()
    deadline = time.monotonic() + 120
    partial = tmp_path / "out.jsonl.partial"
    while not (partial.exists() and partial.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said.endswith(b"resift: interrupted\n")
    assert not (tmp_path / "out.jsonl").exists()
    assert all(json.loads(line) for line in partial.read_bytes().splitlines())
