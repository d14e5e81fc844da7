"""Quality: how good the ranking of a pool's first candidates is, by labels, or else by agreement with the full ranking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from resift.errors import InputError
from resift.parity import TOP, ndcg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from resift.pools import CandidatePool

    Qrels = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Judged:
    """What is known of a pool's relevance."""

    labels: list[int]
    """by candidate"""
    all: list[int]
    """of the query, of documents in the pool or not"""


def judge(pool: CandidatePool, qrels: Qrels | None = None) -> Judged | None:
    """The labels of a pool, from `qrels` if given, otherwise from its candidates' "label"; None if none is above 0.

    A candidate without a judgement has label 0, and a label below 0 counts as 0, as in trec_eval. Raises InputError for a label
    that is not an integer, and for candidates without a docid if there are qrels.
    """
    candidates = pool.fields or [{}] * len(pool.documents)
    if qrels is None:
        labels = every = [_label(fields, pool, place) for place, fields in enumerate(candidates)]
    else:
        judged = qrels.get(str(pool.qid), {})
        labels = [judged.get(_docid(fields, pool, place), 0) for place, fields in enumerate(candidates)]
        every = list(judged.values())
    return Judged([max(0, label) for label in labels], [max(0, label) for label in every]) if max(every, default=0) > 0 else None


def labelled(order: Sequence[int], judged: Judged) -> float:
    """nDCG@10 of a ranking of some of the pool's candidates, against all judgements of its query."""
    return ndcg([judged.labels[index] for index in order], -np.arange(len(order), dtype=np.float64), judged=judged.all)


def kept(order: Sequence[int], full: Sequence[int], top: int = TOP) -> float:
    """Share of the best `top` of the full ranking that are among the best `top` of `order`; of n < 2 x top, the better half."""
    size = max(1, min(top, len(full) // 2))
    return len(set(order[:size]) & set(full[:size])) / size


def first_of(order: Sequence[int], size: int) -> list[int]:
    """The ranking of a pool's first `size` candidates, taken from the ranking of all: a logit depends on its pair alone."""
    return [index for index in order if index < size]


def standard_error(differences: NDArray[np.float64], seed: int, resamples: int = 2000) -> float:
    """Bootstrap standard error of the mean of paired differences (Efron and Tibshirani 1993, chapter 6)."""
    rows = np.random.default_rng(seed).integers(0, len(differences), (resamples, len(differences)))
    return float(differences[rows].mean(axis=1).std())


def _label(fields: Mapping[str, Any], pool: CandidatePool, place: int) -> int:
    label = fields.get("label")
    if label is None:
        return 0
    if not isinstance(label, int) or isinstance(label, bool):
        raise InputError(
            f"pool {pool.qid!r:.100}: candidates[{place}] has the label {label!r:.100}; expected an integer, or null if unjudged"
        )
    return label


def _docid(fields: Mapping[str, Any], pool: CandidatePool, place: int) -> str:
    if "docid" not in fields:
        raise InputError(f"pool {pool.qid!r:.100}: candidates[{place}] has no 'docid', by which judgements name documents")
    return str(fields["docid"])
