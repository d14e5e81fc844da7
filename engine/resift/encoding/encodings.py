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
    window_starts: NDArray[np.int32]
    """int32[n]: tokens of the document before each row's window; 0 in the first row of a pair and in no other"""
    query_tokens: NDArray[np.int32]
    """int32[n]: tokens of each row before its document: those of the query, and special ones"""
    tokens_cut: NDArray[np.int32]
    """int32[d]: tokens at the end of the document that are in no window"""
    tokens_cut_at_least: NDArray[np.bool_]
    """bool[d]: whether `tokens_cut` is a lower bound, because the document was too long to be counted in full"""
    query_tokens_cut: int
    """tokens dropped at the end of the query; a lower bound if it has more than SHORT_TEXT_CHARACTERS characters"""
    token_offsets: NDArray[np.int64] = field(init=False)
    """int64[n + 1]: row i has the tokens from token_offsets[i] up to token_offsets[i + 1]"""
    row_offsets: NDArray[np.int64] = field(init=False)
    """int64[d + 1]: pair i has the rows from row_offsets[i] up to row_offsets[i + 1]"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_offsets", np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)]))
        object.__setattr__(self, "row_offsets", np.append(np.flatnonzero(self.window_starts == 0), len(self.window_starts)))

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def documents(self) -> NDArray[np.int64]:
        """int64[n]: the number of the pair, and so of its document, of each row."""
        return np.cumsum(self.window_starts == 0) - 1

    @property
    def pair_lengths(self) -> NDArray[np.int32]:
        """int32[d]: tokens of each pair that are read, special tokens included; those that two windows share count once."""
        last = self.row_offsets[1:] - 1
        return self.window_starts[last] + self.lengths[last]

    def row(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Token ids and segment ids of row `number`, from 0: views of int32[lengths[number]] each."""
        span = slice(self.token_offsets[number], self.token_offsets[number + 1])
        return self.ids[span], self.segment_ids[span]

    def query(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Token ids and segment ids of what is before the document in row `number`: views of int32[query_tokens[number]] each."""
        start = self.token_offsets[number]
        span = slice(start, start + self.query_tokens[number])
        return self.ids[span], self.segment_ids[span]

    def document(self, number: int, limit: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Token ids and segment ids of row `number` from its document on: int32[t] each, t being at most `limit`.

        Of more tokens, the row's last one, which is special, follows the first `limit - 1`. So a document that is cut is the same
        next to any query that leaves `limit` tokens to it.
        """
        start, end = self.token_offsets[number] + self.query_tokens[number], self.token_offsets[number + 1]
        ids, segment_ids = self.ids[start:end], self.segment_ids[start:end]
        if len(ids) <= limit:
            return ids, segment_ids
        return np.append(ids[: limit - 1], ids[-1:]), np.append(segment_ids[: limit - 1], segment_ids[-1:])

    def document_lengths(self, limit: int) -> NDArray[np.int32]:
        """int32[n]: tokens of what `document` returns for each row."""
        lengths: NDArray[np.int32] = np.minimum(self.lengths - self.query_tokens, limit)
        return lengths

    @classmethod
    def join(cls, parts: Sequence[Encodings]) -> Encodings:
        """The pairs of any number of parts, in order, with the largest `query_tokens_cut`."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            none = np.empty(0, np.int32)
            return cls(none, none, none, none, none, none, np.empty(0, np.bool_), 0)
        columns = ("ids", "segment_ids", "lengths", "window_starts", "query_tokens", "tokens_cut", "tokens_cut_at_least")
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in columns}
        return cls(**joined, query_tokens_cut=max(part.query_tokens_cut for part in parts))
