"""Whole collections: any number of pools in, rankings out, in order and in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from resift.pools import CandidatePool
    from resift.ranking import Ranking
    from resift.reranker import Reranker

CHUNK_PAIRS = 512
"""Pairs that are batched together: enough to fill batches of one length, few enough to stay small."""
CHUNK_CHARACTERS = 2_000_000
"""Text that is held at once, unless one pool is longer."""


def rerank_pools(
    reranker: Reranker, pools: Iterable[CandidatePool], *, top_k: int | None = None
) -> Iterator[tuple[CandidatePool, Ranking]]:
    """Each pool with its Ranking, in order; only as many pools are held at once as batch well together.

    An error that `pools` raises passes through after every pool before it has come out. Raises as `Reranker.rerank` does.
    """
    for chunk in _chunks(pools):
        rankings = reranker.rerank_many([pool.query for pool in chunk], [pool.documents for pool in chunk], top_k=top_k)
        yield from zip(chunk, rankings, strict=True)


def _chunks(pools: Iterable[CandidatePool]) -> Iterator[list[CandidatePool]]:
    chunk: list[CandidatePool] = []
    pairs = characters = 0
    try:
        for pool in pools:
            chunk.append(pool)
            pairs += len(pool.documents)
            characters += sum(map(len, pool.documents))
            if pairs >= CHUNK_PAIRS or characters >= CHUNK_CHARACTERS:
                yield chunk
                chunk, pairs, characters = [], 0, 0
    except InputError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk
