"""longpairs: pairs longer than the model reads for the gate, so that it sees the last position and how a document is cut."""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift.artifact.agreement import Pool
    from resift_export.checkpoint.load import Checkpoint

TOKENS = 2048
"""About how many tokens of long pairs the gate gains; at least one pair of full length."""
MOST_DOUBLINGS = 14
"""Of a pool's documents: enough unless they have hardly any tokens."""


def with_long_pairs(pools: Sequence[Pool], checkpoint: Checkpoint) -> list[Pool]:
    """The pools, of which the first ones have one more document: all of their own, in turn, until the model cannot read more.

    It begins with the pool's first document, and so has that one's label.
    """
    tokenizer = checkpoint.pair_tokenizer()
    count = max(1, TOKENS // checkpoint.max_length)
    longer = []
    for pool in pools[:count]:
        for times in (2**power for power in range(MOST_DOUBLINGS)):
            long = " ".join(islice(cycle(pool.documents), times * len(pool.documents)))
            if tokenizer.encode(pool.query, [long]).tokens_cut[0]:
                break
        labels = None if pool.labels is None else [*pool.labels, pool.labels[0]]
        longer.append(msgspec.structs.replace(pool, documents=[*pool.documents, long], labels=labels))
    return [*longer, *pools[count:]]
