"""The stages of one rerank, each alone, on the embedded model and our own pools.

python -m pytest -n0 benchmarks/stages --benchmark-save=before     # then, after a change, --benchmark-save=after
pytest-benchmark compare 0001 0002                                 # two stored runs side by side
"""

from __future__ import annotations

import pytest
from benchmarks.__main__ import OWN, sized

from resift import Ranking, Reranker
from resift.batching import plan_batches
from resift.pools import read_pools
from resift.reranker import stack
from resift.scoring import activate


@pytest.fixture(scope="module")
def reranker():
    with Reranker.load() as loaded:
        yield loaded


@pytest.fixture(scope="module")
def pool():
    return sized(list(read_pools(OWN)), 30, 1)[0]


@pytest.fixture(scope="module")
def encodings(reranker, pool):
    return reranker._tokenizer.encode(pool.query, pool.documents)


def test_load(benchmark):
    benchmark(lambda: Reranker.load().close())


def test_encode(benchmark, reranker, pool):
    benchmark(reranker._tokenizer.encode, pool.query, pool.documents)


def test_plan(benchmark, reranker, encodings):
    benchmark(plan_batches, encodings.lengths, reranker.resolved.token_budget)


def test_run(benchmark, reranker, encodings):
    planned = plan_batches(encodings.lengths, reranker.resolved.token_budget)
    batches = [stack([(encodings, row) for row in batch.rows]) for batch in planned]
    benchmark(lambda: list(reranker._session.run_all(batches)))


def test_rank(benchmark, reranker, pool, encodings):
    logits = reranker.score(pool.query, pool.documents)
    benchmark(lambda: Ranking.from_logits(pool.documents, logits, activate(logits, "sigmoid"), encodings.tokens_cut))


def test_whole(benchmark, reranker, pool):
    benchmark(reranker.rerank, pool.query, pool.documents)
