"""Deadlines while other processes load the machine: how late calls are, how much of their time they use, and how well they rank.

    python -m benchmarks.deadlines [--budgets 30 60 100] [--pools 500] [--busy 1] [--file POOLS] [--plan PLAN]

Pools are a mix of sizes and lengths made from the built-in gate, or those of a file. Quality is the mean share of the full
ranking's ten best among the first ten, beside that of the order given. Exit code 1 unless 95 % of the calls are answered within the
budget and 10 ms, those with pairs left unread used 80 % of the budget in the mean, and no budget ranks worse than the order given.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.compare import machine
from benchmarks.load import traffic
from resift import Reranker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.load.traffic import Request

SEED = 11
GRACE_MS = 10.0
WITHIN, USED = 0.95, 0.80
WARM_UP = 20
BEST = 10
SPIN = "while True: pass"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", type=float, nargs="+", default=[30, 60, 100], metavar="MS")
    parser.add_argument("--pools", type=int, default=500)
    parser.add_argument("--busy", type=int, default=1, help="processes that load the machine (default: %(default)s)")
    parser.add_argument("--file", type=Path, help="candidate pools to rank (default: made from the built-in gate)")
    parser.add_argument("--model")
    parser.add_argument("--plan")
    asked = parser.parse_args()
    requests = traffic.read(asked.file)[: asked.pools] if asked.file else traffic.mixed(SEED, asked.pools)
    print(f"# {machine()}; {len(requests)} pools, {asked.busy} busy processes")
    with Reranker.load(asked.model) as reranker:
        best = [[result.index for result in reranker.rerank(each.query, each.documents, plan="full")[:BEST]] for each in requests]
        given = np.mean([_share(top, range(BEST)) for top in best])
        with busy(asked.busy):
            held = [measure(reranker, requests, best, float(given), budget, asked.plan) for budget in asked.budgets]
    return int(not all(held))


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Runs `count` processes that do nothing but use a core."""
    processes = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(  # noqa: PLR0913 - a budget, and what it is compared with
    reranker: Reranker, requests: Sequence[Request], best: list[list[int]], given: float, budget: float, plan: str | None
) -> bool:
    """Prints the figures of a budget in milliseconds; whether it held."""
    for request in requests[:WARM_UP]:
        reranker.rerank(request.query, request.documents, budget_ms=budget, plan=plan)
    taken, shares, unread = [], [], []
    for request, top in zip(requests, best, strict=True):
        began = time.perf_counter()
        ranking = reranker.rerank(request.query, request.documents, budget_ms=budget, plan=plan)
        taken.append(1000 * (time.perf_counter() - began))
        shares.append(_share(top, [result.index for result in ranking[:BEST]]))
        unread.append(any(result.score is None for result in ranking))
    spent, left = np.array(taken), np.array(unread)
    within = float(np.mean(spent <= budget + GRACE_MS))
    used = float(np.mean(spent[left]) / budget) if left.any() else None
    used_of_it = "-" if used is None else f"{used:.0%}"
    print(
        f"{budget:5.0f} ms: {within:6.1%} within {GRACE_MS:.0f} ms of it, worst {spent.max() - budget:+.1f} ms; "
        f"{left.mean():.0%} not read in full, which used {used_of_it} of it; "
        f"of the full ranking's ten best {np.mean(shares):.3f} (order given {given:.3f})",
        flush=True,
    )
    return within >= WITHIN and (used is None or used >= USED) and float(np.mean(shares)) >= given


def _share(top: list[int], found: Sequence[int]) -> float:
    return len(set(top) & set(found)) / max(1, len(top))


if __name__ == "__main__":
    sys.exit(main())
