"""The evidence for the doctor's checks: pools with their logits and labels, and the artifact's certificate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from resift.artifact.certificate import Certificate
from resift.errors import InputError
from resift.evaluate.data.pool_judgements import PoolJudgements
from resift.evaluate.data.self_candidates import without_query
from resift.pools.collection import score_pools

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from resift.encoding.tokenizer import PairTokenizer
    from resift.pools.job import Progress
    from resift.pools.reading import CandidatePool
    from resift.ranking import Scored
    from resift.reranker import Reranker


@dataclass(frozen=True, slots=True)
class Evidence:
    """The data that the checks examine."""

    pools: Sequence[CandidatePool]
    scored: Sequence[Scored]
    """results for each pool"""
    own_candidates: Sequence[int]
    """number of candidates of each pool that were the query itself; they are left out of it here"""
    cut_at: int | None
    """number of candidates to which the caller has cut the pools"""
    judgements: Sequence[PoolJudgements | None]
    """judgements of each pool; None for a pool without labels"""
    certificate: Certificate
    tokenizer: PairTokenizer
    reranker: Reranker

    @classmethod
    def gather(  # noqa: PLR0913 - as in `diagnose`
        cls,
        reranker: Reranker,
        pools: Sequence[CandidatePool],
        qrels: Mapping[str, Mapping[str, int]] | None,
        scored: Sequence[Scored] | None,
        progress: Progress | None,
        cut_at: int | None = None,
    ) -> Self:
        """Reads the labels and the certificate, and scores the pools unless they are `scored` already. See `diagnose`."""
        cut = [without_query(pool, qrels) for pool in pools]
        own = [len(pool.documents) - len(remaining.documents) for pool, remaining in zip(pools, cut, strict=True)]
        if scored is not None:
            scored = [each.select(pool.positions) if count else each for each, pool, count in zip(scored, cut, own, strict=True)]
        pools = cut
        if not any(pool.documents for pool in pools):
            raise InputError(f"{len(pools)} pools and no candidates; expected some to look at")
        judgements = [PoolJudgements.of(pool, qrels, f"pool {number} (qid {pool.qid!r})") for number, pool in enumerate(pools, 1)]
        if qrels is not None and not any(judgements):
            judged_qid, pool_qid = next(iter(qrels), None), next((pool.qid for pool in pools), None)
            raise InputError(
                f"none of the {len(pools)} queries is judged: the pools' first qid is {pool_qid!r:.80}, the judgements' "
                f"{judged_qid!r:.80}; expected the same qids in both"
            )
        certificate = Certificate.read(reranker.artifact)
        tokenizer = reranker.tokenizer
        if scored is None:
            scored = _score(reranker, pools, progress)
        return cls(pools, scored, own, cut_at, judgements, certificate, tokenizer, reranker)

    def more_candidates(self) -> str:
        """What gives more candidates to most of the pools."""
        sizes = [len(pool.documents) + own for pool, own in zip(self.pools, self.own_candidates, strict=True)]
        if self.cut_at is None or np.median(sizes) < self.cut_at:
            return "ask the retriever for more candidates"
        return f"raise --candidates (depth in Python) above {self.cut_at}"

    def labelled_pools(self) -> list[tuple[PoolJudgements, Scored]]:
        """The pools that can distinguish rankings: those with two candidates or more and a document known to be relevant."""
        pairs = zip(self.judgements, self.scored, strict=True)
        return [(judged, scored) for judged, scored in pairs if judged and judged.has_relevant() and len(scored.logits) > 1]


def _score(reranker: Reranker, pools: Sequence[CandidatePool], progress: Progress | None) -> list[Scored]:
    """Scores all pools in bounded memory."""
    scored, pairs = [], 0
    for pool, scored_pool in score_pools(reranker, pools, plan="full"):
        scored.append(scored_pool)
        pairs += len(pool.documents)
        if progress is not None:
            progress(pools=len(scored), pairs=pairs, share=len(scored) / len(pools))
    return scored
