"""Judged: what is known about the relevance of a pool's candidates."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from resift.errors import InputError
from resift.pools import read_lines

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from resift.pools import CandidatePool

TOP = 10
"""Ranks that nDCG looks at."""
RESAMPLES = 10_000
SEED = 11


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

    def ndcg(self, order: NDArray[np.intp] | None = None) -> float:
        """nDCG@TOP of the candidates in the order given, or in `order`, as trec_eval computes ndcg_cut (gain = label)."""
        return _dcg(self.labels if order is None else self.labels[order]) / _dcg(self.ideal)

    def ceiling(self) -> float:
        """The highest nDCG@TOP that any order of these candidates can have."""
        return _dcg(np.sort(self.labels)[::-1]) / _dcg(self.ideal)


def read_qrels(path: str | os.PathLike[str]) -> dict[str, dict[str, int]]:
    """The judgements of a TREC file, `qid iteration docid label` a line: labels by query and document.

    Raises InputError that names the file and line for anything else.
    """
    qrels: dict[str, dict[str, int]] = {}
    for number, line in read_lines(path):
        try:
            qid, _, docid, label = line.decode().split()
            qrels.setdefault(qid, {})[docid] = int(label)
        except ValueError as error:  # bytes that are not UTF-8, other columns, a label that is not an integer
            raise InputError(
                f"{os.fspath(path)}, line {number}: expected 'qid 0 docid label' in UTF-8, the label an integer"
            ) from error
    return qrels


def interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % interval of the mean of `differences`, float64[n >= 1], by the paired bootstrap over queries (percentiles).

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    random = np.random.default_rng(SEED)
    n = len(differences)
    means = [float(differences[random.integers(0, n, n)].mean()) for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5]).tolist()
    return low, high


def _dcg(labels: NDArray[np.int64]) -> float:
    top = labels[:TOP]
    return float(top @ (1 / np.log2(np.arange(2, len(top) + 2))))
