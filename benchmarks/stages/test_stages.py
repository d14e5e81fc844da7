"""Benchmarks each stage of one rerank call separately, with the embedded model and a pool of the built-in gate.

python -m pytest -n0 benchmarks/stages --benchmark-save=before     # then, after a change, --benchmark-save=after
pytest-benchmark compare 0001 0002                                 # two stored runs side by side
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.material import gate_pools, pools_of_size
from resift import Ranking, Reranker
from resift.artifact.resolved_plans import Step
from resift.scheduling.call import Call
from resift.scheduling.scheduler import Scheduler


@pytest.fixture(scope="module")
def reranker():
    with Reranker.load() as loaded:
        yield loaded


@pytest.fixture(scope="module")
def pool():
    return pools_of_size(gate_pools(), 30, 1)[0]


@pytest.fixture(scope="module")
def encodings(reranker, pool):
    return reranker.tokenizer.encode(pool.query, pool.documents)


def test_load(benchmark):
    benchmark(lambda: Reranker.load().close())


def test_encode(benchmark, reranker, pool):
    benchmark(reranker.tokenizer.encode, pool.query, pool.documents)


def call(encodings):
    return Call(encodings, np.arange(len(encodings)), (Step("full", "logit"),), lambda ended: ended.logits)


def test_schedule(benchmark, reranker, encodings):
    def schedule():
        scheduler = Scheduler(reranker.resolved.token_budget)
        scheduler.add(call(encodings), 0.0)
        while batch := scheduler.next(0.0, 1):
            scheduler.done(batch, np.zeros((len(batch.rows), 1), np.float32), 0.0)

    benchmark(schedule)


def test_run(benchmark, reranker, encodings):
    def run():
        submitted = call(encodings)
        reranker._workers.add(submitted)
        submitted.future.result()

    benchmark(run)


def test_rank(benchmark, reranker, pool):
    scored = reranker.submit(pool.query, pool.documents).result()
    benchmark(Ranking.of, pool.documents, scored)


def test_whole(benchmark, reranker, pool):
    benchmark(reranker.rerank, pool.query, pool.documents)
