"""Judged: what is known about the relevance of a pool's candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from resift.errors import InputError
from resift.metrics import ndcg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from resift.pools.reading import CandidatePool


@dataclass(frozen=True, slots=True)
class Judged:
    """The labels of a pool: relevance grades, 0 for a candidate that is not relevant or not judged."""

    labels: NDArray[np.int64]
    """int64[n]: of the candidates, in the order given"""
    ideal: NDArray[np.int64]
    """all labels of the query, highest first, also of documents that the pool lacks"""

    @classmethod
    def of(cls, pool: CandidatePool, qrels: Mapping[str, Mapping[str, int]] | None, where: str) -> Judged | None:
        """From the query's judgements in `qrels`, or else its candidates' field "label"; None if neither is there.

        A "label" that is missing or null counts as 0 if another candidate of the pool has one. Raises InputError, which begins with
        `where`, for a label that is not an integer, and for a candidate without docid whose query is in `qrels`.
        """
        if qrels is not None:
            found = qrels.get(str(pool.qid))
            if found is None:
                return None
            lacking = [place for place, fields in enumerate(pool.fields or [{}] * len(pool.documents)) if "docid" not in fields]
            if lacking:
                raise InputError(
                    f"{where}: candidates[{lacking[0]}] has no 'docid'; expected the one that the judgements name it by"
                )
            return cls._from([found.get(str(fields["docid"]), 0) for fields in pool.fields], [*found.values()])
        labels = [fields.get("label") for fields in pool.fields]
        if all(label is None for label in labels):
            return None
        for place, label in enumerate(labels):
            if label is not None and type(label) is not int:
                raise InputError(f"{where}: candidates[{place}] has the label {label!r:.80}; expected an integer")
        known = [label or 0 for label in labels]
        return cls._from(known, known)

    @classmethod
    def _from(cls, labels: list[int], every: list[int]) -> Judged:
        """Labels below 0, as TREC gives to junk, count as 0."""
        return cls(np.maximum(np.array(labels, np.int64), 0), np.sort(np.maximum(np.array(every, np.int64), 0))[::-1])

    def has_relevant(self) -> bool:
        """Whether any document is known to be relevant, in the pool or not; without one, nDCG is undefined."""
        return bool(self.ideal.any())

    def recall(self) -> float:
        """Share of the relevant documents that the pool holds."""
        return float(np.count_nonzero(self.labels) / np.count_nonzero(self.ideal))

    def ndcg(self, order: Sequence[int] | NDArray[np.intp] | None = None) -> float:
        """nDCG@10 of the candidates in the order given, or in `order`, like trec_eval; 0 without relevant documents."""
        return _ndcg(self.labels if order is None else self.labels[np.asarray(order, np.intp)], self.ideal)

    def ceiling(self) -> float:
        """The highest nDCG@10 that any order of these candidates can have."""
        return _ndcg(np.sort(self.labels)[::-1], self.ideal)


def _ndcg(ranked: NDArray[np.int64], ideal: NDArray[np.int64]) -> float:
    return ndcg(ranked.tolist(), -np.arange(len(ranked), dtype=np.float64), judged=ideal.tolist())
