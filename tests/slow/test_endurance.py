"""What a long-running service needs, with the embedded model: equal results in all threads, and memory that does not grow."""

from __future__ import annotations

import random
import sys
import threading
import time
from pathlib import Path

import pytest

from resift import Reranker
from resift.pools.source import read_pools
from tests.support import tiny

pytestmark = pytest.mark.slow
GATE_POOLS = tiny.TEXTS / "gate.jsonl"
THREADS = 8
SECONDS = 10
POOLS, WARM_POOLS = 300, 100
ALLOWED_GROWTH = 1.2
SEED = 5


@pytest.fixture
def embedded():
    with Reranker.load() as loaded:
        yield loaded


def test_threads_that_share_a_reranker_score_as_one_thread_does(embedded):
    jobs = [(pool.query, pool.documents[:4]) for pool in read_pools(GATE_POOLS)]
    expected = [embedded.score(*job).tolist() for job in jobs]
    counts, wrong, end = [0] * THREADS, [], time.monotonic() + SECONDS

    def work(number):
        choose = random.Random(number)
        while time.monotonic() < end:
            place = choose.randrange(len(jobs))
            counts[number] += 1
            if embedded.score(*jobs[place]).tolist() != expected[place]:
                wrong.append(place)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert min(counts) > 0
    assert wrong == []


@pytest.mark.skipif(sys.platform != "linux", reason="memory as Linux tells it")
def test_memory_after_pools_of_random_shapes_is_that_after_the_first_hundred(embedded):
    words = " ".join(text for pool in read_pools(GATE_POOLS) for text in pool.documents).split()
    choose = random.Random(SEED)
    first = 0
    for number in range(POOLS):
        documents = [" ".join(choose.choices(words, k=int(choose.uniform(3, 190)))) for _ in range(choose.randint(1, 8))]
        embedded.score("a question of five words", documents)
        if number + 1 == WARM_POOLS:
            first = resident_pages()
    assert resident_pages() < ALLOWED_GROWTH * first


def resident_pages():
    """Of this process, from https://man7.org/linux/man-pages/man5/proc_pid_statm.5.html."""
    return int(Path("/proc/self/statm").read_text().split()[1])
