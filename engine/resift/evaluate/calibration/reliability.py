"""How well probabilities agree with relevance: bins, Brier score and expected calibration error, with intervals over queries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resift.evaluate.results import Reliability, ReliabilityBin, Share
from resift.evaluate.significance import ENDS, resampled_means

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resift.evaluate.calibration.sample import Sample

BINS = 10


def reliability(probabilities: NDArray[np.float64], sample: Sample) -> Reliability:
    """Compares `probabilities`, float64[n], with the relevance of the n pairs of `sample`, of which there must be one or more.

    Intervals are the bootstrap's over queries, as the pairs of a query are not independent. That of the expected calibration error
    is centred on it: chance in the resamples adds to absolute values, which moves all of them up.
    """
    place = np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)
    is_in = place[:, None] == np.unique(place)
    columns = (np.ones(len(place)), probabilities, sample.relevant)
    pairs, mass, relevant = (sample.sums(is_in * column[:, None]) for column in columns)
    means = resampled_means(np.concatenate([mass - relevant, pairs], axis=1))
    errors = np.abs(means[:, : pairs.shape[1]]).sum(axis=1) / means[:, pairs.shape[1] :].sum(axis=1)
    error = float(np.abs((mass - relevant).sum(axis=0)).sum() / len(place))
    low, high = np.percentile(errors, ENDS) - errors.mean() + error
    squares = sample.sums((probabilities - sample.relevant) ** 2)
    brier, *bins = shares(np.column_stack([squares, relevant]), np.column_stack([pairs.sum(axis=1), pairs]))
    totals = pairs.sum(axis=0)
    return Reliability(
        ece=Share(value=error, low=max(0.0, float(low)), high=float(high)),
        brier=brier,
        bins=[
            ReliabilityBin(
                low=number / BINS, high=(number + 1) / BINS, pairs=int(total), probability=float(part / total), relevant=found
            )
            for number, total, part, found in zip(np.unique(place).tolist(), totals, mass.sum(axis=0), bins, strict=True)
        ],
    )


def shares(parts: NDArray[np.float64], wholes: NDArray[np.float64]) -> list[Share]:
    """For each of m columns: the sum of `parts`, [q, m] by query, as a share of that of `wholes`, [q, m], which is above 0.

    Resamples in which nothing is left of a whole are left out.
    """
    means = np.split(resampled_means(np.concatenate([parts, wholes], axis=1)), 2, axis=1)
    found = []
    for part, whole, total, count in zip(*(each.T for each in means), parts.sum(axis=0), wholes.sum(axis=0), strict=True):
        low, high = np.percentile(part[whole > 0] / whole[whole > 0], ENDS).tolist()
        found.append(Share(value=float(total / count), low=low, high=high))
    return found
