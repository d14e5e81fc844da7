"""Lengths: how long the pairs are in a model's tokens, and what it cuts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resift.evaluate.results import Lengths
from resift.manifest import TOKENIZER
from resift.pairs import PairTokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift.pools import CandidatePool
    from resift.reranker import Reranker

BINS_TO_MAX_LENGTH = 16
MOST_BINS = 64


def measure_lengths(reranker: Reranker, pools: Sequence[CandidatePool]) -> Lengths:
    """Tokens of the pairs, special tokens included, before they are cut, by the tokenizer of `reranker`.

    Of a text longer than 100,000 characters they are a lower bound. A bin includes its upper edge, and the longest pair that the
    model reads is such an edge where it is a multiple of the bins' width.
    """
    most = reranker.resolved.max_length
    tokenizer = PairTokenizer(reranker.artifact.read(TOKENIZER), most)
    lengths, shares = [np.zeros(0, np.int64)], [np.zeros(0)]
    for pool in pools:
        encodings = tokenizer.encode(pool.query, pool.documents)
        around = int(tokenizer.encode(pool.query, [""]).lengths[0])
        cut = encodings.tokens_cut.astype(np.int64)
        lengths.append(encodings.lengths + cut + encodings.query_tokens_cut)
        shares.append(cut[cut > 0] / (encodings.lengths - around + cut)[cut > 0])
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
