"""Tests what a long-running service needs: equal results in all threads, and memory that does not grow.

    python -m benchmarks.endurance [--seconds 60] [--pools 1000]

Exit code 1 if the scores of eight threads sharing one Reranker are not bit-equal to those of one thread, or if memory after all
pools of random shapes is more than 20 % above that after the first hundred.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from pathlib import Path

from benchmarks.material import GATE_POOLS
from resift import Reranker
from resift.pools.source import read_pools

THREADS = 8
ALLOWED_GROWTH = 1.2
WARM_POOLS = 100
SEED = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pools", type=int, default=1000)
    parser.add_argument("--model")
    arguments = parser.parse_args()
    with Reranker.load(arguments.model) as reranker:
        agreed = threads_agree(reranker, arguments.seconds)
        first, last = memory(reranker, arguments.pools)
    print(
        f"memory: {first:.0f} MB after {WARM_POOLS} pools of random shapes, {last:.0f} MB after {arguments.pools}: "
        f"{last / first:.3f}"
    )
    return int(not agreed or last > ALLOWED_GROWTH * first)


def threads_agree(reranker: Reranker, seconds: float) -> bool:
    jobs = [(pool.query, pool.documents[:4]) for pool in read_pools(GATE_POOLS)]
    expected = [reranker.score(*job).tolist() for job in jobs]
    counts, wrong, end = [0] * THREADS, [], time.monotonic() + seconds

    def work(number: int) -> None:
        choose = random.Random(number)
        while time.monotonic() < end:
            place = choose.randrange(len(jobs))
            counts[number] += 1
            if reranker.score(*jobs[place]).tolist() != expected[place]:
                wrong.append(place)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"threads: {THREADS} for {seconds:.0f} s, {sum(counts)} pools, {len(wrong)} different from one thread's")
    return not wrong


def memory(reranker: Reranker, pools: int) -> tuple[float, float]:
    """Resident megabytes after the first hundred pools and after all of them."""
    words = " ".join(text for pool in read_pools(GATE_POOLS) for text in pool.documents).split()
    choose = random.Random(SEED)
    first = 0.0
    for number in range(pools):
        documents = [" ".join(choose.choices(words, k=int(choose.uniform(3, 190)))) for _ in range(choose.randint(1, 8))]
        reranker.score("a question of five words", documents)
        if number + 1 == WARM_POOLS:
            first = resident_mb()
    return first, resident_mb()


def resident_mb() -> float:
    """Resident megabytes of this process, from https://man7.org/linux/man-pages/man5/proc_pid_statm.5.html."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


if __name__ == "__main__":
    sys.exit(main())
