"""Metrics of rankings: Kendall's tau, the overlap of the top documents, nDCG. Pure numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

TOP = 10


def kendall_tau(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Kendall's tau-b of two scorings of the same n documents, ties counted (Kendall 1945, doi:10.1093/biomet/33.3.239).

    1 where both tie everything or n < 2; 0 where only one does.

    >>> kendall_tau(np.array([3.0, 2.0, 1.0]), np.array([0.9, 0.1, 0.5]))  # one of three pairs in the other order
    0.333...
    """
    above = np.triu_indices(len(first), k=1)
    signs = [np.sign(values[:, None] - values[None, :])[above] for values in (first.astype(np.float64), second.astype(np.float64))]
    norms = [float(np.abs(sign).sum()) for sign in signs]
    if not all(norms):
        return 1.0 if not any(norms) else 0.0
    return float((signs[0] * signs[1]).sum()) / float(np.sqrt(norms[0] * norms[1]))


def top_overlap(first: NDArray[np.floating], second: NDArray[np.floating], top: int = TOP) -> float:
    """Share of the best `top` by `first` that are among the best `top` by `second`; of n < 2 x top, the better half.

    >>> top_overlap(np.array([4.0, 3.0, 2.0, 1.0]), np.array([4.0, 1.0, 3.0, 2.0]))
    0.5
    """
    size = max(1, min(top, len(first) // 2))
    best = [set(np.argsort(-values, kind="stable")[:size].tolist()) for values in (first, second)]
    return len(best[0] & best[1]) / size


def ndcg(labels: Sequence[int], scores: NDArray[np.floating], top: int = TOP, *, judged: Sequence[int] | None = None) -> float:
    """nDCG@top, gain = label and discount log2(rank + 1), like trec_eval's ndcg_cut; 0 without relevant documents.

    `judged`: all labels of the query, whose best order is the ideal (None: `labels`, the labels of the ranked documents).

    >>> ndcg([0, 2, 1], np.array([0.1, 0.9, 0.5]))
    1.0
    >>> ndcg([1, 0], np.array([0.1, 0.9]))  # the relevant one comes second: 1 / log2(3)
    0.630...
    """
    gains = np.asarray(labels, np.float64)
    ideal = np.sort(np.asarray(labels if judged is None else judged, np.float64))[::-1]
    best = _dcg(ideal[:top])
    return _dcg(gains[np.argsort(-scores, kind="stable")][:top]) / best if best else 0.0


def _dcg(gains: NDArray[np.float64]) -> float:
    return float(gains @ (1 / np.log2(np.arange(2, len(gains) + 2))))
