"""Thresholds on probabilities for a precision or a recall."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from msgspec.structs import replace

from resift.evaluate.calibration.records import Threshold
from resift.evaluate.calibration.reliability import shares
from resift.evaluate.significance import ROUNDING

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resift.evaluate.calibration.maps import ProbabilityMap
    from resift.evaluate.calibration.sample import Sample

DIGITS = 6
"""Digits of a threshold, which is rounded down, so that what it was fitted to still passes."""
MINIMUM = 10
"""Pairs that must pass: with fewer, a precision is chance."""


class Target(NamedTuple):
    """What a threshold is to reach."""

    measure: Literal["precision", "recall"]
    value: float


class Fold(NamedTuple):
    """A map that was fitted without some queries."""

    map: ProbabilityMap
    fitted_to: Sample
    rows: NDArray[np.bool_]
    """bool[n]: the pairs of the queries that were held out"""


class _Cut(NamedTuple):
    threshold: float | None
    best: float


def threshold(sample: Sample, fitted: ProbabilityMap, target: Target, folds: list[Fold]) -> Threshold:
    """The threshold that reaches the target by `fitted` on `sample`, with what such a threshold gives on held-out queries.

    For the latter, each fold's threshold is found on its other queries, by its map.
    """
    cut = _cut(fitted(sample.logits), sample.relevant, target)
    found = Threshold(measure=target.measure, target=target.value, threshold=cut.threshold, best=cut.best)
    if cut.threshold is None:
        return found
    passes = np.zeros(len(sample.logits), np.bool_)
    for fold in folds:
        fold_cut = _cut(fold.map(fold.fitted_to.logits), fold.fitted_to.relevant, target)
        if fold_cut.threshold is not None:
            passes[fold.rows] = fold.map(sample.logits[fold.rows]) >= fold_cut.threshold
    hits, relevant = passes & sample.relevant, sample.relevant
    parts, wholes = [hits, passes], [relevant, np.ones_like(passes)]
    if passes.any():
        parts, wholes = [*parts, hits], [*wholes, passes]
    recall, passing, *precision = shares(*(sample.sums(np.column_stack(columns)) for columns in (parts, wholes)))
    return replace(found, precision=precision[0] if precision else None, recall=recall, passing=passing)


def _cut(probabilities: NDArray[np.float64], relevant: NDArray[np.bool_], target: Target) -> _Cut:
    """The lowest threshold of at least the precision, or the highest of at least the recall, of all that MINIMUM pairs pass."""
    order = np.argsort(-probabilities, kind="stable")
    falling = probabilities[order]
    candidates = np.unique(round_down(falling))
    passing = np.searchsorted(-falling, -candidates, side="right")
    hits = np.cumsum(relevant[order])[passing - 1]
    enough = passing >= min(MINIMUM, len(falling))
    candidates, passing, hits = candidates[enough], passing[enough], hits[enough]
    if target.measure == "recall":
        reached = hits >= target.value * relevant.sum() - ROUNDING
        return _Cut(float(candidates[reached][-1]), 1.0)
    precisions = hits / passing
    reached = precisions >= target.value - ROUNDING
    return _Cut(float(candidates[reached][0]) if reached.any() else None, float(precisions.max()))


def round_down(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64[n]: the probabilities, cut to DIGITS digits other than leading zeros; none is above its probability."""
    with np.errstate(divide="ignore"):
        exponents = np.floor(np.log10(probabilities))
    scales = 10.0 ** (DIGITS - 1 - np.where(np.isfinite(exponents), np.clip(exponents, -300 + DIGITS, 0), 0))
    return np.minimum(np.floor(probabilities * scales) / scales, probabilities)
