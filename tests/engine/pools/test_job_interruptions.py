"""A job that is killed, cut short or run twice at once: nothing is lost, and what is written is whole."""

from __future__ import annotations

import fcntl
import gzip
import os
import re
import resource
import signal

import pytest

from resift.errors import InputError, OutputError
from resift.pools.job import Job, rerank_file
from resift.pools.journal import Journal
from resift.pools.outfiles import OutFiles
from tests.support.disk import linux, recorded_steps
from tests.support.jobs import RERANKER, begun, ended, files, forked, killed_at, lines, rerank_pools, rows

NAMES = ["out.jsonl", "run.trec", "out.jsonl.gz"]
QUICK = ["out.jsonl", *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])]
"""One kind of output, the others marked slow: for what is the same of all of them."""
OLD = b"an earlier OUT\n"


@pytest.fixture(autouse=True)
def _without_a_model(monkeypatch):
    monkeypatch.setattr("resift.pools.job.rerank_pools", rerank_pools)


@pytest.fixture
def source(tmp_path):
    """Nine pools with a bad line among them."""
    path = tmp_path / "pools.jsonl"
    path.write_bytes(lines(rows(6)) + b"bad\n" + lines(rows(9)[6:]))
    return path


def job(source, name="out.jsonl", **more):
    form = "trec" if name.endswith(".trec") else "jsonl"
    return Job(source=str(source), out=source.parent / name, **({"format": form, "on_error": "skip"} | more))


def content(path):
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


@pytest.fixture
def expected(tmp_path, source):
    """expected(name): what is in OUT at the end."""

    def find(name, given=source):
        whole = tmp_path / "whole"
        whole.mkdir(exist_ok=True)
        made = job(given, name)
        rerank_file(RERANKER, Job(source=made.source, out=whole / name, format=made.format, on_error="skip"), overwrite=True)
        return content(whole / name)

    return find


def is_whole(source, name, expected):
    """OUT and the bad lines are there, and nothing else."""
    assert content(source.parent / name) == expected
    assert set(files(source.parent)) == {source.name, name, f"{name}.errors.jsonl"}
    assert (source.parent / f"{name}.errors.jsonl").read_bytes().count(b'"line":7') == 1


@pytest.mark.parametrize("overwrite", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["anew", "overwrite"])
@pytest.mark.parametrize("name", NAMES)
def test_killed_at_every_step_it_loses_and_repeats_nothing(source, expected, name, overwrite):
    end, asked = expected(name), job(source, name)
    for step in range(1000):
        if overwrite:
            asked.out.write_bytes(OLD)
        code = forked(killed_at, step, rerank_file, RERANKER, asked, overwrite=overwrite)
        if not code:
            break
        assert code == -signal.SIGKILL
        if asked.out.exists() and not (overwrite and asked.out.read_bytes() == OLD):
            assert content(asked.out) == end
            assert asked.errors.exists()
        if overwrite or asked.out.with_name(f"{name}.job.jsonl").exists() or not asked.out.exists():
            assert rerank_file(RERANKER, asked, overwrite=overwrite) == 1
        is_whole(source, name, end)
        asked.out.unlink()
        asked.errors.unlink()
    assert step > 30
    is_whole(source, name, end)


@pytest.mark.parametrize("name", QUICK)
def test_killed_at_every_step_of_every_run_it_gets_whole(source, expected, name):
    """Each run is killed a step later than the one before: the resuming itself is interrupted, too."""
    end, asked = expected(name), job(source, name)
    for step in range(1000):
        code = forked(killed_at, step, rerank_file, RERANKER, asked)
        if not code:
            break
        assert code == -signal.SIGKILL
    is_whole(source, name, end)


def test_killed_at_every_step_another_jobs_start_leaves_one_of_the_two(source, expected):
    end = expected("out.jsonl")
    asked, other = job(source), job(source, top_k=1)
    for step in range(1000):
        asked.out.write_bytes(OLD)
        assert forked(killed_at, 30, rerank_file, RERANKER, other, overwrite=True) == -signal.SIGKILL
        code = forked(killed_at, step, rerank_file, RERANKER, asked, overwrite=True)
        assert rerank_file(RERANKER, asked, overwrite=True) == 1
        is_whole(source, "out.jsonl", end)
        if not code:
            break


@pytest.fixture
def stopped(source, monkeypatch):
    """stopped(name): a job that was interrupted behind its eighth pool, and what was there before it."""

    def interrupted(*arguments, **more):
        found = rerank_pools(*arguments, **more)
        for _ in range(8):
            yield next(found)
        raise KeyboardInterrupt

    def stop(name="out.jsonl", *, overwrite=False, **more):
        monkeypatch.setattr("resift.pools.job.rerank_pools", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rerank_file(RERANKER, job(source, name, **more), overwrite=overwrite)
        monkeypatch.setattr("resift.pools.job.rerank_pools", rerank_pools)
        return source.parent / f"{name}.partial", source.parent / f"{name}.job.jsonl"

    return stop


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("file", [0, 1], ids=["partial", "journal"])
def test_it_resumes_from_any_byte(source, expected, stopped, name, file):
    """A power cut may take the end of either file."""
    end, asked, written = expected(name), job(source, name), stopped(name)
    kept = [path.read_bytes() for path in written]
    header = kept[1].index(b"\n") + 1
    ends = [place + 1 for place, byte in enumerate(kept[file]) if byte == ord("\n")]
    near = {end + beside for end in ends for beside in (-1, 0, 1)} | set(range(0, len(kept[file]), 41))
    for cut in sorted(cut for cut in near if (header if file else 0) <= cut <= len(kept[file])):
        for path, whole in zip(written, kept, strict=True):
            path.write_bytes(whole)
        os.truncate(written[file], cut)
        if file and cut < kept[1].index(b"\n", header) + 1 and name != "run.trec":
            with pytest.raises(OutputError, match="does not hold what a job"):
                rerank_file(RERANKER, asked)
            assert written[0].read_bytes() == kept[0]
        rerank_file(RERANKER, asked, overwrite=True)
        is_whole(source, name, end)
        asked.out.unlink()
        asked.errors.unlink()


@pytest.mark.parametrize("name", NAMES)
def test_bytes_that_came_out_as_zeros_are_ranked_again(source, expected, stopped, name):
    end, asked, written = expected(name), job(source, name), stopped(name)
    kept = [path.read_bytes() for path in written]
    first = [len(kept[0].splitlines(keepends=True)[0]), len(b"".join(kept[1].splitlines(keepends=True)[:2]))]
    for file in (0, 1):
        for cut in range(first[file] + 40, len(kept[file]), 31):
            for path, whole in zip(written, kept, strict=True):
                path.write_bytes(whole)
            written[file].write_bytes(kept[file][:cut].ljust(len(kept[file]), b"\0"))
            rerank_file(RERANKER, asked)
            is_whole(source, name, end)
            asked.out.unlink()
            asked.errors.unlink()


def noting(ranked):
    """rerank_pools that notes the names of what it ranks."""

    def rerank(reranker, pools, **more):
        for pool, ranking in rerank_pools(reranker, pools, **more):
            ranked.append(pool.qid)
            yield pool, ranking

    return rerank


@pytest.mark.parametrize("name", NAMES)
def test_what_is_done_is_not_ranked_again(source, expected, stopped, monkeypatch, name):
    end, ranked = expected(name), []
    stopped(name)
    monkeypatch.setattr("resift.pools.job.rerank_pools", noting(ranked))
    rerank_file(RERANKER, job(source, name))
    assert ranked == ["q8"]
    is_whole(source, name, end)


def test_overwrite_goes_on_where_it_was(source, expected, stopped, monkeypatch):
    end = expected("out.jsonl")
    source.with_name("out.jsonl").write_bytes(OLD)
    stopped(overwrite=True)
    assert source.with_name("out.jsonl").read_bytes() == OLD
    ranked = []
    monkeypatch.setattr("resift.pools.job.rerank_pools", noting(ranked))
    rerank_file(RERANKER, job(source), overwrite=True)
    assert ranked == ["q8"]
    is_whole(source, "out.jsonl", end)


def limited(asked, size, told):
    """Its error goes to the pipe `told`."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        rerank_file(RERANKER, asked)
    except OutputError as error:
        os.write(told, str(error).encode())
        raise SystemExit(3) from error


@pytest.mark.parametrize("name", QUICK)
def test_a_disk_that_is_full_keeps_what_is_done(source, expected, name):
    """A limit on the size of files stands in for the disk: writes stop in the middle, wherever that is."""
    end, asked = expected(name), job(source, name)

    codes = set()
    for size in range(0, len(end) + 400, 61):
        heard, told = os.pipe()
        code = forked(limited, asked, size, told)
        os.close(told)
        with os.fdopen(heard, "rb") as pipe:
            said = pipe.read().decode()
        codes.add(code)
        if code:
            pattern = r"out\S* cannot be written: File too large; finished work is kept: fix this and run the same command again"
            assert re.search(pattern.replace("out", name.split(".")[0]), said)
            assert not asked.out.exists()
        assert code or not said
        if code:
            rerank_file(RERANKER, asked)
        is_whole(source, name, end)
        asked.out.unlink()
        asked.errors.unlink()
    assert codes == {0, 3}


def test_a_full_disk_before_the_first_pool_leaves_nothing(source):
    before = files(source.parent)
    for size in (0, 10, 60, 200):
        heard, told = os.pipe()
        assert forked(limited, job(source, on_error="stop"), size, told) == 3
        assert b"out.jsonl.job.jsonl cannot be written: File too large" in os.read(heard, 1000)
        os.close(heard)
        os.close(told)
        assert files(source.parent) == before


@pytest.mark.parametrize("error", [RuntimeError, OSError, KeyboardInterrupt])
def test_a_start_that_fails_leaves_nothing_and_any_job_may_follow(source, monkeypatch, error):
    before = files(source.parent)

    def failing(*_, **__):
        raise error("the model's")

    monkeypatch.setattr("resift.pools.job.rerank_pools", failing)
    with pytest.raises(error, match="the model's"):
        rerank_file(RERANKER, job(source))
    assert files(source.parent) == before
    monkeypatch.setattr("resift.pools.job.rerank_pools", rerank_pools)
    assert rerank_file(RERANKER, job(source, top_k=1)) == 1


def test_errors_of_others_pass_as_they_are(source):
    def broken(**_):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        rerank_file(RERANKER, job(source), progress=broken)
    assert rerank_file(RERANKER, job(source)) == 1


@pytest.mark.parametrize("first", [False, True], ids=["anew", "overwrite"])
@pytest.mark.parametrize("second", [False, True], ids=["anew", "overwrite"])
@pytest.mark.parametrize("name", NAMES)
def test_two_runs_at_once_are_one_and_a_refusal(source, expected, monkeypatch, name, first, second):
    """The second comes while the first ranks, and again while it puts OUT in its place."""
    end, asked, refused = expected(name), job(source, name), []
    if first:
        asked.out.write_bytes(OLD)

    def rival():
        before = files(source.parent)
        with pytest.raises(OutputError, match="another process is writing this OUT"):
            rerank_file(RERANKER, asked, overwrite=second)
        refused.append(files(source.parent) == before)

    steps = [(Journal, "add"), (Journal, "finish"), (OutFiles, "place"), *([(OutFiles, "_pack")] if name.endswith(".gz") else [])]
    for kind, step in steps:
        monkeypatch.setattr(kind, step, behind(rival, getattr(kind, step)))
    rerank_file(RERANKER, asked, overwrite=first)
    assert refused == [True] * (9 + len(steps) - 1)
    is_whole(source, name, end)


def behind(rival, method):
    def outer(*arguments, **more):
        rival()
        return method(*arguments, **more)

    return outer


def starting(start, close, told, asked, overwrite):
    """Waits until nobody holds the end `close` of the pipe `start`, runs, and tells D for done, R for refused."""
    os.close(close)
    os.read(start, 1)
    try:
        rerank_file(RERANKER, asked, overwrite=overwrite)
    except OutputError as error:
        assert re.search("another process is writing|already exists", str(error))
        os.write(told, b"R")
    else:
        os.write(told, b"D")


@pytest.mark.parametrize("name", QUICK)
def test_many_runs_that_start_together_leave_one_whole_file(source, expected, name):
    end, asked = expected(name), job(source, name)
    for _ in range(20):
        start, close = os.pipe()
        heard, told = os.pipe()
        children = [begun(starting, start, close, told, asked, overwrite) for overwrite in (False, True, False, True)]
        os.close(close)
        assert [ended(child) for child in children] == [0] * 4
        said = os.read(heard, 4)
        for pipe in (start, heard, told):
            os.close(pipe)
        assert len(said) == 4
        assert b"D" in said
        is_whole(source, name, end)
        asked.out.unlink()
        asked.errors.unlink()


def test_a_lock_that_its_holder_deletes_holds_nothing(tmp_path, monkeypatch):
    """The other process deletes the file between this one's opening and its locking."""
    from resift.files import lock

    path, deleted = tmp_path / "lock", []
    first = lock.hold(path)
    inner = fcntl.flock

    def late(file, how):
        if not deleted:
            deleted.append(path)
            lock.delete(first, path)
        return inner(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with lock.hold(path) as second:
        assert os.path.samestat(os.fstat(second.fileno()), path.stat())
        with pytest.raises(OutputError, match="another process"):
            lock.hold(path)
    lock.hold(path).close()


def test_out_that_appears_meanwhile_is_kept(source, monkeypatch):
    asked = job(source)

    def meanwhile(*arguments, **more):
        yield from rerank_pools(*arguments, **more)
        asked.out.write_bytes(OLD)

    monkeypatch.setattr("resift.pools.job.rerank_pools", meanwhile)
    with pytest.raises(OutputError, match="already exists"):
        rerank_file(RERANKER, asked)
    assert asked.out.read_bytes() == OLD
    asked.out.unlink()
    monkeypatch.setattr("resift.pools.job.rerank_pools", rerank_pools)
    assert rerank_file(RERANKER, asked) == 1


@pytest.mark.parametrize("deleted", [".partial", ".job.jsonl"])
@pytest.mark.parametrize("rival", [False, True], ids=["alone", "beside another run"])
def test_files_that_are_deleted_meanwhile_are_missed(source, expected, monkeypatch, deleted, rival):
    end, asked = expected("out.jsonl"), job(source)

    def meanwhile(*arguments, **more):
        for place, found in enumerate(rerank_pools(*arguments, **more)):
            if place == 4:
                for suffix in {deleted, ".job.jsonl"} if rival else {deleted}:
                    asked.out.with_name(f"out.jsonl{suffix}").unlink()
                if rival:
                    monkeypatch.setattr("resift.pools.job.rerank_pools", rerank_pools)
                    second = job(source, on_error="stop")
                    with pytest.raises((InputError, OutputError)):
                        rerank_file(RERANKER, second)
            yield found

    monkeypatch.setattr("resift.pools.job.rerank_pools", meanwhile)
    with pytest.raises(OutputError, match="was deleted or replaced while the job ran"):
        rerank_file(RERANKER, asked)
    assert not asked.out.exists()
    monkeypatch.setattr("resift.pools.job.rerank_pools", rerank_pools)
    if deleted == ".partial":
        assert rerank_file(RERANKER, asked) == 1
        is_whole(source, "out.jsonl", end)
    else:
        with pytest.raises(OutputError, match="without the journal of its job"):
            rerank_file(RERANKER, asked)


def test_an_input_that_grows_after_a_kill_in_the_finish_is_not_called_done(source, expected):
    asked = job(source)
    whole = source.read_bytes()
    for step in range(1000):
        source.write_bytes(whole)
        code = forked(killed_at, step, rerank_file, RERANKER, asked)
        if not code:
            break
        source.write_bytes(whole + lines(rows(12)[9:]))
        if asked.out.exists():
            with pytest.raises(OutputError, match=r"the input has changed|already exists"):
                rerank_file(RERANKER, asked)
            assert len(content(asked.out).splitlines()) == 9
        assert rerank_file(RERANKER, asked, overwrite=True) == 1
        is_whole(source, "out.jsonl", expected("out.jsonl"))
        asked.out.unlink()
        asked.errors.unlink()


@pytest.mark.parametrize(
    "change", [lambda whole: OLD, lambda whole: whole + OLD, lambda whole: whole[:-9]], ids=["other", "more", "less"]
)
@pytest.mark.parametrize("name", NAMES)
def test_an_out_that_was_replaced_after_a_kill_in_the_finish_is_not_called_done(source, monkeypatch, name, change):
    asked = job(source, name)
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "_delete", lambda self: os.kill(os.getpid(), signal.SIGKILL))
        assert forked(rerank_file, RERANKER, asked) == -signal.SIGKILL
    whole = asked.out.read_bytes()
    asked.out.write_bytes(change(whole))
    with pytest.raises(OutputError, match="does not hold what a job of this resift wrote"):
        rerank_file(RERANKER, asked)
    assert asked.out.read_bytes() == change(whole)
    asked.out.write_bytes(whole)
    assert rerank_file(RERANKER, asked) == 1
    assert asked.out.read_bytes() == whole
    assert set(files(source.parent)) == {"pools.jsonl", name, f"{name}.errors.jsonl"}


def test_an_input_that_grows_or_shrinks_meanwhile_is_read_to_its_end(source, monkeypatch):
    whole = source.read_bytes()

    def meanwhile(change):
        def changing(*arguments, **more):
            for place, found in enumerate(rerank_pools(*arguments, **more)):
                if place == 4:
                    change()
                yield found

        monkeypatch.setattr("resift.pools.job.rerank_pools", changing)

    def grow():
        with source.open("ab") as file:
            file.write(lines(rows(12)[9:]))

    meanwhile(grow)
    rerank_file(RERANKER, job(source, "grown.jsonl"))
    assert content(source.with_name("grown.jsonl")).count(b"\n") == 12
    source.write_bytes(lines(rows(4000)))
    meanwhile(lambda: os.truncate(source, len(lines(rows(3000))) + 5))
    with pytest.raises(InputError, match="line 3001: not JSON"):
        rerank_file(RERANKER, job(source, "shrunk.jsonl", on_error="stop"))
    assert not source.with_name("shrunk.jsonl").exists()
    monkeypatch.setattr("resift.pools.job.rerank_pools", rerank_pools)
    source.write_bytes(whole)
    with pytest.raises(OutputError, match="the input has changed"):
        rerank_file(RERANKER, job(source, "shrunk.jsonl"))
    source.write_bytes(lines(rows(4000)))
    rerank_file(RERANKER, job(source, "shrunk.jsonl"))
    assert content(source.with_name("shrunk.jsonl")).count(b"\n") == 4000


@linux
@pytest.mark.parametrize("name", NAMES)
def test_all_lines_are_on_the_disk_before_the_journal_says_that_the_job_is_done(source, name, monkeypatch):
    steps = recorded_steps(monkeypatch)
    rerank_file(RERANKER, job(source, name))
    lines_at, done_at = (steps.index(("on disk", name + suffix)) for suffix in (".partial", ".job.jsonl"))
    assert lines_at < done_at < steps.index(("renamed", name))
