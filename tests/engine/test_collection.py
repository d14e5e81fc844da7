from __future__ import annotations

import tiny
from resift.collection import CHUNK_PAIRS, rerank_pools
from resift.pools import CandidatePool

TEXTS = tiny.texts()


def test_rankings_come_out_in_order_and_equal_to_each_pool_alone(reranker):
    pools = [CandidatePool(TEXTS[size], [text[:60] for text in TEXTS[size : size + size % 5]], f"q{size}") for size in range(30)]
    found = list(rerank_pools(reranker, iter(pools), top_k=2))
    assert [pool for pool, _ in found] == pools
    assert all(ranking == reranker.rerank(pool.query, pool.documents, top_k=2) for pool, ranking in found)


def test_only_a_chunk_of_pools_is_read_ahead(reranker):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield CandidatePool("tides", [f"text {len(taken)}"] * 8)

    rankings = rerank_pools(reranker, endless())
    next(rankings)
    assert len(taken) == CHUNK_PAIRS // 8
