"""Halves: how a call's step is read by a split graph: states are looked up, computed where they are not known, and read. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from resift.artifact.signature import DOCUMENT_TOKENS, QUERY_OF, STATES
from resift.scheduling.buckets import Bucket
from resift.states.digests import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from resift.artifact.signature import Split
    from resift.encoding.encodings import Encodings
    from resift.scheduling.call import Batch


class Phase(Enum):
    """What rows wait for in a step with a split graph: one after the other, each of them for all rows of the step."""

    LOOKUP = "lookup"
    """what is known of their documents"""
    DOCUMENT = "document"
    """the document half: a row for each document that is not known"""
    QUERY = "query"
    """the query half"""


ALL_PHASES = (Phase.LOOKUP, Phase.DOCUMENT, Phase.QUERY)


def queue_name(graph: str, phase: Phase) -> str:
    """The name under which rows wait, and by which their pace is known: in the last phase, the graph's own."""
    return graph if phase is Phase.QUERY else f"{graph}/{phase.value}"


class Documents(NamedTuple):
    """The documents of a call as a split graph's halves read them."""

    split: Split
    digests: list[bytes]
    """of each row's document"""

    @classmethod
    def of(cls, split: Split, encodings: Encodings) -> Self:
        """Those of encoded pairs."""
        limit = split.document_tokens
        return cls(split, [digest_of(*encodings.document(row, limit)) for row in range(len(encodings))])


@dataclass(eq=False, slots=True)
class Reading:
    """How far a call is in a step with a split graph. It holds the states of the step's documents, from the lookup to the end."""

    graph: str
    documents: Documents
    encodings: Encodings
    rows: NDArray[np.int64]
    """of the step, in the order in which they are to be read"""
    phases: tuple[Phase, ...] = ALL_PHASES
    states: dict[bytes, NDArray[np.uint8]] = field(default_factory=dict, init=False)
    """uint8[tokens, size] of each document that is known, by its digest"""
    row_tokens: NDArray[np.int32] = field(init=False)
    """int32[n]: what each row of the call counts for in the present phase, in tokens"""
    _phase: int = field(default=-1, init=False)

    @property
    def phase(self) -> Phase:
        """The present one."""
        return self.phases[self._phase]

    @property
    def queue(self) -> str:
        """The name under which the rows of the phase wait."""
        return queue_name(self.graph, self.phase)

    def go_on(self) -> NDArray[np.int64]:
        """Begins the next phase that has rows, and returns these, in their order; none after the last phase."""
        while self._phase + 1 < len(self.phases):
            self._phase += 1
            rows = np.array([*self._phase_rows()], np.int64)
            if len(rows):
                self.row_tokens = self._phase_tokens()
                return rows
        return self.rows[:0]

    def buckets(self, rows: NDArray[np.int64]) -> list[Bucket]:
        """The bucket of each of the `rows` in the present phase. It depends on the row alone."""
        if self.phase is Phase.LOOKUP:
            return [Bucket(1, 1)] * len(rows)
        lengths = self.encodings.document_lengths(self.documents.split.document_tokens)[rows]
        if self.phase is Phase.DOCUMENT:
            return [Bucket(length, length) for length in lengths.tolist()]
        columns = (self.row_tokens[rows], self.encodings.query_tokens[rows], self.documents.split.width_of(lengths))
        return [Bucket(*bucket) for bucket in zip(*(column.tolist() for column in columns), strict=True)]

    def keep(self, rows: Iterable[int], states: Iterable[NDArray[np.uint8] | None]) -> None:
        """Holds the states of the documents of `rows`, None where they are not known; those of other lengths are not theirs."""
        lengths = self.encodings.document_lengths(self.documents.split.document_tokens)
        for row, each in zip(rows, states, strict=True):
            if each is not None and len(each) == lengths[row]:
                self.states[self.documents.digests[row]] = each

    def states_of(self, row: int) -> NDArray[np.uint8]:
        """The states of the document of a row, which are known."""
        return self.states[self.documents.digests[row]]

    @property
    def following_tokens(self) -> float:
        """What a row counts for in the query half, in tokens, on average; 0 once that is the present phase."""
        return 0.0 if self.phase is Phase.QUERY else float(self._query_tokens()[self.rows].mean())

    def _phase_rows(self) -> Iterator[int]:
        """The rows of the present phase: those of equal documents are looked up and computed once."""
        if self.phase is Phase.QUERY:
            return (row for row in self.rows.tolist() if self.documents.digests[row] in self.states)
        first_rows: dict[bytes, int] = {}
        for row in self.rows.tolist():
            first_rows.setdefault(self.documents.digests[row], row)
        return (row for digest, row in first_rows.items() if digest not in self.states)

    def _phase_tokens(self) -> NDArray[np.int32]:
        """int32[n]: what each row counts for in the present phase, in tokens."""
        match self.phase:
            case Phase.LOOKUP:
                return self.encodings.lengths
            case Phase.DOCUMENT:
                return self.encodings.document_lengths(self.documents.split.document_tokens)
            case Phase.QUERY:
                return self._query_tokens()

    def _query_tokens(self) -> NDArray[np.int32]:
        """int32[n]: tokens of each row's query, and as many more as cost what it takes to read its document's states."""
        split = self.documents.split
        states = split.width_of(self.encodings.document_lengths(split.document_tokens))
        reading: NDArray[np.int32] = np.ceil(states * (split.reading_operations / split.query_operations)).astype(np.int32)
        return self.encodings.query_tokens + reading


def stack_documents(batch: Batch) -> dict[str, NDArray[np.int64]]:
    """What a document half reads of a batch's documents, all of d tokens: int64[b, d] each, by the names of its inputs."""
    inputs = np.empty((2, len(batch.rows), batch.bucket.width), np.int64)
    for position, (call, row) in enumerate(batch.rows):
        limit = call.documents[batch.graph].split.document_tokens
        inputs[0, position], inputs[1, position] = call.encodings.document(row, limit)
    return {"input_ids": inputs[0], "token_type_ids": inputs[1]}


def stack_queries(batch: Batch) -> dict[str, NDArray[Any]]:
    """What a query half reads of a batch, by the names of its inputs: n distinct queries, and b documents' states.

    int64[n, q] each: `input_ids` and `token_type_ids`; int64[b] each: which of the queries reads each document, and its tokens;
    uint8[b, w, size]: its states, with zeros after them.
    """
    states = np.zeros((len(batch.rows), batch.bucket.states, batch.states[0].shape[1]), np.uint8)
    query_of, document_tokens = np.empty((2, len(batch.rows)), np.int64)
    numbers: dict[bytes, int] = {}
    queries: list[NDArray[np.int32]] = []
    for position, ((call, row), each) in enumerate(zip(batch.rows, batch.states, strict=True)):
        query = np.stack(call.encodings.query(row))
        number = query_of[position] = numbers.setdefault(query.tobytes(), len(queries))
        if number == len(queries):
            queries.append(query)
        states[position, : len(each)], document_tokens[position] = each, len(each)
    ids, segment_ids = np.stack(queries, axis=1).astype(np.int64)
    return {
        "input_ids": ids,
        "token_type_ids": segment_ids,
        QUERY_OF: query_of,
        STATES: states,
        DOCUMENT_TOKENS: document_tokens,
    }
