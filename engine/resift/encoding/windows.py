"""Windows: a document too long for its pair is read in overlapping parts; the most relevant one counts. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

OVERLAP = 4
"""A window begins with the last 1/OVERLAP of the one before, rounded down, so that most sentences are whole in one window."""


def reach(room: int, windows: int) -> int:
    """The maximum number of tokens of a document that `windows` windows of `room` tokens, 1 or more, cover together."""
    return room + (windows - 1) * _stride(room)


def spans(tokens: int, room: int) -> list[tuple[int, int]]:
    """Start and end of each window of `room` tokens, 1 or more, that together cover a document of `tokens` tokens.

    A document that fits has one window. The last window ends with the document, and overlaps with the one before by more than the
    others do, so that it is full, too: more context costs nothing.
    """
    last = max(0, tokens - room)
    return [(start, min(tokens, start + room)) for start in (*range(0, last, _stride(room)), last)]


def best_rows(values: NDArray[np.float32], documents: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64[k]: the position of the largest value of each of k documents in `values`, float32[m]; of equal values the first.

    `documents`, int64[m]: the number of each value's document, in any order; the result is sorted by these numbers.
    """
    order = np.lexsort((-values, documents))
    return order[np.diff(documents[order], prepend=-1) > 0]


def _stride(room: int) -> int:
    return room - room // OVERLAP
