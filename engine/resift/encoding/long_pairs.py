"""Long pairs: pairs that the model has to cut, added to the gate's, so that it covers the last position and truncation."""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift.artifact.agreement import Pool
    from resift.encoding.tokenizer import PairTokenizer

LONG_PAIR_TOKENS = 2048
"""About how many tokens of long pairs are added to the gate; at least one pair of full length."""
MAX_DOUBLINGS = 14
"""Limit on doubling the text of a pool's documents; documents with hardly any tokens reach it."""


def with_long_pairs(pools: Sequence[Pool], tokenizer: PairTokenizer, max_length: int) -> list[Pool]:
    """The pools, with one more document in each of the first ones: the pool's documents, repeated until the pair has to be cut.

    `tokenizer`: that of the model, for pairs of at most `max_length` tokens. The added document begins with the pool's first
    document and therefore has its label.
    """
    count = max(1, LONG_PAIR_TOKENS // max_length)
    extended_pools = []
    for pool in pools[:count]:
        for times in (2**power for power in range(MAX_DOUBLINGS)):
            document = " ".join(islice(cycle(pool.documents), times * len(pool.documents)))
            if tokenizer.encode(pool.query, [document]).tokens_cut[0]:
                break
        labels = None if pool.labels is None else [*pool.labels, pool.labels[0]]
        extended_pools.append(msgspec.structs.replace(pool, documents=[*pool.documents, document], labels=labels))
    return [*extended_pools, *pools[count:]]
