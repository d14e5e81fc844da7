"""The judgements of a pool: how relevant its candidates are known to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from resift.evaluate.data.labelled_pools import candidate_labels
from resift.metrics import ndcg
from resift.pools.beir import identifier
from resift.pools.reading import candidate_id
from resift.pools.trec import checked_label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from resift.pools.reading import CandidatePool


@dataclass(frozen=True, slots=True)
class PoolJudgements:
    """The labels of a pool's candidates: relevance grades, 0 for a candidate that is not relevant or not judged."""

    labels: NDArray[np.int64]
    """int64[n]: labels of the candidates, in the order given"""
    ideal: NDArray[np.int64]
    """int64[m]: all labels of the query, highest first, also of documents that are not in the pool"""

    @classmethod
    def of(cls, pool: CandidatePool, qrels: Mapping[str, Mapping[str, int]] | None, where: str) -> PoolJudgements | None:
        """Takes the query's judgements in `qrels`, or else its candidates' field "label"; None if there is neither.

        A "label" that is missing or null counts as 0 if another candidate of the pool has one. Raises InputError that begins with
        `where` for a label that is not an integer up to LABEL_LIMIT, and for a candidate without a docid whose query is in `qrels`.
        """
        if qrels is not None:
            found = qrels.get(str(pool.qid))
            if found is None:
                return None
            judged = {docid: checked_label(label, where) for docid, label in found.items()}
            docids = [
                identifier(candidate_id(fields), f"{where}: candidates[{position}]", "'docid'")
                for position, fields in zip(pool.given_positions(), pool.fields or [{}] * len(pool.documents), strict=True)
            ]
            return cls._from([judged.get(docid, 0) for docid in docids], [*judged.values()])
        labels = candidate_labels(pool, where)
        if all(label is None for label in labels):
            return None
        grades = [label or 0 for label in labels]
        return cls._from(grades, grades)

    @classmethod
    def _from(cls, labels: list[int], every: list[int]) -> PoolJudgements:
        return cls(np.array(labels, np.int64), np.sort(np.array(every, np.int64))[::-1])

    def has_relevant(self) -> bool:
        """Whether any document is known to be relevant, in the pool or not; without one, nDCG is undefined."""
        return bool(self.ideal.any())

    def recall(self) -> float:
        """The share of the relevant documents that the pool holds."""
        return float(np.count_nonzero(self.labels) / np.count_nonzero(self.ideal))

    def ndcg(self, order: Sequence[int] | NDArray[np.intp] | None = None) -> float:
        """nDCG@10 of the candidates in the order given, or in `order`, like trec_eval; 0 without relevant documents."""
        return _ndcg(self.labels if order is None else self.labels[np.asarray(order, np.intp)], self.ideal)

    def ceiling(self) -> float:
        """The highest nDCG@10 that any order of these candidates can have."""
        return _ndcg(np.sort(self.labels)[::-1], self.ideal)


def _ndcg(ranked: NDArray[np.int64], ideal: NDArray[np.int64]) -> float:
    return ndcg(ranked.tolist(), -np.arange(len(ranked), dtype=np.float64), judged=ideal.tolist())
