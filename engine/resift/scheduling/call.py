"""Call: what a caller submitted, with its results so far; and the batches that its rows run in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from resift.encoding.windows import best_rows
from resift.scoring import relevance

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from resift.artifact.steps import Step
    from resift.encoding.encodings import Encodings


@dataclass(eq=False, slots=True)
class Call:
    """What a caller submitted: distinct pairs, and their results so far."""

    steps: tuple[Step, ...]
    """what reads them: all documents in the first step, the best of each in the next"""
    encodings: Encodings
    outcome: Callable[[Call], Any]
    """computes the answer once the call has ended; it may raise"""
    answer: Future[Any]
    """receives the outcome; the scheduler does not touch it"""
    deadline: float | None = None
    """time at which it ends, whatever was read by then; None: once everything was read"""
    logits: dict[str, NDArray[np.float32]] = field(default_factory=dict, init=False)
    """float32[n, labels] by row for each graph that has run; NaN in rows that it has not read"""
    read: NDArray[np.int8] = field(init=False)
    """int8[n]: steps that have read each row"""
    stage: int = field(default=0, init=False)
    """number of the step that it is in, from 0"""
    error: Exception | None = None
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
    places: dict[int, int] = field(default_factory=dict, init=False)
    """of a call with a deadline: each row's place in the order in which the step reads, from 0"""
    waiting_tokens: int = field(default=0, init=False)
    """tokens of those rows"""
    unread: int = field(init=False)
    """number of rows that the step has yet to read"""

    def __post_init__(self) -> None:
        self.unread = len(self.encodings.lengths)
        self.read = np.zeros(self.unread, np.int8)

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
