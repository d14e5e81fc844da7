"""Preparation: fills a store with the states of a file's documents. A run that was interrupted goes on when it is run again."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import threading
import time
from collections import deque
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from resift import machine
from resift.errors import InferenceError, InputError
from resift.runtime.providers import versions
from resift.states.layout import SHARDS, Header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from resift.reranker import Reranker
    from resift.states.document_states import DocumentStates
    from resift.states.writer import StoreWriter

    Contents = list[tuple[bytes, bytes]]
    """digests with states"""
    Submit = Callable[[list[str]], Future[Contents]]

CHUNK_DOCUMENTS, CHUNK_CHARACTERS = 512, 500_000
"""Documents that are computed together: enough to fill batches of one length, few enough that their states take 50 MB at most."""
KEEP_SECONDS, KEEP_BYTES = 5.0, 1 << 26
"""How long and how much a run computes before it writes: what a kill costs at most. Each time, every shard is synchronized."""


@dataclass(slots=True)
class Prepared:
    """What a run has done so far."""

    documents: int = 0
    """read"""
    new: int = 0
    """of which the states were computed and are on the disk"""
    bytes: int = 0
    """of those states"""


class _Chunk(NamedTuple):
    """Documents of which states are being computed."""

    documents: int
    """read with it, whether their states were there or not"""
    states: Future[Contents] | None


def fill_store(  # noqa: PLR0913 - input, output, and who computes
    reranker: Reranker,
    documents: Iterable[str],
    writer: StoreWriter,
    *,
    workers: int = 1,
    submit: Submit | None = None,
    progress: Callable[[Prepared], None] | None = None,
) -> Prepared:
    """Writes the states of those documents that the writer's shards lack. Equal documents are computed once.

    `documents`: texts, read as they are needed. `workers`: processes, each with a copy of the Reranker; 1 for this process alone.
    `submit`: has the states of some texts computed elsewhere, by so many `workers`, as `contents` does. `progress` is called when
    states were written, and for documents that are there already. If a document cannot be read, those before it are written first.
    Raises InputError if the artifact has no split graph, InferenceError if a worker ends, and OutputError if the store cannot be
    written.
    """
    require_states(reranker)
    filling = _Filling(reranker, writer, progress)
    chunks = _Chunks(documents)
    with _executor(reranker, workers) if submit is None else nullcontext(submit) as compute:
        try:
            for chunk in chunks:
                filling.begin(chunk, compute)
                while filling.waiting > 2 * workers:
                    filling.end()
            while filling.waiting:
                filling.end()
        except BrokenExecutor as error:
            raise InferenceError("a worker process ended: memory may be short for so many; use fewer --workers") from error
        filling.keep()
    if chunks.failure is not None:
        raise chunks.failure
    return filling.done


def find_digests(reranker: Reranker, documents: Iterable[str]) -> set[bytes]:
    """The digests of documents. Raises InputError if the artifact has no split graph, or if a document cannot be read."""
    require_states(reranker)
    chunks = _Chunks(documents)
    digests = {digest for chunk in chunks for digest in reranker.document_digests(chunk)}
    if chunks.failure is not None:
        raise chunks.failure
    return digests


def require_states(reranker: Reranker) -> DocumentStates:
    """Whose states the Reranker reads. Raises InputError if its artifact has no split graph."""
    if reranker.document_states is None:
        raise InputError(
            f"{reranker.artifact.manifest.model.id} has no split graph, so nothing of a document can be computed before its query; "
            "expected an artifact exported with one"
        )
    return reranker.document_states


def contents(reranker: Reranker, texts: Sequence[str]) -> Contents:
    """The digests of documents with the bytes of their states, computed anew."""
    return [(digest, states.tobytes()) for digest, states in reranker.prepare(texts)]


def header_of(reranker: Reranker, shards: int = SHARDS) -> Header:
    """The header of what the Reranker computes. Raises InputError if its artifact has no split graph."""
    states = require_states(reranker)
    return Header(states.identity, states.size, shards, label_of(reranker))


def label_of(reranker: Reranker) -> str:
    """By what people know the states that the Reranker computes: the model, and what makes their bits."""
    model = reranker.artifact.manifest.model
    parts = [
        f"{model.id}@{model.revision[:12]}" if model.revision else model.id,
        reranker.precision,
        f"onnxruntime {versions('onnxruntime')['onnxruntime']}",
        platform.machine(),
        *sorted(machine.instruction_sets()),
    ]
    return " ".join(parts)


class _Filling:
    """The state of a run."""

    def __init__(self, reranker: Reranker, writer: StoreWriter, progress: Callable[[Prepared], None] | None) -> None:
        self._reranker, self._writer, self._progress = reranker, writer, progress
        self._chunks: deque[_Chunk] = deque()
        self._begun: set[bytes] = set()
        """digests whose states are being computed or wait to be written"""
        self._computed: dict[bytes, bytes] = {}
        self._bytes = 0
        self._read = 0
        """documents that are read, up to the last chunk that has ended"""
        self._kept_at = time.monotonic()
        self.done = Prepared()

    @property
    def waiting(self) -> int:
        """Number of chunks that have begun and not ended."""
        return len(self._chunks)

    def begin(self, texts: list[str], submit: Submit) -> None:
        """Has the states computed of those documents that are not in the store."""
        by_digest = dict(zip(self._reranker.document_digests(texts), texts, strict=True))
        lacking = [digest for digest in self._writer.missing(by_digest) if digest not in self._begun]
        self._begun.update(lacking)
        self._chunks.append(_Chunk(len(texts), submit([by_digest[digest] for digest in lacking]) if lacking else None))

    def end(self) -> None:
        """Waits for the oldest chunk, and writes what was computed if it is much or old."""
        chunk = self._chunks.popleft()
        if chunk.states is not None:
            states = chunk.states.result()
            self._computed |= states
            self._bytes += sum(len(content) for _, content in states)
        self._read += chunk.documents
        if not self._computed or self._bytes >= KEEP_BYTES or time.monotonic() - self._kept_at >= KEEP_SECONDS:
            self.keep()

    def keep(self) -> None:
        """Writes what was computed; on return it is on the disk."""
        self._writer.keep(self._computed)
        self.done = Prepared(self._read, self.done.new + len(self._computed), self.done.bytes + self._bytes)
        self._begun.difference_update(self._computed)
        self._computed, self._bytes, self._kept_at = {}, 0, time.monotonic()
        if self._progress is not None:
            self._progress(self.done)


class _Chunks:
    """Documents in lists, up to the first that cannot be read."""

    def __init__(self, documents: Iterable[str]) -> None:
        self._documents = documents
        self.failure: InputError | None = None
        """why the documents ended before their end"""

    def __iter__(self) -> Iterator[list[str]]:
        chunk: list[str] = []
        characters = 0
        try:
            for text in self._documents:
                chunk.append(text)
                characters += len(text)
                if len(chunk) == CHUNK_DOCUMENTS or characters >= CHUNK_CHARACTERS:
                    yield chunk
                    chunk, characters = [], 0
        except InputError as error:
            self.failure = error
        if chunk:
            yield chunk


@contextmanager
def _executor(reranker: Reranker, workers: int) -> Iterator[Submit]:
    """A function that has the states of documents computed: on a thread of this process, or in processes of their own."""
    executor: Executor
    compute: Callable[[list[str]], Contents]
    if workers == 1:
        executor = ThreadPoolExecutor(1)
        compute = partial(contents, reranker)
    else:
        context = multiprocessing.get_context("spawn")  # onnxruntime's threads do not survive a fork
        executor = ProcessPoolExecutor(workers, context, _begin_worker, (reranker,))
        compute = _contents_here
    try:
        yield lambda texts: executor.submit(compute, texts)
    finally:
        executor.shutdown(cancel_futures=True)


_reranker: Reranker | None = None
"""That of a worker process."""


def _begin_worker(reranker: Reranker) -> None:
    """In a worker process: an interrupt is the parent's, and a parent that was killed ends its workers, too."""
    global _reranker  # noqa: PLW0603 - a property of the process
    _reranker = reranker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.join,), daemon=True).start()


def _end_with(wait: Callable[[], None]) -> None:
    wait()
    os._exit(1)


def _contents_here(texts: list[str]) -> Contents:
    assert _reranker is not None
    return contents(_reranker, texts)
