"""Lengths: how long the pairs are in a model's tokens, and what it cuts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resift.evaluate.results import Lengths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from resift.encoding.tokenizer import PairTokenizer
    from resift.pools.reading import CandidatePool
    from resift.ranking import Scored
    from resift.reranker import Reranker

BINS_TO_MAX_LENGTH = 16
MOST_BINS = 64


def measure_lengths(reranker: Reranker, pools: Sequence[CandidatePool], scored: Sequence[Scored]) -> Lengths:
    """Tokens of the pairs, special tokens included, before they were cut; `scored` is what `reranker` returned for each pool.

    Of a text longer than 100,000 characters they are a lower bound, and of the pairs of a query that was cut an upper bound if the
    longer text is cut first. A bin includes its upper edge, and the longest pair that the
    model reads is such an edge where it is a multiple of the bins' width.
    """
    most = reranker.resolved.max_length
    tokenizer = reranker.pair_tokenizer()
    lengths, shares = [np.zeros(0, np.int64)], [np.zeros(0)]
    for pool, each in zip(pools, scored, strict=True):
        lengths.append(each.lengths.astype(np.int64) + each.tokens_cut + each.query_tokens_cut)
        shares.append(shares_lost(tokenizer, pool.query, each))
    every, lost = np.concatenate(lengths), np.concatenate(shares)
    width = max(1, most // BINS_TO_MAX_LENGTH)
    while width * MOST_BINS < every.max(initial=0):
        width *= 2
    edges = np.arange(0, int(every.max(initial=0)) + width, width)
    return Lengths(
        edges=edges.tolist(),
        counts=np.bincount(np.maximum(every - 1, 0) // width, minlength=len(edges) - 1).tolist(),
        max_length=most,
        pairs=len(every),
        pairs_cut=len(lost),
        mean_share_cut=float(lost.mean()) if len(lost) else 0.0,
    )


def shares_lost(tokenizer: PairTokenizer, query: str, scored: Scored) -> NDArray[np.float64]:
    """float64[m]: of each of the m documents that were cut, the share of its tokens that it lost."""
    cut = scored.tokens_cut > 0
    if not cut.any():
        return np.zeros(0)
    lost = scored.tokens_cut[cut].astype(np.float64)
    return lost / (scored.lengths[cut] - tokenizer.overhead(query) + lost)
