"""What a job refuses before it touches anything."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from resift import Settings
from resift.errors import InputError, OutputError
from resift.pools.job import Job, rerank_file
from tests.support.jobs import RERANKER, files, lines, rerank_pools, rows


@pytest.fixture(autouse=True)
def _without_a_model(monkeypatch):
    monkeypatch.setattr("resift.pools.job.rerank_pools", rerank_pools)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "pools.jsonl"
    path.write_bytes(lines(rows(9)))
    return path


def job(source, name="out.jsonl", **more):
    return Job(source=str(source), out=source.parent / name, **more)


def begun(source, name="out.jsonl", **more):
    """A job that stopped at a bad tenth line."""
    whole = source.read_bytes()
    source.write_bytes(whole + b"bad\n")
    with pytest.raises(InputError, match="line 10: not JSON"):
        rerank_file(RERANKER, job(source, name, **more))
    source.write_bytes(whole)


def refused(source, match, name="out.jsonl", overwrite=(False, True), error=OutputError, **more):
    """It is refused with one line, and leaves every file as it was."""
    before = files(source.parent)
    for allowed in overwrite:
        with pytest.raises(error, match=match) as caught:
            rerank_file(RERANKER, job(source, name, **more), overwrite=allowed)
        assert len(str(caught.value).splitlines()) == 1
        assert files(source.parent) == before


@pytest.mark.parametrize("field", ["top_k", "max_candidates"])
@pytest.mark.parametrize("value", [0, -1, -(10**30)])
def test_counts_below_one_are_refused(source, field, value):
    refused(source, f"{field} is {value}; expected 1 or more", error=InputError, **{field: value})


@pytest.mark.parametrize(
    "field",
    [{"top_k": 1.0}, {"top_k": True}, {"max_candidates": "3"}, {"source": Path("pools")}, {"out": "out.jsonl"}],
    ids=str,
)
def test_fields_of_other_types_are_refused(field):
    with pytest.raises(TypeError, match="expected"):
        Job(**({"source": "pools.jsonl", "out": Path("out.jsonl")} | field))


@pytest.mark.parametrize(
    "field", [{"format": "csv"}, {"on_error": "ignore"}, {"out": Path("-")}, {"out": Path("a\0b")}, {"source": "a\0b"}], ids=str
)
def test_fields_that_cannot_be_are_refused(field):
    with pytest.raises(InputError, match="expected"):
        Job(**({"source": "pools.jsonl", "out": Path("out.jsonl")} | field))


@pytest.mark.parametrize("out", ["/", ".", "..", "folder", "folder/", "link-to-folder", "/dev/null", "pipe", "/dev/full", "loop"])
def test_an_out_that_is_no_regular_file_is_refused(source, monkeypatch, out):
    monkeypatch.chdir(source.parent)
    Path("folder").mkdir()
    Path("link-to-folder").symlink_to("folder")
    Path("loop").symlink_to("loop")
    os.mkfifo("pipe")
    refused(source, r"expected (a regular file or nothing|a file name)", name=out)
    assert not any(Path("folder").iterdir())


@pytest.mark.parametrize("parent", ["none/out.jsonl", "pools.jsonl/out.jsonl", "/dev/full/out.jsonl"])
def test_an_out_in_no_folder_is_refused(source, parent):
    refused(source, "choose another OUT", name=parent)


def test_an_out_without_a_folder_is_in_the_current_one(source, monkeypatch):
    monkeypatch.chdir(source.parent)
    assert rerank_file(RERANKER, Job(source="pools.jsonl", out=Path("out.jsonl"))) == 0
    assert set(files(source.parent)) == {"pools.jsonl", "out.jsonl"}


@pytest.mark.parametrize("how", ["name", "spelling", "symbolic link", "hard link", "link to the folder"])
@pytest.mark.parametrize("suffix", ["", ".partial", ".errors.jsonl", ".job.jsonl", ".packed", ".errors.partial"])
def test_the_input_is_never_written(source, suffix, how):
    names = source.with_name("out.jsonl" + suffix)
    asked = names
    if how == "name":
        source.rename(names)
    elif how == "spelling":
        source.rename(names)
        (source.parent / "sub").mkdir()
        asked = source.parent / "sub" / ".." / names.name
    elif how == "symbolic link":
        asked = source.with_name("other-name")
        source.rename(names)
        asked.symlink_to(names)
    elif how == "hard link":
        asked = source
        names.hardlink_to(source)
    else:
        source.rename(names)
        (source.parent / "same").symlink_to(".")
        asked = source.parent / "same" / names.name
    before = files(source.parent)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="is also its input"):
            rerank_file(RERANKER, Job(source=str(asked), out=source.with_name("out.jsonl")), overwrite=overwrite)
    assert files(source.parent) == before


def test_a_symbolic_link_stays_and_its_target_is_written(source):
    real = source.with_name("real.jsonl")
    link = source.with_name("link.jsonl")
    link.symlink_to("real.jsonl")
    rerank_file(RERANKER, job(source, "link.jsonl"))
    assert (link.is_symlink(), real.is_symlink()) == (True, False)
    rerank_file(RERANKER, job(source))
    expected = source.with_name("out.jsonl").read_bytes()
    assert real.read_bytes() == expected
    refused(source, "already exists", "link.jsonl", [False])
    real.write_text("old")
    rerank_file(RERANKER, job(source, "link.jsonl"), overwrite=True)
    assert (link.is_symlink(), real.read_bytes()) == (True, expected)
    assert set(files(source.parent)) == {"pools.jsonl", "real.jsonl", "link.jsonl", "out.jsonl"}


def test_a_hard_linked_out_is_replaced_under_its_own_name_only(source):
    (source.parent / "out.jsonl").write_text("old")
    (source.parent / "backup").hardlink_to(source.parent / "out.jsonl")
    rerank_file(RERANKER, job(source), overwrite=True)
    assert (source.parent / "backup").read_text() == "old"
    assert len((source.parent / "out.jsonl").read_bytes().splitlines()) == 9


@pytest.mark.parametrize("suffix", [".partial", ".job.jsonl"])
def test_a_hard_linked_work_file_is_not_written(source, suffix):
    begun(source)
    (source.parent / "backup").hardlink_to(source.parent / f"out.jsonl{suffix}")
    refused(source, "second name")


@pytest.mark.parametrize("length", [255, 250, 243])
def test_a_name_that_leaves_no_room_for_the_suffixes_is_refused(source, length):
    refused(source, "is too long for a file name", "o" * length)


@pytest.mark.parametrize(
    "name", ["line\nbreak.jsonl", "line\r\nbreak.gz", "o" * 240, os.fsdecode(b"\xff\xfe"), " ", "'\"", "-x", ".gz"]
)
def test_any_other_name_is_fine(source, name):
    source.write_bytes(source.read_bytes() + b"bad\n")
    bad = source.rename(source.with_name(name + "in"))
    assert rerank_file(RERANKER, job(bad, name, on_error="skip")) == 1
    assert set(files(bad.parent)) == {bad.name, name, f"{name}.errors.jsonl"}


MISSING = {
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "no gzip": lambda path: path.write_bytes(b"no gzip"),
    "a gzip cut short": lambda path: path.write_bytes(gzip.compress(b"{}" * 9)[:15]),
    "a bad first line": lambda path: path.write_bytes(gzip.compress(b"bad\n")),
}


@pytest.mark.parametrize("how", MISSING)
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_deleted_or_left_before_the_input_can_be_read(source, how, overwrite):
    packed = source.with_name("pools.jsonl.gz")
    packed.write_bytes(b"")
    MISSING[how](packed)
    before = files(source.parent)
    with pytest.raises(InputError):
        rerank_file(RERANKER, job(packed), overwrite=overwrite)
    assert files(source.parent) == before
    if overwrite:
        for name in ("out.jsonl", "out.jsonl.errors.jsonl"):
            (source.parent / name).write_bytes(b'{"line":1,"reason":"old","content":""}\n')
        before = files(source.parent)
        with pytest.raises(InputError):
            rerank_file(RERANKER, job(packed), overwrite=True)
        assert files(source.parent) == before
    assert rerank_file(RERANKER, job(source, top_k=1), overwrite=overwrite) == 0


@pytest.mark.parametrize("how", [how for how in MISSING if how != "a bad first line"])
def test_overwrite_keeps_what_another_job_has_done_until_the_input_can_be_read(source, how):
    begun(source)
    packed = source.with_name("pools.jsonl.gz")
    packed.write_bytes(b"")
    MISSING[how](packed)
    before = files(source.parent)
    with pytest.raises(InputError):
        rerank_file(RERANKER, job(packed, top_k=1), overwrite=True)
    assert files(source.parent) == before


FOREIGN = {
    "text": b"mine\n",
    "binary": bytes(range(256)),
    "JSON": b'{"model": "mine"}\n',
    "a list": b"[1, 2]\n",
    "UTF-16": "mine\n".encode("utf-16"),
    "a newer resift's": b'{"resift_job":2,"model":"x"}\n',
    "one long line": b"x" * (1 << 21),
    "no JSON behind the right beginning": b'{"resift_job":1,\xff}\n',
    "a long line behind the right beginning": b'{"resift_job":1,' + b" " * (1 << 21),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("suffix", [".job.jsonl", ".partial", ".packed", ".errors.partial", ".errors.jsonl"])
def test_a_file_of_somebody_else_is_refused_and_kept(source, suffix, content):
    source.with_name("out.jsonl" + suffix).write_bytes(content)
    refused(source, r"move it away|already exists|choose another OUT")


@pytest.mark.parametrize("suffix", [".job.jsonl", ".partial", ".packed", ".errors.partial", ".errors.jsonl"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "dangling link"])
def test_what_is_no_file_is_refused_and_kept(source, suffix, kind):
    path = source.with_name("out.jsonl" + suffix)
    mine = source.with_name("mine")
    if kind == "folder":
        path.mkdir()
        (path / "mine").write_text("mine")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("mine")
        if kind == "link":
            mine.write_text("mine")
    refused(source, "expected a regular file")
    assert path.is_symlink() == ("link" in kind)
    assert mine.exists() == (kind == "link")


def test_a_huge_foreign_file_is_not_read(source):
    for suffix in (".job.jsonl", ".partial", ".errors.jsonl"):
        path = source.with_name("out.jsonl" + suffix)
        with path.open("wb") as file:
            file.truncate(1 << 40)
        for overwrite in (False, True):
            with pytest.raises(OutputError):
                rerank_file(RERANKER, job(source), overwrite=overwrite)
        assert path.stat().st_size == 1 << 40
        path.unlink()


@pytest.mark.parametrize("content", [bytes(1 << 16), b'{"mine": 1}\n' * 999], ids=["zeros", "JSON Lines"])
def test_a_partial_file_that_was_replaced_is_kept(source, content):
    begun(source)
    source.with_name("out.jsonl.partial").write_bytes(content)
    refused(source, "does not hold what a job of this resift wrote", overwrite=[False])


def test_a_job_is_not_continued_with_other_options_of_the_provider(source):
    begun(source)
    settings = Settings(provider="openvino", provider_options={"device_type": "GPU"})
    other = SimpleNamespace(**vars(RERANKER) | {"settings": settings})
    with pytest.raises(OutputError, match=r"another job \(provider_options was None, now \{'device_type': 'GPU'\}\)"):
        rerank_file(other, job(source))


def test_another_jobs_partial_file_is_not_continued(source):
    begun(source)
    refused(source, r"started by another job \(top_k was None, now 2\)", overwrite=[False], top_k=2)
    rerank_file(RERANKER, job(source, top_k=2), overwrite=True)
    assert len((source.parent / "out.jsonl").read_bytes().splitlines()) == 9


CHANGES = {
    "a document's text": lambda pools: pools[7]["candidates"][1].update(text="other"),
    "a document's name": lambda pools: pools[7]["candidates"][1].update(docid="other"),
    "a field": lambda pools: pools[7]["candidates"][1].update(bm25=9),
    "a field's type": lambda pools: pools[7]["candidates"][0].update(bm25=False),
    "a new field": lambda pools: pools[7]["candidates"][1].update(more=None),
    "a document more": lambda pools: pools[7]["candidates"].append({"docid": "x", "text": "x"}),
    "a document fewer": lambda pools: pools[7]["candidates"].pop(),
    "the order of documents": lambda pools: pools[7]["candidates"].reverse(),
    "the query": lambda pools: pools[7].update(query="other"),
    "the qid": lambda pools: pools[7].update(qid="other"),
    "the qid's type": lambda pools: pools[7].update(qid=7),
    "no qid": lambda pools: pools[7].pop("qid"),
    "the order of pools": lambda pools: pools.reverse(),
    "a pool fewer": lambda pools: pools.pop(),
    "a pool in front": lambda pools: pools.insert(0, rows(20)[19]),
    "no pools": lambda pools: pools.clear(),
}


NEEDED_BY_TREC = {"no qid"}


@pytest.mark.parametrize(
    ("form", "change"),
    [("jsonl", change) for change in CHANGES] + [("trec", change) for change in CHANGES if change not in NEEDED_BY_TREC],
)
def test_a_changed_input_is_noticed(source, form, change):
    begun(source, format=form)
    pools = rows(9)
    CHANGES[change](pools)
    source.write_bytes(lines(pools))
    refused(source, "the input has changed", overwrite=[False], format=form)
    rerank_file(RERANKER, job(source, format=form), overwrite=True)
    rerank_file(RERANKER, job(source, "expected", format=form))
    assert source.with_name("out.jsonl").read_bytes() == source.with_name("expected").read_bytes()


def test_what_the_job_does_not_read_may_change(source):
    begun(source, max_candidates=2)
    done = source.with_name("out.jsonl.partial").read_bytes()
    pools = [{"note": 1, **pool} for pool in rows(9)]
    for pool in pools:
        for candidate in pool["candidates"][2:]:
            candidate["text"] = "other"
    source.write_bytes(lines(pools).replace(b"\n", b"\r\n\n"))
    rerank_file(RERANKER, job(source, max_candidates=2))
    assert source.with_name("out.jsonl").read_bytes() == done


def test_an_existing_out_is_kept_unless_told(source):
    (source.parent / "out.jsonl").write_text("mine")
    refused(source, "already exists", overwrite=[False])
    rerank_file(RERANKER, job(source), overwrite=True)
    assert len((source.parent / "out.jsonl").read_text().splitlines()) == 9


def test_bad_lines_of_an_earlier_job_do_not_hide_new_ones(source):
    good = source.read_bytes()
    source.write_bytes(b"bad\n" + good)
    skipping = job(source, on_error="skip")
    assert rerank_file(RERANKER, skipping) == 1
    skipping.out.unlink()
    source.write_bytes(b"worse\n" + good + b"bad\n")
    refused(source, r"errors\.jsonl already exists", overwrite=[False], on_error="skip")
    assert rerank_file(RERANKER, skipping, overwrite=True) == 2
    found = [json.loads(line) for line in skipping.errors.read_text().splitlines()]
    assert [(row["line"], row["content"]) for row in found] == [(1, "worse"), (11, "bad")]
    source.write_bytes(good)
    assert rerank_file(RERANKER, skipping, overwrite=True) == 0
    assert set(files(source.parent)) == {"pools.jsonl", "out.jsonl"}


def test_bad_lines_may_be_skipped_from_a_stop_on(source):
    whole = source.read_bytes().splitlines(keepends=True)
    source.write_bytes(b"".join([*whole[:5], b"bad\n", *whole[5:]]))
    with pytest.raises(InputError, match="line 6"):
        rerank_file(RERANKER, job(source))
    assert rerank_file(RERANKER, job(source, on_error="skip")) == 1
    assert len((source.parent / "out.jsonl").read_bytes().splitlines()) == 9
    assert json.loads((source.parent / "out.jsonl.errors.jsonl").read_text())["line"] == 6


def test_a_skipped_line_stops_a_job_that_goes_on_without_skipping(source, monkeypatch):
    whole = source.read_bytes()
    source.write_bytes(b"bad\n" + whole)

    def interrupted(*arguments, **more):
        for place, found in enumerate(rerank_pools(*arguments, **more)):
            if place == 5:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr("resift.pools.job.rerank_pools", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rerank_file(RERANKER, job(source, on_error="skip"))
    monkeypatch.setattr("resift.pools.job.rerank_pools", rerank_pools)
    with pytest.raises(InputError, match="line 1: not JSON"):
        rerank_file(RERANKER, job(source))
    assert rerank_file(RERANKER, job(source, on_error="skip")) == 1
    assert len((source.parent / "out.jsonl").read_bytes().splitlines()) == 9


CHILD = """
import os, sys, pathlib
sys.path[:0] = sys.argv[2:]
import resift.errors, resift.pools.job
from tests.support import jobs
resift.pools.job.rerank_pools = jobs.rerank_pools
if not os.getuid():
    os.setuid(65534)
try:
    resift.pools.job.rerank_file(jobs.RERANKER, resift.pools.job.Job(source="-", out=pathlib.Path(sys.argv[1])), overwrite=True)
except resift.errors.OutputError as error:
    print(error)
"""
"""A job of a user without privileges: for root nothing is read-only."""


def child(given, out, folder):
    with given.open("rb") as file:
        return subprocess.check_output([sys.executable, "-c", CHILD, out, *sys.path], stdin=file, cwd=folder).decode()


def test_standard_input_from_out_is_refused(source):
    before = files(source.parent)
    source.chmod(0o666)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        same = source.rename(Path(folder, "pools.jsonl"))
        assert "is also its input -" in child(same, same.name, folder)
        assert files(same.parent) == before


def test_a_read_only_folder_is_named(source):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        assert "out.jsonl.job.jsonl cannot be written: Permission denied" in child(source, "out.jsonl", folder)
        assert not any(Path(folder).iterdir())


def test_a_file_system_without_locks_is_refused(source, monkeypatch):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    refused(source, "cannot be locked.*No locks available")
