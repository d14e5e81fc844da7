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
from resift.scheduling.halves import Phase, Reading, queue_name
from resift.scoring import relevance
from resift.states.document_states import StatesCounts

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from resift.artifact.resolved_plans import Step
    from resift.encoding.encodings import Encodings
    from resift.scheduling.buckets import Bucket
    from resift.scheduling.deadline import Deadline
    from resift.scheduling.halves import Documents
    from resift.states.document_states import Found

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
    documents: Mapping[str, Documents] = field(default_factory=dict)
    """what the split graphs of its steps read of the documents, by the graphs' names"""
    reading: Reading | None = None
    """where it is in a step with a split graph; None in any other"""
    states_owner: str | None = ""
    """whose memory its documents' states are looked up and kept in; None: they are not kept"""
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
    row_tokens: NDArray[np.int32] = field(init=False)
    """int32[rows]: the tokens that each row counts for while it waits; in a step with a split graph they are not its length"""
    pending_rows: int = field(init=False)
    """number of rows that the current step, or its present phase, has yet to finish"""
    states_counts: StatesCounts | None = field(default=None, init=False)
    """what was known of the documents that split graphs read; None before one has"""

    def __post_init__(self) -> None:
        self.row_tokens = self.encodings.lengths
        self.pending_rows = len(self.row_tokens)
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
    def queue(self) -> str:
        """Name of the graph, or of the phase, that its rows wait for."""
        return self.graph if self.reading is None else self.reading.queue

    @property
    def document_steps(self) -> NDArray[np.int8]:
        """int8[d]: number of steps that have scored all windows of each document."""
        return np.minimum.reduceat(self.steps_done, self.encodings.row_offsets[:-1])

    def begin_step(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Begins the current step for `rows`, and returns those that wait first."""
        documents = self.documents.get(self.graph)
        if documents is None:
            return rows
        if self.reading is None:
            self.reading = Reading(self.graph, documents, self.encodings, rows)
        return self._follow(self.reading.go_on())

    def go_on(self) -> NDArray[np.int64]:
        """Begins the next phase or step, once no row of the present one is left, and returns the rows that wait for it, if any.

        There are none after the last step, and after one that scored nothing in time. Raises LogitsError like `survivors`.
        """
        if self.reading is not None and len(rows := self.reading.go_on()):
            return self._follow(rows)
        self.reading, self.row_tokens = None, self.encodings.lengths
        if self.step_number == len(self.steps) - 1 or not (self.document_steps > self.step_number).any():
            return np.empty(0, np.int64)
        rows = self.survivors()
        self.step_number += 1
        return self.begin_step(rows)

    def _follow(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same rows, which count for as many tokens as the present phase says."""
        assert self.reading is not None
        self.row_tokens = self.reading.row_tokens
        return rows

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

    def take_in(self, rows: list[int], found: Found, phase: Phase | None) -> int:
        """Takes in what was found of the documents of `rows`, or computed; returns how many of them a lookup did not find."""
        assert self.reading is not None
        self.reading.keep(rows, found.states)
        new = len(rows) - found.prepared - found.cached
        before = self.states_counts or StatesCounts(0, 0, 0)
        computed = new if phase is Phase.DOCUMENT else 0
        self.states_counts = StatesCounts(before.prepared + found.prepared, before.cached + found.cached, before.new + computed)
        return new

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
    phase: Phase | None = None
    """what is done with them for a split graph; None: they are scored by a graph of another kind"""
    states: list[NDArray[np.uint8]] = field(default_factory=list, init=False)
    """in a split graph's last phase, the states of each row's document"""

    @property
    def tokens(self) -> int:
        """Rows x width."""
        return len(self.rows) * self.bucket.width

    @property
    def queue(self) -> str:
        """The name under which its rows waited."""
        return self.graph if self.phase is None else queue_name(self.graph, self.phase)

    def by_call(self) -> dict[Call, list[int]]:
        """The rows of each call, in their order."""
        rows: dict[Call, list[int]] = {}
        for call, row in self.rows:
            rows.setdefault(call, []).append(row)
        return rows

    def start(self, now: float) -> None:
        """Records that a worker takes it, and holds the states that it reads: a call that ends meanwhile lets go of its own."""
        self.started_at = now
        for call, _ in self.rows:
            if call.started_at is None:
                call.started_at = now
        if self.phase is Phase.QUERY:
            self.states = [call.reading.states_of(row) for call, row in self.rows if call.reading is not None]

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
