"""Forks while adapters load, calls run and sessions open in other threads: every child ranks, loads and ends."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count

import pytest

pytest.importorskip("pydantic")

from resift import Reranker, Settings
from resift.integrations import adapter as adapters
from resift.integrations.adapter import Adapter
from tests.support.forks import beside_threads, can_fork, in_child

QUERY, DOCUMENTS = "how do tides work", ["The moon pulls the sea.", "Bread rises.", "The tide comes in twice a day."]


def load(artifact, number):
    adapters._open.cache_clear()
    Adapter(model=artifact, settings=Settings(threads=1 + number % 4))._load()


def score(artifact):
    with Reranker.load(artifact) as fresh:
        return fresh.logits(QUERY, DOCUMENTS).tolist()


def repeated(function, has_forked):
    for number in count():
        if has_forked.is_set():
            return
        function(number)


@can_fork
@beside_threads
@pytest.mark.parametrize("forks", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_forks_beside_threads_that_load_and_call(artifact, forks):
    has_forked, adapter = threading.Event(), Adapter(model=artifact)
    with Reranker.load(artifact, settings=Settings(threads=2)) as shared, ThreadPoolExecutor(4) as pool:
        expected = shared.logits(QUERY, DOCUMENTS).tolist()

        def call(_):
            shared.rerank(QUERY, DOCUMENTS, budget_ms=60_000)

        def work():
            """Scores by a Reranker that is in use, one that an adapter may be loading, and one of the child's own."""
            return [*(each.logits(QUERY, DOCUMENTS).tolist() for each in (shared, adapter._load())), score(artifact)]

        functions = [partial(load, artifact), call, call, lambda _: score(artifact)]
        threads = [pool.submit(repeated, function, has_forked) for function in functions]
        try:
            for _ in range(forks):
                assert in_child(work) == [expected] * 3
        finally:
            has_forked.set()
        for thread in threads:
            thread.result()
    adapters._open.cache_clear()
