"""development: nDCG@10 on queries that are never trained on, by which the best weights are chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sentence_transformers.base.evaluation import BaseEvaluator

from resift.metrics import ndcg
from resift_export.train.encoder import logits_of
from resift_export.train.pairs import pool_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift.pools.training_pairs import TrainingPairs

METRIC = "ndcg@10"
BEST = f"eval_{METRIC}"
"""The name under which the trainer finds it: another one, such as the loss, would choose other weights."""
QUERIES, NEGATIVES = 100, 7
"""Maximum number of queries that are measured each time, and of negatives that are ranked with the answers of each."""


class DevelopmentEvaluator(BaseEvaluator):  # type: ignore[misc]
    """The evaluator that the trainer calls."""

    def __init__(self, queries: Sequence[TrainingPairs]) -> None:
        super().__init__()
        self.primary_metric = METRIC
        self._pools = [pool_of(pairs, NEGATIVES) for pairs in queries[:QUERIES]]
        self.pairs = [(query, document) for query, documents, _ in self._pools for document in documents]
        """the pairs that are scored each time"""

    def __call__(self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1) -> dict[str, float]:  # noqa: ARG002 - sentence-transformers'
        """The mean over the queries."""
        logits = logits_of(model, self.pairs)
        parts = np.split(logits, np.cumsum([len(documents) for _, documents, _ in self._pools])[:-1])
        return {METRIC: float(np.mean([ndcg(labels, part) for (_, _, labels), part in zip(self._pools, parts, strict=True)]))}
