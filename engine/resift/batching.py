"""plan_batches: which pairs run together. Pure arithmetic.

A batch holds pairs of one length, so nothing is padded: no work is spent on padding, attention needs no mask (the
unmasked kernel is twice as fast), and no pair can feel the length of another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Batch:
    """Pairs that run together."""

    rows: NDArray[np.int64]
    """int64[b]: positions of the pairs in the caller's order"""
    width: int
    """tokens of each of them"""


def plan_batches(lengths: NDArray[np.int32], token_budget: int) -> list[Batch]:
    """Batches that hold every pair once, longest first, each of at most `token_budget` tokens or one pair.

    `lengths` is int32[n], tokens a pair. The longest batch comes first so that memory peaks at once, not late.
    """
    order = np.argsort(-lengths, kind="stable")
    starts = np.flatnonzero(np.diff(lengths[order], prepend=-1))
    batches: list[Batch] = []
    for group in np.split(order, starts[1:]):
        if not len(group):
            continue
        width = int(lengths[group[0]])
        size = max(1, token_budget // max(1, width))
        batches.extend(Batch(group[start : start + size], width) for start in range(0, len(group), size))
    return batches
