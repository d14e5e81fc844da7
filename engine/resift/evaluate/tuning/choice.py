"""Chooses the best of the measured points, within a budget or without one. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from resift.errors import InputError
from resift.evaluate.significance import standard_error
from resift.evaluate.tuning.timing import share_within

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SHARE = 0.95
SEED = 11
MARGIN = 0.1
"""A point fits a budget only if it stays below it by this share, as a machine is never exactly as fast again."""
ROUNDING = 1e-9
"""Difference of two means of a measure that may be rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """The requirements of a point. Raises InputError for a value out of range."""

    budget_ms: float | None = None
    """milliseconds that a call of `rerank` may take; None: any time"""
    share: float = SHARE
    """share of calls that must be within the budget"""
    seed: int = SEED
    """seed of the bootstrap"""

    def __post_init__(self) -> None:
        if self.budget_ms is not None and not (self.budget_ms > 0 and math.isfinite(self.budget_ms)):
            raise InputError(f"the budget is {self.budget_ms} ms; expected a number above 0")
        if not 0 < self.share <= 1:
            raise InputError(f"share is {self.share}; expected a number above 0 and at most 1")

    def fits(self, milliseconds: NDArray[np.float64]) -> bool:
        """Whether the calls of both halves of the repeats stay below the budget by MARGIN.

        `milliseconds`: float64[repeats, pools], two repeats or more.
        """
        half = len(milliseconds) // 2
        return self.budget_ms is None or all(
            quantile(part, self.share) * (1 + MARGIN) <= self.budget_ms for part in (milliseconds[:half], milliseconds[half:])
        )

    def holds(self, milliseconds: NDArray[np.float64]) -> bool:
        """Whether enough of the calls, float64[repeats, pools], are within the budget."""
        return self.budget_ms is None or share_within(milliseconds, self.budget_ms) >= self.share


def quantile(milliseconds: NDArray[np.float64], share: float) -> float:
    """The smallest of the times that at least `share` of them do not exceed."""
    return float(np.quantile(milliseconds, share, method="inverted_cdf"))


def frontier(latency: Sequence[float], quality: Sequence[float]) -> list[bool]:
    """For each point, whether no other is at least as fast and as good, and better in one of both; of equal points, the first."""
    points = list(zip(latency, quality, strict=True))
    return [
        not any(
            fast <= latency and good >= quality and ((fast, good) != (latency, quality) or other < row)
            for other, (fast, good) in enumerate(points)
            if other != row
        )
        for row, (latency, quality) in enumerate(points)
    ]


def choosable(quality: NDArray[np.float64], allowed: Sequence[int], candidates: Sequence[int], seed: int) -> list[int]:
    """The rows of `allowed` (one or more) that are within noise of the best and rank as many candidates as it, or more.

    `quality`: float64[points, pools]; `candidates`: each point's number. Noise is no reason to rank fewer candidates: what few
    pools cannot tell from chance may still be a loss. Of equally good numbers of candidates, the smallest counts as the best.
    """
    means = quality.mean(axis=1)
    highest = max(means[row] for row in allowed)
    fewest = min(candidates[row] for row in allowed if means[row] >= highest - ROUNDING)
    return [row for row in within_noise(quality, allowed, seed) if candidates[row] >= fewest]


def within_noise(quality: NDArray[np.float64], allowed: Sequence[int], seed: int) -> list[int]:
    """The rows of `allowed` (one or more) whose mean quality is within one standard error of the best of them.

    `quality`: float64[points, pools]. The error is that of the paired difference, by bootstrap over pools. Choosing the simplest
    model within one standard error of the best is the rule of Breiman et al. 1984, Classification and Regression Trees, 3.4.3.
    """
    best = max(allowed, key=lambda row: float(quality[row].mean()))
    found = []
    for row in allowed:
        difference = quality[best] - quality[row]
        if float(difference.mean()) <= standard_error(difference, seed):
            found.append(row)
    return found
