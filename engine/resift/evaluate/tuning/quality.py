"""Quality: the ranking of a pool's first candidates, and how much of the full ranking it keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resift.metrics import TOP

if TYPE_CHECKING:
    from collections.abc import Sequence


def kept(order: Sequence[int], full: Sequence[int], top: int = TOP) -> float:
    """Share of the best `top` of the full ranking that are among the best `top` of `order`; of n < 2 x top, the better half."""
    size = max(1, min(top, len(full) // 2))
    return len(set(order[:size]) & set(full[:size])) / size


def first_of(order: Sequence[int], size: int) -> list[int]:
    """The ranking of a pool's first `size` candidates, taken from the ranking of all: a logit depends on its pair alone."""
    return [index for index in order if index < size]
