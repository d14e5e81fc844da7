"""The lengths of pairs in a model's tokens, and how much of them is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resift.evaluate.results import PairLengths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from resift.encoding.tokenizer import PairTokenizer
    from resift.pools.reading import CandidatePool
    from resift.ranking import Scored
    from resift.reranker import Reranker

BINS_TO_MAX_LENGTH = 16
MAX_BINS = 64


def measure_lengths(reranker: Reranker, pools: Sequence[CandidatePool], scored: Sequence[Scored]) -> PairLengths:
    """Tokens of the pairs, special tokens included, before they were cut; `scored` is what `reranker` returned for each pool.

    The number is a lower bound for a text longer than 100,000 characters, and an upper bound for the pairs of a query that was cut
    if the longer text is cut first. A bin includes its upper edge. The model's maximum length is such an edge if it is a multiple
    of the bins' width.
    """
    max_length = reranker.resolved.max_length
    tokenizer = reranker.tokenizer
    lengths, shares = [np.zeros(0, np.int64)], [np.zeros(0)]
    for pool, each in zip(pools, scored, strict=True):
        lengths.append(each.lengths.astype(np.int64) + each.tokens_cut + each.query_tokens_cut)
        shares.append(shares_lost(tokenizer, pool.query, each))
    every, lost = np.concatenate(lengths), np.concatenate(shares)
    width = max(1, max_length // BINS_TO_MAX_LENGTH)
    while width * MAX_BINS < every.max(initial=0):
        width *= 2
    edges = np.arange(0, int(every.max(initial=0)) + width, width)
    return PairLengths(
        edges=edges.tolist(),
        counts=np.bincount(np.maximum(every - 1, 0) // width, minlength=len(edges) - 1).tolist(),
        max_length=max_length,
        pairs=len(every),
        pairs_cut=len(lost),
        mean_share_cut=float(lost.mean()) if len(lost) else 0.0,
    )


def shares_lost(tokenizer: PairTokenizer, query: str, scored: Scored) -> NDArray[np.float64]:
    """float64[m]: for each of the m documents that were cut, the share of its tokens that it lost."""
    cut = scored.tokens_cut > 0
    if not cut.any():
        return np.zeros(0)
    lost = scored.tokens_cut[cut].astype(np.float64)
    return lost / (scored.lengths[cut] - tokenizer.overhead(query) + lost)
