"""Quality without labels: how well the ranking of a pool's first candidates agrees with the full ranking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resift.metrics import TOP

if TYPE_CHECKING:
    from collections.abc import Sequence


def top_agreement(order: Sequence[int], full: Sequence[int], top: int = TOP) -> float:
    """The share of the full ranking's best `top` that is among the best `top` of `order`; the better half if n < 2 x top."""
    size = max(1, min(top, len(full) // 2))
    return len(set(order[:size]) & set(full[:size])) / size


def first_of(order: Sequence[int], size: int) -> list[int]:
    """The ranking of a pool's first `size` candidates, derived from the ranking of all, as a logit depends on its pair alone."""
    return [index for index in order if index < size]
