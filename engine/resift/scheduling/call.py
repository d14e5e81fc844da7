"""Call: what a caller submits, with its results so far; and the batches in which its rows run."""

from __future__ import annotations

import os
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from resift.artifact.signature import MASK, UPDATED
from resift.encoding.windows import best_rows
from resift.errors import ClosedError
from resift.scoring import relevance

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from numpy.typing import NDArray

    from resift.artifact.resolved_plans import Step
    from resift.encoding.encodings import Encodings
    from resift.scheduling.buckets import Bucket
    from resift.scheduling.deadline import Deadline

Result = TypeVar("Result")


class CallFuture(Future[Result]):
    """The Future of a call. In a child that was forked before it was done, it raises ClosedError: no thread works on it there."""

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
    """The n pairs that a caller submits, and their results so far. Equal pairs are encoded and scored once."""

    encodings: Encodings
    """the d distinct pairs"""
    order: NDArray[np.int64]
    """int64[n]: the caller's pair i is distinct pair order[i]"""
    steps: tuple[Step, ...]
    """the graphs that score them: all documents in the first step, the best of each step in the next"""
    outcome: Callable[[Call], Any]
    """computes the result of the future once the call has ended; it may raise"""
    deadline: Deadline | None = None
    """when the call ends, whatever has been scored by then; None: once its last step is done"""
    future: CallFuture[Any] = field(default_factory=CallFuture, init=False)
    """receives the outcome"""
    is_submitted: bool = field(default=False, init=False)
    logits: dict[str, NDArray[np.float32]] = field(default_factory=dict, init=False)
    """float32[rows, labels] for each graph that has run; NaN in rows that it has not scored"""
    steps_done: NDArray[np.int8] = field(init=False)
    """int8[rows]: number of steps that have scored each row"""
    step_number: int = field(default=0, init=False)
    """number of the current step, from 0"""
    error: Exception | None = field(default=None, init=False)
    queued_at: float = field(default=0.0, init=False)
    started_at: float | None = field(default=None, init=False)
    """time at which a worker took its first row"""
    due: float = field(default=0.0, init=False)
    """time that decides which of the waiting calls goes first: the earliest"""
    number: int = field(default=0, init=False)
    """number of the call in the order of arrival, which decides between calls that are due at the same time"""
    ended: bool = field(default=False, init=False)
    waiting: dict[Bucket, deque[int]] = field(default_factory=dict, init=False)
    """rows that have not started, by bucket, longest first; best first if it has a deadline"""
    waiting_tokens: int = field(default=0, init=False)
    """tokens of those rows"""
    pending_rows: int = field(init=False)
    """number of rows that the current step has yet to score"""

    def __post_init__(self) -> None:
        self.pending_rows = len(self.encodings.lengths)
        self.steps_done = np.zeros(self.pending_rows, np.int8)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """int32[n]: tokens of each pair, special tokens included; those that two windows of a document share count once."""
        return self.encodings.pair_lengths[self.order]

    @property
    def tokens(self) -> int:
        """Tokens of all n pairs in all their windows."""
        return int(np.diff(self.encodings.token_offsets[self.encodings.row_offsets])[self.order].sum())

    @property
    def tokens_cut(self) -> NDArray[np.int32]:
        """int32[n]: tokens cut from the end of each document."""
        return self.encodings.tokens_cut[self.order]

    @property
    def query_tokens_cut(self) -> int:
        """Tokens cut from the end of the query; the largest number if there are several queries."""
        return self.encodings.query_tokens_cut

    @property
    def graph(self) -> str:
        """Name of the current step's graph."""
        return self.steps[self.step_number].graph

    @property
    def document_steps(self) -> NDArray[np.int8]:
        """int8[d]: number of steps that have scored all windows of each document."""
        return np.minimum.reduceat(self.steps_done, self.encodings.row_offsets[:-1])

    def survivors(self) -> NDArray[np.int64]:
        """The rows of the documents that go on to the next step, the best document first, equal ones in the caller's order.

        A document is as good as its best window. Raises LogitsError.
        """
        step, documents = self.steps[self.step_number], self.encodings.documents
        rows = np.flatnonzero(self.document_steps[documents] > self.step_number)
        ranked = relevance(self.logits[step.graph][rows], step.rule, positions=documents[rows])
        best = best_rows(ranked, documents[rows])
        survivors = documents[rows[best[np.argsort(-ranked[best], kind="stable")[: step.keep]]]]
        offsets = self.encodings.row_offsets
        return np.concatenate([np.arange(offsets[document], offsets[document + 1]) for document in survivors])

    def resolve(self) -> None:
        """Sets the result of a call that has ended, unless its future was cancelled."""
        if not self.future.set_running_or_notify_cancel():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
            return
        try:
            result = self.outcome(self)
        except Exception as error:  # noqa: BLE001 - passed on to the caller
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


@dataclass(eq=False, slots=True)
class Batch:
    """Rows that run together."""

    graph: str
    bucket: Bucket
    """its width, padding included, and its updated tokens"""
    rows: list[tuple[Call, int]]
    started_at: float
    """time at which a worker took it"""

    @property
    def tokens(self) -> int:
        """Rows x width."""
        return len(self.rows) * self.bucket.width

    def stack(self) -> dict[str, NDArray[np.int64]]:
        """What graphs read, by the names of their inputs: int64[b, width], and int64[1], the number of updated tokens.

        Rows that are shorter than the width are padded with zeros at their ends.
        """
        inputs = np.zeros((3, len(self.rows), self.bucket.width), np.int64)
        for position, (call, row) in enumerate(self.rows):
            ids, segment_ids = call.encodings.row(row)
            inputs[0, position, : len(ids)], inputs[1, position, : len(ids)] = ids, segment_ids
            inputs[2, position, : len(ids)] = 1
        updated = np.array([self.bucket.updated])
        return {"input_ids": inputs[0], "token_type_ids": inputs[1], MASK: inputs[2], UPDATED: updated}
