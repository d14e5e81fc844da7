"""Evidence: pools with their logits, labels, and what the model was measured to do at export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from resift.artifact.certificate import Certificate
from resift.errors import InputError
from resift.evaluate.data.judged import Judged
from resift.pools.collection import score_pools

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from resift.encoding.tokenizer import PairTokenizer
    from resift.pools.reading import CandidatePool
    from resift.ranking import Scored
    from resift.reranker import Reranker


class Progress(Protocol):
    """Told after each pool that was scored."""

    def __call__(self, *, pools: int, pairs: int, share: float | None) -> None:
        """`pools` and `pairs` so far, and the share of all pools."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the checks look at."""

    pools: Sequence[CandidatePool]
    scored: Sequence[Scored]
    """of each pool"""
    judged: Sequence[Judged | None]
    """of each pool; None where it is not labelled"""
    certificate: Certificate
    tokenizer: PairTokenizer
    reranker: Reranker

    @classmethod
    def gather(
        cls,
        reranker: Reranker,
        pools: Sequence[CandidatePool],
        qrels: Mapping[str, Mapping[str, int]] | None,
        scored: Sequence[Scored] | None,
        progress: Progress | None,
    ) -> Self:
        """Reads the labels and the certificate, and scores the pools unless they are `scored` already. See `diagnose`."""
        judged = [Judged.of(pool, qrels, f"pool {number} (qid {pool.qid!r})") for number, pool in enumerate(pools, 1)]
        if qrels is not None and not any(judged):
            known, asked = next(iter(qrels), None), next((pool.qid for pool in pools), None)
            raise InputError(
                f"none of the {len(pools)} queries is judged: the pools' first qid is {asked!r:.80}, the judgements' {known!r:.80}"
                "; expected the same qids in both"
            )
        certificate = Certificate.read(reranker.artifact)
        tokenizer = reranker.tokenizer
        if scored is None:
            scored = _score(reranker, pools, progress)
        return cls(pools, scored, judged, certificate, tokenizer, reranker)

    def labelled(self) -> list[tuple[Judged, Scored]]:
        """The pools by which rankings can be told apart: two candidates or more, and a document known to be relevant."""
        pairs = zip(self.judged, self.scored, strict=True)
        return [(judged, scored) for judged, scored in pairs if judged and judged.has_relevant() and len(scored.logits) > 1]


def _score(reranker: Reranker, pools: Sequence[CandidatePool], progress: Progress | None) -> list[Scored]:
    """The columns of all pools, scored in bounded memory."""
    scored, pairs = [], 0
    for pool, found in score_pools(reranker, pools, plan="full"):
        scored.append(found)
        pairs += len(pool.documents)
        if progress is not None:
            progress(pools=len(scored), pairs=pairs, share=len(scored) / len(pools))
    return scored
