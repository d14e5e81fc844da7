"""Fusion: one ranking from those of several retrievers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

K = 60
"""The constant of reciprocal rank fusion in its paper."""


def fuse(rankings: Sequence[Iterable[int]], depth: int) -> list[int]:
    """The best `depth` positions by reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009); one ranking stays as it is.

    Equal sums keep the order of the first ranking, then of the next.
    """
    sums: dict[int, float] = {}
    for ranking in rankings:
        for rank, position in enumerate(ranking, 1):
            sums[int(position)] = sums.get(int(position), 0.0) + 1 / (K + rank)
    return sorted(sums, key=lambda position: -sums[position])[:depth]
