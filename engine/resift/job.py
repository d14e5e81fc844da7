"""A job: one file of pools ranked into another, which resumes."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Literal, Protocol

import msgspec

from resift.collection import rerank_pools
from resift.errors import InputError, OutputError
from resift.pools import CandidatePool, Lines, decode_pool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from resift.ranking import Ranking
    from resift.reranker import Reranker


class Progress(Protocol):
    """Told of every pool that is written."""

    def __call__(self, *, pools: int, pairs: int, share: float | None) -> None:
        """`pools` and `pairs` so far in this run, `share` of the input read, where known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One file of pools to rank into another."""

    source: str
    """JSON Lines of pools, .gz by name, - for standard input"""
    out: Path
    """written as a whole: until then its lines are in OUT.partial, from which the same job resumes"""
    format: Literal["jsonl", "trec"] = "jsonl"
    top_k: int | None = None
    max_candidates: int | None = None
    """candidates of a pool beyond this number are left out"""
    on_error: Literal["stop", "skip"] = "stop"
    """skip: bad lines go to OUT.errors.jsonl with the reason"""

    def beside(self, suffix: str) -> Path:
        """OUT with `suffix` behind its name."""
        return self.out.with_name(self.out.name + suffix)


def rerank_file(reranker: Reranker, job: Job, *, overwrite: bool = False, progress: Progress | None = None) -> int:
    """Ranks every pool of a file and returns how many lines were skipped.

    After an interruption of any kind, a killed process included, the same call goes on behind the last pool that is whole.
    Raises InputError that names a bad line, and OutputError if OUT is there, cannot be written, or was begun by another job.
    """
    try:
        if overwrite:
            for path in (job.out, job.beside(".partial"), job.beside(".job.json"), job.beside(".errors.jsonl")):
                path.unlink(missing_ok=True)
        elif job.out.exists():
            raise OutputError(f"{job.out} exists already; choose another name, or say --overwrite")
        _claim(reranker, job)
        with job.beside(".partial").open("a+b") as partial, job.beside(".errors.jsonl").open("a+b") as errors:
            _lock(partial, job)
            reader = _Reader(job, errors)
            todo = _resume(job, reader, partial)
            pools = pairs = 0
            for pool, ranking in rerank_pools(reranker, todo, top_k=job.top_k):
                partial.write(_encode(job, pool, ranking))
                pools, pairs = pools + 1, pairs + len(pool.documents)
                if progress:
                    progress(pools=pools, pairs=pairs, share=reader.lines.share())
        _finish(job)
    except OSError as error:
        raise OutputError(
            f"cannot write {job.out}: {error.strerror}; what is done is kept in {job.beside('.partial').name}: "
            "mend that and run the same command again, it resumes"
        ) from error
    return reader.skipped


class _Reader:
    """The good pools of a file; bad lines stop it or go to the errors file, each once however often the job resumes."""

    def __init__(self, job: Job, errors: IO[bytes]) -> None:
        self.lines = Lines(job.source)
        self.skipped = 0
        self._job = job
        self._errors = errors
        errors.seek(0)
        recorded = errors.read()
        errors.truncate(recorded.rfind(b"\n") + 1)
        self._recorded = {json.loads(line)["line"] for line in recorded.split(b"\n")[:-1]}

    def __iter__(self) -> Iterator[CandidatePool]:
        for number, line in self.lines:
            try:
                pool = decode_pool(line, f"{self._job.source}, line {number}")
                if self._job.format == "trec":
                    _check_trec(pool, f"{self._job.source}, line {number}")
            except InputError as error:
                if self._job.on_error == "stop":
                    raise
                self._skip(number, line, str(error))
                continue
            yield pool.first(self._job.max_candidates)

    def _skip(self, number: int, line: bytes, reason: str) -> None:
        self.skipped += 1
        if number not in self._recorded:
            row = {"line": number, "reason": reason, "content": line.decode("utf-8", "replace").rstrip("\r\n")}
            self._errors.write(msgspec.json.encode(row) + b"\n")
            self._errors.flush()


def _claim(reranker: Reranker, job: Job) -> None:
    """Notes which job the partial file belongs to, and refuses to go on with another's."""
    note = job.beside(".job.json")
    mine = {
        "model": reranker.artifact.fingerprint(),
        "precision": reranker.precision,
        "max_length": reranker.resolved.max_length,
        "format": job.format,
        "top_k": job.top_k,
        "max_candidates": job.max_candidates,
    }
    if note.exists() and job.beside(".partial").exists():
        begun = json.loads(note.read_bytes())
        if begun != mine:
            changed = [f"{name} was {begun.get(name)}, now {value}" for name, value in mine.items() if begun.get(name) != value]
            raise OutputError(
                f"{job.beside('.partial')} was begun by another job ({'; '.join(changed)}); "
                "repeat that command to go on with it, or say --overwrite to begin anew"
            )
        return
    fresh = job.beside(".job.json.new")
    fresh.write_bytes(msgspec.json.encode(mine))
    fresh.replace(note)


def _lock(partial: IO[bytes], job: Job) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: two processes at one file are the user's to avoid
        return
    try:
        fcntl.flock(partial, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(f"another process is writing {job.out}; wait for it, or choose another name") from error


def _resume(job: Job, reader: _Reader, partial: IO[bytes]) -> Iterator[CandidatePool]:
    """Passes over the pools whose lines are all in `partial`, cuts off what is not whole, and yields the others."""
    partial.seek(0)
    pools = iter(reader)
    for pool in pools:
        whole = partial.tell()
        lines = [partial.readline() for _ in range(_lines_of(job, pool))]
        if not all(line.endswith(b"\n") for line in lines):
            partial.truncate(whole)
            yield pool
            break
        if not all(_belongs(job, pool, line) for line in lines):
            raise OutputError(
                f"{job.beside('.partial')} at byte {whole} is not about the query {pool.query[:60]!r}: the input has changed; "
                "say --overwrite to begin anew"
            )
    else:
        if partial.read(1):
            raise OutputError(f"{job.beside('.partial')} holds more pools than {job.source}; say --overwrite to begin anew")
    yield from pools


def _lines_of(job: Job, pool: CandidatePool) -> int:
    kept = len(pool.documents) if job.top_k is None else min(job.top_k, len(pool.documents))
    return 1 if job.format == "jsonl" else kept


def _belongs(job: Job, pool: CandidatePool, line: bytes) -> bool:
    if job.format == "trec":
        return line.split(b" ", 1)[0] == str(pool.qid).encode()
    row = msgspec.json.decode(line, type=dict[str, object])
    return (row.get("query"), row.get("qid")) == (pool.query, pool.qid)


def _encode(job: Job, pool: CandidatePool, ranking: Ranking) -> bytes:
    if job.format == "jsonl":
        return msgspec.json.encode(pool.ranked(ranking)) + b"\n"
    docids = [pool.fields[result.index]["docid"] for result in ranking]
    rows = [f"{pool.qid} Q0 {docid} {rank} {ranking[rank - 1].logit!r} resift\n" for rank, docid in enumerate(docids, 1)]
    return "".join(rows).encode()


def _check_trec(pool: CandidatePool, where: str) -> None:
    names = [pool.qid, *(fields.get("docid") for fields in pool.fields)]
    if len(names) != len(pool.documents) + 1 or any(name is None or len(str(name).split()) != 1 for name in names):
        raise InputError(f"{where}: a TREC run needs a 'qid', and a 'docid' for every candidate, without spaces")


def _finish(job: Job) -> None:
    """The partial file takes its place under its own name, packed if that ends in .gz."""
    partial = job.beside(".partial")
    if job.out.suffix == ".gz":
        packed = job.beside(".packed")
        with partial.open("rb") as plain, gzip.open(packed, "wb") as file:
            shutil.copyfileobj(plain, file)
        packed.replace(job.out)
        partial.unlink()
    else:
        partial.replace(job.out)
    job.beside(".job.json").unlink()
    errors = job.beside(".errors.jsonl")
    if not errors.stat().st_size:
        errors.unlink()
