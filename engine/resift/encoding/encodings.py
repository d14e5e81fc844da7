"""Encodings: encoded pairs, as the rows that graphs read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Encodings:
    """d encoded pairs as n rows, their tokens concatenated: a row a pair, or one for each window of its document."""

    ids: NDArray[np.int32]
    """int32[t]: token ids of all rows; t = lengths.sum()"""
    segment_ids: NDArray[np.int32]
    """int32[t]: segment ids of all rows"""
    lengths: NDArray[np.int32]
    """int32[n]: tokens of each row, special tokens included"""
    starts: NDArray[np.int32]
    """int32[n]: tokens of the document before each row's window; 0 in the first row of a pair and in no other"""
    tokens_cut: NDArray[np.int32]
    """int32[d]: tokens dropped at the end of the document, which no window reads"""
    at_least: NDArray[np.bool_]
    """bool[d]: whether tokens_cut is a lower bound, as the document was too long to be counted in full"""
    query_tokens_cut: int
    """tokens dropped at the end of the query; a lower bound if it has more than SHORT_TEXT_CHARACTERS characters"""
    offsets: NDArray[np.int64] = field(init=False)
    """int64[n + 1]: row i has the tokens from offsets[i] up to offsets[i + 1]"""
    firsts: NDArray[np.int64] = field(init=False)
    """int64[d + 1]: pair i has the rows from firsts[i] up to firsts[i + 1]"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "offsets", np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)]))
        object.__setattr__(self, "firsts", np.append(np.flatnonzero(self.starts == 0), len(self.starts)))

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def documents(self) -> NDArray[np.int64]:
        """int64[n]: the number of the pair, and so of its document, of each row."""
        return np.cumsum(self.starts == 0) - 1

    @property
    def pair_lengths(self) -> NDArray[np.int32]:
        """int32[d]: tokens of each pair that are read, special tokens included; those that two windows share count once."""
        last = self.firsts[1:] - 1
        return self.starts[last] + self.lengths[last]

    def row(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Token ids and segment ids of row `number`, from 0: views of int32[lengths[number]] each."""
        span = slice(self.offsets[number], self.offsets[number + 1])
        return self.ids[span], self.segment_ids[span]

    @classmethod
    def join(cls, parts: Sequence[Encodings]) -> Encodings:
        """The pairs of any number of parts, in order, with the largest `query_tokens_cut`."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            none = np.empty(0, np.int32)
            return cls(none, none, none, none, none, np.empty(0, np.bool_), 0)
        columns = ("ids", "segment_ids", "lengths", "starts", "tokens_cut", "at_least")
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in columns}
        return cls(**joined, query_tokens_cut=max(part.query_tokens_cut for part in parts))
