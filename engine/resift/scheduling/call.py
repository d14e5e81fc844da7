"""Call: what a caller submitted, with its results so far; and the batches that its rows run in."""

from __future__ import annotations

import os
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from resift.encoding.windows import best_rows
from resift.errors import ClosedError
from resift.scoring import relevance

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from numpy.typing import NDArray

    from resift.artifact.plans import Step
    from resift.encoding.encodings import Encodings
    from resift.scheduling.deadline import Deadline

Result = TypeVar("Result")


class Answer(Future[Result]):
    """The Future of a call. In a child forked before it was done it raises ClosedError, as no thread works on it there."""

    def __init__(self) -> None:
        super().__init__()
        self._process = os.getpid()

    def result(self, timeout: float | None = None) -> Result:
        """Like Future.result, but raises ClosedError in a forked child."""
        if self._process != os.getpid() and not self.done():
            raise ClosedError("this call was submitted before the process was forked; submit it again in the child")
        return super().result(timeout)


@dataclass(eq=False, slots=True)
class Call:
    """The n pairs that a caller submits, of which equal ones are encoded and read once, and their results so far."""

    encodings: Encodings
    """the d distinct pairs"""
    order: NDArray[np.int64]
    """int64[n]: the caller's pair i is pair order[i] of those"""
    steps: tuple[Step, ...]
    """what reads them: all documents in the first step, the best of each in the next"""
    outcome: Callable[[Call], Any]
    """computes the answer once the call has ended; it may raise"""
    deadline: Deadline | None = None
    """when it ends, whatever was read by then; None: once everything was read"""
    answer: Answer[Any] = field(default_factory=Answer, init=False)
    """receives the outcome"""
    is_submitted: bool = field(default=False, init=False)
    logits: dict[str, NDArray[np.float32]] = field(default_factory=dict, init=False)
    """float32[rows, labels] for each graph that has run; NaN in rows that it has not read"""
    read: NDArray[np.int8] = field(init=False)
    """int8[rows]: steps that have read each row"""
    stage: int = field(default=0, init=False)
    """number of the step that it is in, from 0"""
    error: Exception | None = field(default=None, init=False)
    added: float = field(default=0.0, init=False)
    """time at which it was queued"""
    began: float | None = field(default=None, init=False)
    """time at which a worker took its first row"""
    due: float = field(default=0.0, init=False)
    number: int = field(default=0, init=False)
    """of the calls so far: the order of those that are due at once"""
    ended: bool = field(default=False, init=False)
    waiting: dict[int, deque[int]] = field(default_factory=dict, init=False)
    """rows that have not started, by bucket, longest first; best first if it has a deadline"""
    waiting_tokens: int = field(default=0, init=False)
    """tokens of those rows"""
    unread: int = field(init=False)
    """number of rows that the step has yet to read"""

    def __post_init__(self) -> None:
        self.unread = len(self.encodings.lengths)
        self.read = np.zeros(self.unread, np.int8)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """int32[n]: tokens of each pair, special tokens included; those that two windows of a document share count once."""
        return self.encodings.pair_lengths[self.order]

    @property
    def tokens(self) -> int:
        """Tokens of all n pairs in all their windows."""
        firsts = self.encodings.firsts
        return int(np.diff(self.encodings.offsets[firsts])[self.order].sum())

    @property
    def tokens_cut(self) -> NDArray[np.int32]:
        """int32[n]: tokens cut from the end of each document."""
        return self.encodings.tokens_cut[self.order]

    @property
    def query_tokens_cut(self) -> int:
        """Tokens cut from the end of the query (of several queries, the largest count)."""
        return self.encodings.query_tokens_cut

    @property
    def graph(self) -> str:
        """Name of the graph that reads the rows now."""
        return self.steps[self.stage].graph

    @property
    def documents_read(self) -> NDArray[np.int8]:
        """int8[d]: steps that have read each document in all its windows."""
        return np.minimum.reduceat(self.read, self.encodings.firsts[:-1])

    def survivors(self) -> NDArray[np.int64]:
        """The rows of the documents that the step keeps, the best document first; of equal ones the first in the caller's order.

        A document is as good as its best window. Raises LogitsError.
        """
        step, documents = self.steps[self.stage], self.encodings.documents
        rows = np.flatnonzero(self.documents_read[documents] > self.stage)
        ranked = relevance(self.logits[step.graph][rows], step.rule, positions=documents[rows])
        best = best_rows(ranked, documents[rows])
        kept = documents[rows[best[np.argsort(-ranked[best], kind="stable")[: step.keep]]]]
        firsts = self.encodings.firsts
        return np.concatenate([np.arange(firsts[document], firsts[document + 1]) for document in kept])

    def resolve(self) -> None:
        """Sets the answer of a call that has ended, unless it was cancelled."""
        if not self.answer.set_running_or_notify_cancel():
            return
        if self.error is not None:
            self.answer.set_exception(self.error)
            return
        try:
            result = self.outcome(self)
        except Exception as error:  # noqa: BLE001 - passed on to the caller
            self.answer.set_exception(error)
        else:
            self.answer.set_result(result)


@dataclass(eq=False, slots=True)
class Batch:
    """Rows that run together."""

    graph: str
    bucket: int
    """tokens of each row"""
    rows: list[tuple[Call, int]]
    began: float
    """time at which a worker took it"""

    @property
    def tokens(self) -> int:
        """Rows x width."""
        return len(self.rows) * self.bucket

    def stack(self) -> dict[str, NDArray[np.int64]]:
        """The graph's inputs, int64[b, width] each."""
        inputs = np.empty((2, len(self.rows), self.bucket), np.int64)
        for place, (call, row) in enumerate(self.rows):
            inputs[0, place], inputs[1, place] = call.encodings.row(row)
        return {"input_ids": inputs[0], "token_type_ids": inputs[1]}
