"""Job: ranks one file of pools into another, and resumes after an interruption."""

from __future__ import annotations

import math
from collections import deque
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec
import numpy as np

from resift.calibration import check_threshold
from resift.errors import InputError
from resift.files.names import is_file_name
from resift.inputs import check_count
from resift.plans import Plan, as_plan
from resift.pools.collection import rerank_pools
from resift.pools.journal import Journal
from resift.pools.outfiles import OutFiles, writing
from resift.pools.reading import CandidatePool, candidate_id
from resift.pools.source import Source, template_of
from resift.ranking import decreasing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from resift.documents import DocumentTemplate
    from resift.ranking import Ranking
    from resift.reranker import Reranker


class Progress(Protocol):
    """Called after each pool that is written."""

    def __call__(self, *, pools: int, pairs: int, share: float | None) -> None:
        """`pools` and `pairs` in this run so far; `share` of the input that is done, None if unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One file of pools to rank into another. Raises InputError or TypeError for an invalid field."""

    source: str
    """JSON Lines of pools or - for standard input, a table with a row for each pair (.csv, .tsv, .parquet), Parquet with a pool in
    each row, a TREC run, or a BEIR folder; text is gzip if the name ends in .gz. See `resift.pools.source.Source`"""
    out: Path
    """the output, which appears when it is complete: until then its lines are in OUT.partial, from which the same job resumes; if
    it is a symbolic link, its target is written"""
    format: Literal["jsonl", "trec"] = "jsonl"
    top_k: int | None = None
    """results written of each pool, 1 or more; None: all"""
    max_candidates: int | None = None
    """candidates read of each pool, 1 or more; None: all"""
    on_error: Literal["stop", "skip"] = "stop"
    """skip: bad lines go to OUT.errors.jsonl with the reason"""
    plan: Plan | str | None = None
    """the cascade for each pool, as for `Reranker.plan_for`; None: that of the Reranker's settings"""
    run: str | None = None
    """the TREC run of a BEIR folder"""
    texts: str | None = None
    """the documents of a TREC run, in the form of BEIR's corpus.jsonl"""
    queries: str | None = None
    """the queries of a TREC run, in the form of BEIR's queries.jsonl, or lines of qid, tab, query"""
    with_documents: bool = False
    """whether each result of JSON Lines has the document's text, as the model read it"""
    instruction: str | None = None
    """text put before every query, as for `Reranker.rerank`"""
    threshold: float | None = None
    """only results whose probability is that or more; None: all"""

    def __post_init__(self) -> None:
        if not isinstance(self.source, str) or not isinstance(self.out, Path):
            raise TypeError(f"source is {type(self.source).__name__} and out {type(self.out).__name__}; expected str and Path")
        if not is_file_name(self.source) or not is_file_name(self.out) or str(self.out) == "-":
            raise InputError(f"source is {self.source!r} and out {str(self.out)!r}; expected file names")
        for name in ("run", "texts", "queries"):
            if getattr(self, name) is not None and not is_file_name(getattr(self, name)):
                raise InputError(f"{name} is {getattr(self, name)!r}; expected a file name")
        if self.with_documents and self.format == "trec":
            raise InputError("with_documents is for JSON Lines: a TREC run holds no texts; expected the format jsonl")
        for name, allowed in (("format", ("jsonl", "trec")), ("on_error", ("stop", "skip"))):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} is {getattr(self, name)!r}; expected {' or '.join(allowed)}")
        for name in ("top_k", "max_candidates"):
            object.__setattr__(self, name, check_count(name, getattr(self, name)))
        if self.plan not in (None, "auto"):
            as_plan(self.plan, "plan")
        check_threshold(self.threshold, is_calibrated=True)

    @property
    def errors(self) -> Path:
        """The file of bad lines; it appears when OUT is complete."""
        return OutFiles.of(self.out).errors


def rerank_file(reranker: Reranker, job: Job, *, overwrite: bool = False, progress: Progress | None = None) -> int:
    """Ranks every pool of a file and returns the number of lines skipped.

    After any interruption, even a kill, the same call resumes after the last complete pool. With `overwrite`, an earlier OUT
    stays until the new one is complete, and unfinished work on another job or input is deleted. Raises InputError that names a bad
    line or says why the input cannot be read. Raises OutputError if OUT exists, if it is also the input or no regular file, if a
    file cannot be written, if another process is writing it, or if another job or input was started there. A refused call changes
    nothing.
    """
    check_threshold(job.threshold, is_calibrated=reranker.settings.calibration is not None)
    files = OutFiles.of(job.out)
    files.check(*(name for name in (job.source, job.run, job.texts, job.queries) if name is not None))
    with Journal(files) as journal:
        if not overwrite:
            files.check_absent(
                *([] if journal.is_whole and not files.packed.exists() else [files.out]),
                *([] if journal.was_done else [files.errors]),
            )
        files.check_errors()
        with closing(_Reader(job, files, template_of(reranker.settings))) as reader:
            files.check(*reader.inputs)
            remaining = journal.resume(_settings(reranker, job), iter(reader), overwrite=overwrite)
            shares: deque[float | None] = deque()

            def read() -> Iterator[CandidatePool]:
                for pool in remaining:
                    shares.append(reader.share())  # the input is read ahead of the pool that is written
                    yield pool

            pools = pairs = 0
            work = rerank_pools(
                reranker, read(), top_k=job.top_k, plan=job.plan, instruction=job.instruction, threshold=job.threshold
            )
            for pool, ranking in work:
                journal.add(pool, _encode(job, pool, ranking))
                pools, pairs, share = pools + 1, pairs + len(pool.documents), shares.popleft()
                if progress:
                    progress(pools=pools, pairs=pairs, share=share)
        journal.finish(overwrite=overwrite)
    return reader.skipped


def _settings(reranker: Reranker, job: Job) -> dict[str, Any]:
    """The model and settings that the lines of OUT depend on, besides the pools."""
    plan, calibration = str(reranker.plan_for(job.plan, top_k=job.top_k)), reranker.settings.calibration
    return {
        "model": reranker.artifact.fingerprint(),
        "precision": reranker.precision,
        "provider": reranker.provider,
        "max_length": reranker.resolved.max_length,
        "truncation": reranker.resolved.truncation,
        "format": job.format,
        "top_k": job.top_k,
        "max_candidates": job.max_candidates,
        # None for the full graph alone, as in journals that were written before plans existed.
        "plan": None if plan == str(reranker.plan_for("full")) else plan,
        # None for one window, as in journals that were written before windows existed.
        "windows": None if reranker.resolved.windows == 1 else reranker.resolved.windows,
        # None where they are not used, as in journals that were written before they existed.
        "document_template": None if template_of(reranker.settings) is None else reranker.settings.document_template,
        "scores": None if reranker.settings.scores == "auto" else reranker.settings.scores,
        "instruction": job.instruction,
        "with_documents": job.with_documents or None,
        "calibration": None if calibration is None else calibration.table(),
        "threshold": job.threshold,
        "provider_options": None if reranker.settings.provider_options == "auto" else dict(reranker.settings.provider_options),
    }


class _Reader:
    """The valid pools of an input; a bad line raises, or is recorded and skipped.

    A resumed job reads its input from the beginning, so every run records all bad lines anew.
    """

    def __init__(self, job: Job, files: OutFiles, template: DocumentTemplate | None) -> None:
        """Reads the first line. Raises InputError if it cannot be read, or if the job's options do not suit it."""
        self.skipped = 0
        self._job = job
        self._errors = files.partial_errors
        self._source = Source(
            job.source, run=job.run, texts=job.texts, queries=job.queries, depth=job.max_candidates, template=template
        )
        try:
            self._source.check()
        except InputError:
            self._source.close()
            raise
        self.inputs = self._source.inputs

    def close(self) -> None:
        """Closes the input, even if it was not read to its end."""
        self._source.close()

    def share(self) -> float | None:
        """Share of the input that has been read, 0 to 1; None if its size is unknown."""
        return self._source.share()

    def __iter__(self) -> Iterator[CandidatePool]:
        with writing(self._errors):
            self._errors.unlink(missing_ok=True)
        for number, where, content, pool in self._source:
            try:
                if isinstance(pool, InputError):
                    raise pool
                if self._job.format == "trec":
                    _check_trec(pool, where)
            except InputError as error:
                if self._job.on_error == "stop":
                    raise
                self._skip(number, content, str(error))
                continue
            yield pool.first(self._job.max_candidates)

    def _skip(self, number: int, line: bytes, reason: str) -> None:
        self.skipped += 1
        row = {
            "line": number,
            "reason": reason.encode("utf-8", "backslashreplace").decode(),
            "content": line.decode("utf-8", "replace").rstrip("\r\n"),
        }
        with writing(self._errors), self._errors.open("ab") as file:
            file.write(msgspec.json.encode(row) + b"\n")


def _encode(job: Job, pool: CandidatePool, ranking: Ranking) -> bytes:
    if job.format == "jsonl":
        return msgspec.json.encode(pool.ranked(ranking, with_documents=job.with_documents)) + b"\n"
    docids = [candidate_id(pool.fields[result.index]) for result in ranking]
    values = _distinct(decreasing([result.logit if result.score is not None else None for result in ranking]))
    rows = [f"{pool.qid} Q0 {docid} {rank} {values[rank - 1]!r} resift\n" for rank, docid in enumerate(docids, 1)]
    return "".join(rows).encode()


def _distinct(values: Iterable[float]) -> list[float]:
    """Values, best first, each of which is below the one before by at least one step of float32.

    trec_eval reads scores as float32 and puts documents with equal ones in the order of their ids.
    """
    found: list[float] = []
    limit = math.inf
    for value in values:
        found.append(min(float(np.float32(value)), limit))
        limit = float(np.nextafter(np.float32(found[-1]), np.float32(-math.inf)))
    return found


def _check_trec(pool: CandidatePool, where: str) -> None:
    names = [pool.qid, *map(candidate_id, pool.fields)]
    if len(names) != len(pool.documents) + 1 or any(name is None or len(str(name).split()) != 1 for name in names):
        raise InputError(f"{where}: a TREC run needs a 'qid' and a 'docid' (or 'id') for every candidate, without spaces")
