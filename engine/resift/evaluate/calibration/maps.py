"""Fits maps from logits to probabilities: Platt's, isotonic regression, and the choice between them. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from resift.calibration import METHODS, sigmoid
from resift.evaluate.significance import standard_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from resift.calibration import Method
    from resift.evaluate.calibration.sample import Sample

FOLDS = 5
STEPS = 100
"""Maximum number of Newton's steps; a dozen are usual."""
TOLERANCE = 1e-10
CLOSEST = 1e-12
"""Closest that a probability comes to 0 and 1 where its logarithm is taken."""
BLOCKS = 256
"""Maximum number of levels of an isotonic map, which a settings file has room for; data of a million pairs has some hundred."""


@dataclass(frozen=True, slots=True, eq=False)
class PlattMap:
    """The sigmoid of a line."""

    slope: float
    intercept: float

    def __call__(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities, float64[n]."""
        with np.errstate(over="ignore"):
            return sigmoid(self.slope * logits + self.intercept)


@dataclass(frozen=True, slots=True, eq=False)
class IsotonicMap:
    """A line through points, level beyond the first and the last."""

    logits: NDArray[np.float64]
    """float64[k], increasing"""
    probabilities: NDArray[np.float64]
    """float64[k], never decreasing"""

    def __call__(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities, float64[n]."""
        return np.interp(logits, self.logits, self.probabilities)


ProbabilityMap = PlattMap | IsotonicMap


@dataclass(frozen=True, slots=True, eq=False)
class ChosenMap:
    """A fitted map, and how its method was chosen."""

    method: Method
    map: ProbabilityMap
    losses: dict[Method, float]
    """mean log loss of a held-out pair by method; empty if the method was named"""


def choose(sample: Sample, method: Method | Literal["auto"], seed: int) -> ChosenMap:
    """Fits `method`; auto: Platt's, unless isotonic regression is better on held-out queries beyond what is chance.

    The methods are compared by log loss over FOLDS folds of queries. Isotonic regression follows its data into every corner, so
    that it is taken only if the mean difference of a query is more than its standard error.
    """
    if method != "auto":
        return ChosenMap(method, FITS[method](sample), {})
    losses = {}
    for name in METHODS:
        held_out = np.clip(probabilities_held_out(sample, FITS[name], seed), CLOSEST, 1 - CLOSEST)
        losses[name] = -np.log(np.where(sample.relevant, held_out, 1 - held_out))
    gains = sample.sums(losses["platt"] - losses["isotonic"])
    chosen: Method = "isotonic" if gains.mean() > standard_error(gains, seed) else "platt"
    return ChosenMap(chosen, FITS[chosen](sample), {name: float(each.mean()) for name, each in losses.items()})


def splits(sample: Sample, seed: int) -> Iterator[tuple[Sample, NDArray[np.bool_]]]:
    """For each fold of queries: the pairs of all other folds, and bool[n] that marks its own."""
    folds = sample.fold_of_each(FOLDS, seed)
    for number in range(FOLDS):
        yield sample.select(folds != number), folds == number


def probabilities_held_out(sample: Sample, fit: Callable[[Sample], ProbabilityMap], seed: int) -> NDArray[np.float64]:
    """float64[n]: the probability of each pair by a map that was fitted to the other folds' queries."""
    found = np.empty(len(sample.logits))
    for others, rows in splits(sample, seed):
        found[rows] = fit(others)(sample.logits[rows])
    return found


def fit_platt(sample: Sample) -> PlattMap:
    """Platt scaling with his smoothed targets, by Newton's method with backtracking.

    Platt 1999, Probabilistic outputs for support vector machines; Lin, Lin and Weng 2007, doi:10.1007/s10994-007-5018-6. The
    slope is 0 or above: logits that fall with relevance give every pair the same probability.
    """
    centre, spread = sample.logits.mean(), sample.logits.std()
    if not spread:
        return PlattMap(0.0, _log_odds(float(_targets(sample).mean())))
    x, targets = (sample.logits - centre) / spread, _targets(sample)
    columns = np.stack([x, np.ones_like(x)], axis=1)
    weights = np.array([0.0, _log_odds(float(targets.mean()))])
    loss = _log_loss(columns @ weights, targets)
    for _ in range(STEPS):
        p = sigmoid(columns @ weights)
        gradient = columns.T @ (p - targets)
        hessian = (columns * (p * (1 - p))[:, None]).T @ columns + 1e-12 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while (after := _log_loss(columns @ (weights - size * step), targets)) > loss and size > 1e-10:
            size /= 2
        if after > loss:
            break
        gain, weights, loss = loss - after, weights - size * step, after
        if gain <= TOLERANCE * (1 + loss):
            break
    if weights[0] <= 0:
        return PlattMap(0.0, _log_odds(float(targets.mean())))
    return PlattMap(float(weights[0] / spread), float(weights[1] - weights[0] * centre / spread))


def fit_isotonic(sample: Sample) -> IsotonicMap:
    """Isotonic regression by pooling adjacent violators, with Platt's smoothed targets, so that no probability is 0 or 1.

    Barlow, Bartholomew, Bremner and Brunk 1972, Statistical inference under order restrictions. Equal logits have one level.
    """
    logits, places = np.unique(sample.logits, return_inverse=True)
    pairs = np.bincount(places)
    sums = np.bincount(places, _targets(sample))
    blocks: list[list[float]] = []  # of each: first and last place, pairs, sum of targets
    for place, (count, total) in enumerate(zip(pairs.tolist(), sums.tolist(), strict=True)):
        blocks.append([place, place, count, total])
        while len(blocks) > 1 and blocks[-2][3] * blocks[-1][2] >= blocks[-1][3] * blocks[-2][2]:
            _merge(blocks, len(blocks) - 2)
    while len(blocks) > BLOCKS:
        for number in range(len(blocks) // 2):
            _merge(blocks, number)
    points = {place: total / count for start, end, count, total in blocks for place in (int(start), int(end))}
    return IsotonicMap(logits[list(points)], np.array(list(points.values())))


FITS: dict[Method, Callable[[Sample], ProbabilityMap]] = {"platt": fit_platt, "isotonic": fit_isotonic}


def _merge(blocks: list[list[float]], number: int) -> None:
    _, end, count, total = blocks.pop(number + 1)
    start, _, own_count, own_total = blocks[number]
    blocks[number] = [start, end, own_count + count, own_total + total]


def _targets(sample: Sample) -> NDArray[np.float64]:
    """Platt's targets: what a relevant pair, and any other, would have by Laplace's rule of succession."""
    relevant = int(sample.relevant.sum())
    other = len(sample.relevant) - relevant
    return np.where(sample.relevant, (relevant + 1) / (relevant + 2), 1 / (other + 2))


def _log_odds(probability: float) -> float:
    return float(np.log(probability) - np.log1p(-probability))


def _log_loss(log_odds: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    return float(np.sum(np.logaddexp(0, log_odds) - targets * log_odds))
