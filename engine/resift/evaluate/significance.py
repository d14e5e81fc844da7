"""Confidence intervals and significance tests for a difference of means over the same queries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

RESAMPLES = 10_000
SEED = 11
ENDS = (2.5, 97.5)
"""Percentiles at the ends of an interval."""
EXACT_LIMIT = 13
"""Maximum number of differences for which all sign assignments are tried; 2**13 is the last power of two below RESAMPLES."""
CHUNK_NUMBERS = 1 << 21
"""Maximum number of random numbers in memory at once."""
ROUNDING = 1e-12
"""Relative difference of two sums that differ only in their order of addition."""


def bootstrap_interval(differences: NDArray[np.float64], *, seed: int = SEED) -> NDArray[np.float64]:
    """float64[2, m]: lower and upper ends of the 95 % intervals of the means of `differences`, float64[n, m], over n queries.

    The paired bootstrap's percentile interval: queries are drawn n at a time with replacement, RESAMPLES times, with the same
    draws for all m columns (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, sections 6.2 and 13.3).
    """
    return np.percentile(resampled_means(differences, seed=seed), ENDS, axis=0)


def resampled_means(values: NDArray[np.float64], *, seed: int = SEED, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """float64[resamples, m]: the means of `values`, float64[n, m], over n queries drawn with replacement."""
    queries = len(values)
    generator = np.random.default_rng(seed)
    means = []
    for size in _chunks(queries, resamples):
        drawn = generator.integers(0, queries, (size, queries)) + np.arange(size)[:, None] * queries
        times = np.bincount(drawn.ravel(), minlength=size * queries).reshape(size, queries)
        means.append(times.astype(np.float64) @ values / queries)
    return np.concatenate(means)


def randomization_test(differences: NDArray[np.float64], *, seed: int = SEED) -> NDArray[np.float64]:
    """float64[m]: two-sided p-values of the means of `differences`, float64[n, m], over n queries.

    Fisher's paired randomization test (Smucker, Allan and Carterette 2007, doi:10.1145/1321440.1321528): if the two systems do not
    differ, each query's difference is as likely to have the other sign. Up to EXACT differences other than 0, p is the share of all
    sign assignments whose mean is at least as far from 0 as the one found; with more, it is (k + 1) / (RESAMPLES + 1), where k is
    the number of random assignments whose mean is as far from 0 (Phipson and Smyth 2010, doi:10.2202/1544-6115.1585).
    """
    few = np.count_nonzero(differences, axis=0) <= EXACT_LIMIT
    values = np.empty(differences.shape[1])
    values[few] = [_exact_p_value(column[column != 0]) for column in differences.T[few]]
    values[~few] = _sampled_p_values(differences[:, ~few], seed)
    return values


def standard_error(differences: NDArray[np.float64], seed: int) -> float:
    """Bootstrap standard error of the mean of paired differences, float64[n] (Efron and Tibshirani 1993, chapter 6)."""
    return float(resampled_means(differences[:, None], seed=seed, resamples=2000).std())


def _exact_p_value(differences: NDArray[np.float64]) -> float:
    signs = 1.0 - 2.0 * (np.arange(1 << len(differences))[:, None] >> np.arange(len(differences)) & 1)
    return float(np.mean(np.abs(signs @ differences) >= _thresholds(differences)))


def _sampled_p_values(differences: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    reached = np.zeros(differences.shape[1])
    for size in _chunks(len(differences)):
        signs = 1.0 - 2.0 * generator.integers(0, 2, (size, len(differences)), np.int8)
        reached += np.sum(np.abs(signs @ differences) >= _thresholds(differences), axis=0)
    return (reached + 1) / (RESAMPLES + 1)


def _thresholds(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64[m]: the absolute sums of the columns, lowered by ROUNDING, as their order of addition may differ."""
    thresholds: NDArray[np.float64] = np.abs(differences.sum(axis=0)) - ROUNDING * np.abs(differences).sum(axis=0)
    return thresholds


def _chunks(queries: int, resamples: int = RESAMPLES) -> Iterator[int]:
    """Numbers of resamples to draw at once, which add up to `resamples`."""
    chunk = max(1, CHUNK_NUMBERS // queries)
    for start in range(0, resamples, chunk):
        yield min(chunk, resamples - start)
