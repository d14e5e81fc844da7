from __future__ import annotations

from concurrent.futures import Future

import pytest

from resift import Reranker
from resift.pools.collection import WINDOW_PAIRS, rerank_pools
from resift.pools.reading import CandidatePool
from tests.support import tiny

TEXTS = tiny.texts()


def test_rankings_come_out_in_order_and_equal_to_each_pool_alone(reranker):
    pools = [CandidatePool(TEXTS[size], [text[:60] for text in TEXTS[size : size + size % 5]], f"q{size}") for size in range(30)]
    found = list(rerank_pools(reranker, iter(pools), top_k=2))
    assert [pool for pool, _ in found] == pools
    assert all(ranking == reranker.rerank(pool.query, pool.documents, top_k=2) for pool, ranking in found)


def test_only_a_window_of_pools_is_read_ahead(reranker):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield CandidatePool("tides", [f"text {len(taken)}"] * 8)

    rankings = rerank_pools(reranker, endless())
    next(rankings)
    assert len(taken) == WINDOW_PAIRS // 8


def test_the_window_slides(reranker, monkeypatch):
    taken, inner = [], Reranker.submit
    monkeypatch.setattr(
        Reranker, "submit", lambda self, query, documents, **more: taken.append(query) or inner(self, query, documents)
    )
    size = WINDOW_PAIRS // 4
    pools = (CandidatePool(f"tides {number}", [f"text {place}" for place in range(size)]) for number in range(12))
    ahead = [len(taken) for _ in rerank_pools(reranker, pools)]
    assert ahead == [4, 5, 6, 7, 8, 9, 10, 11, 12, 12, 12, 12]


def test_a_long_pool_fills_the_window_alone(reranker):
    taken = []

    def pools():
        for number in range(3):
            taken.append(number)
            yield CandidatePool("tides", ["water " * 400_000])

    for count, _ in enumerate(rerank_pools(reranker, pools()), 1):
        assert len(taken) == count


@pytest.mark.parametrize("error", [ValueError("its own"), OSError("the disk")])
def test_an_error_of_the_pools_comes_behind_every_pool_before_it(reranker, error):
    def pools():
        for number in range(5):
            yield CandidatePool(f"tides {number}", ["the moon", "bread"])
        raise error

    rankings = rerank_pools(reranker, pools())
    assert [next(rankings)[0].query for _ in range(5)] == [f"tides {number}" for number in range(5)]
    with pytest.raises(type(error)) as caught:
        next(rankings)
    assert caught.value is error


def test_leaving_early_cancels_what_was_submitted_ahead(reranker, monkeypatch):
    answers, inner = [], Reranker.submit

    def submit(self, query, documents, **more):
        """The first call is answered, the others are still under way when the caller leaves."""
        answers.append(Future() if answers else inner(self, query, documents))
        return answers[-1]

    monkeypatch.setattr(Reranker, "submit", submit)
    pools = (CandidatePool(f"tides {number}", [f"text {place}" for place in range(WINDOW_PAIRS // 4)]) for number in range(50))
    rankings = rerank_pools(reranker, pools)
    next(rankings)
    rankings.close()
    assert [answer.cancelled() for answer in answers] == [False, True, True, True]
