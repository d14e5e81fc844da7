"""The logits and labels that a calibration is fitted to and measured on, by query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from resift.ranking import Scored


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """The n pairs of q queries."""

    logits: NDArray[np.float64]
    """float64[n], finite"""
    relevant: NDArray[np.bool_]
    """bool[n]"""
    queries: NDArray[np.int64]
    """int64[n]: number of each pair's query, from 0 to q - 1"""
    size: int
    """q; of queries that only differ in case or white space, the pairs are those of one query"""

    @classmethod
    def of(cls, pools: Iterable[tuple[str, NDArray[np.floating[Any]], NDArray[np.bool_]]]) -> Sample:
        """The pairs of pools: of each, the query, the logits and the relevance of its candidates.

        A pair whose logit is NaN is left out.
        """
        numbers: dict[str, int] = {}
        logits, relevant, queries = [np.zeros(0)], [np.zeros(0, np.bool_)], [np.zeros(0, np.int64)]
        for query, values, labels in pools:
            has_logit = ~np.isnan(values)
            number = numbers.setdefault(" ".join(query.casefold().split()), len(numbers))
            logits.append(values[has_logit].astype(np.float64))
            relevant.append(labels[has_logit])
            queries.append(np.full(int(has_logit.sum()), number))
        return cls(np.concatenate(logits), np.concatenate(relevant), np.concatenate(queries), len(numbers))

    @classmethod
    def of_scored(cls, pools: Iterable[tuple[str, Scored, NDArray[np.bool_]]]) -> Sample:
        """The pairs of pools that the full graph scored: of each, the query, its result and the relevance of its candidates."""
        return cls.of(
            (query, np.where(np.isnan(scored.scores), np.float32(np.nan), scored.logits), relevant)
            for query, scored, relevant in pools
        )

    def select(self, rows: NDArray[np.bool_]) -> Sample:
        """The pairs where `rows`, bool[n], is true; queries keep their numbers."""
        return Sample(self.logits[rows], self.relevant[rows], self.queries[rows], self.size)

    def sums(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """float64[r, ...]: the sum of `values`, [n, ...], over the pairs of each of the r queries that have any."""
        found = np.zeros((self.size, *values.shape[1:]))
        np.add.at(found, self.queries, values)
        return found[np.unique(self.queries)]

    def fold_of_each(self, folds: int, seed: int) -> NDArray[np.int64]:
        """int64[n]: the fold, from 0, of each pair; all pairs of a query are in one, and folds have as many queries (up to one)."""
        present = np.unique(self.queries)
        fold_of_query = np.zeros(self.size, np.int64)
        fold_of_query[np.random.default_rng(seed).permutation(present)] = np.arange(len(present)) % folds
        return fold_of_query[self.queries]
