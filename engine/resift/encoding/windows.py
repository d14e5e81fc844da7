"""Windows: a document too long for its pair is read in overlapping parts, of which the most relevant counts. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

OVERLAP = 4
"""A window begins with the last 1/OVERLAP, rounded down, of the room of the one before, so that most sentences are whole in one."""


def reach(room: int, windows: int) -> int:
    """Most tokens of a document that so many windows of `room` tokens, 1 or more, read together."""
    return room + (windows - 1) * _stride(room)


def spans(tokens: int, room: int) -> list[tuple[int, int]]:
    """Start and end of each window of `room` tokens, 1 or more, in which a document of `tokens` is read from end to end.

    One that fits has one window. The last window ends with the document, and overlaps with the one before by more than the others,
    so that it is full, too: more context costs nothing.
    """
    last = max(0, tokens - room)
    return [(start, min(tokens, start + room)) for start in (*range(0, last, _stride(room)), last)]


def best_rows(values: NDArray[np.float32], documents: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64[k]: the places of the largest of `values`, float32[m], of each of k documents; of equal values the first.

    `documents`, int64[m]: the document that each value is of, in any order; the places follow their numbers.
    """
    order = np.lexsort((-values, documents))
    return order[np.diff(documents[order], prepend=-1) > 0]


def _stride(room: int) -> int:
    return room - room // OVERLAP
