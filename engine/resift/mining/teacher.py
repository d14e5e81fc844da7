"""Teacher: a model that reads candidates, so that those which may answer the query after all are no negatives."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from resift.pools.collection import score_pools
from resift.pools.reading import CandidatePool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from resift.mining.options import MiningOptions
    from resift.reranker import Reranker

SHARE = "the teacher gives it more than {:g} of the best answer's probability"
MARGIN = "the teacher puts it less than {:g} below the best answer"


class Teacher:
    """Scores pairs by the full graph of an artifact, in bounded memory."""

    def __init__(self, reranker: Reranker) -> None:
        self._reranker = reranker

    def logits(self, pools: Iterable[tuple[str, list[str]]]) -> Iterator[list[float]]:
        """The logits of each query's texts, in order. Raises like `Reranker.submit`."""
        for _, scored in score_pools(self._reranker, (CandidatePool(query, texts) for query, texts in pools), plan="full"):
            yield [float(logit) for logit in scored.logits]


def too_relevant(logit: float, best: float, options: MiningOptions) -> str | None:
    """Why a document may answer the query, by its logit and that of the best positive; None if it is a negative.

    Logits may be negative, so that a share of one means nothing: shares are taken of probabilities, the sigmoids of logits. The
    margin is a difference of logits (as in Moreira et al., NV-Retriever, arXiv 2407.15831, of cosines).
    """
    if sigmoid(logit) > options.max_share * sigmoid(best):
        return SHARE.format(options.max_share)
    return MARGIN.format(options.margin) if logit > best - options.margin else None


def sigmoid(logit: float) -> float:
    """1 / (1 + exp(-logit)), without overflow."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    power = math.exp(logit)
    return power / (1 + power)
