"""Measures deadlines on a busy machine: how late calls are, how much of their time they use, and how well they rank.

    python -m benchmarks deadlines [--budgets 30 60 100] [--pools 500] [--busy 1] [--file POOLS] [--plan PLAN]

Pools are a mix of sizes and lengths made from the built-in gate, or those of a file. Quality is the mean share of the full
ranking's ten best among the first ten, compared with that of the order given. Exit code 1 unless 95 % of the calls are answered
within the budget plus 10 ms, calls with unscored pairs use 80 % of the budget on average, and no budget ranks worse than the order
given.
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

from benchmarks.load import traffic
from resift import Reranker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.load.traffic import LoadRequest

SEED = 11
GRACE_MS = 10.0
MIN_WITHIN, MIN_USED = 0.95, 0.80
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
    arguments = parser.parse_args()
    requests = traffic.read_requests(arguments.file) if arguments.file else traffic.mixed_requests(SEED, arguments.pools)
    requests = requests[: arguments.pools]
    print(f"# {len(requests)} pools, {arguments.busy} busy processes")
    with Reranker.load(arguments.model) as reranker:
        best = [[result.index for result in reranker.rerank(each.query, each.documents, plan="full")[:BEST]] for each in requests]
        order_given = np.mean([_share(top, range(BEST)) for top in best])
        with busy(arguments.busy):
            results = [
                measure(reranker, requests, best, float(order_given), budget, arguments.plan) for budget in arguments.budgets
            ]
    return int(not all(results))


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


def measure(  # noqa: PLR0913 - a budget, and the data to compare it with
    reranker: Reranker, requests: Sequence[LoadRequest], best: list[list[int]], order_given: float, budget: float, plan: str | None
) -> bool:
    """Prints the figures of a budget in milliseconds; returns whether they meet the requirements."""
    for request in requests[:WARM_UP]:
        reranker.rerank(request.query, request.documents, budget_ms=budget, plan=plan)
    milliseconds, shares, incomplete = [], [], []
    for request, top in zip(requests, best, strict=True):
        began = time.perf_counter()
        ranking = reranker.rerank(request.query, request.documents, budget_ms=budget, plan=plan)
        milliseconds.append(1000 * (time.perf_counter() - began))
        shares.append(_share(top, [result.index for result in ranking[:BEST]]))
        incomplete.append(any(result.score is None for result in ranking))
    spent, is_incomplete = np.array(milliseconds), np.array(incomplete)
    within = float(np.mean(spent <= budget + GRACE_MS))
    used = float(np.mean(spent[is_incomplete]) / budget) if is_incomplete.any() else None
    used_of_it = "-" if used is None else f"{used:.0%}"
    print(
        f"{budget:5.0f} ms: {within:6.1%} within {GRACE_MS:.0f} ms of it, worst {spent.max() - budget:+.1f} ms; "
        f"{is_incomplete.mean():.0%} not scored completely, and these used {used_of_it} of it; "
        f"of the full ranking's ten best {np.mean(shares):.3f} (order given {order_given:.3f})",
        flush=True,
    )
    return within >= MIN_WITHIN and (used is None or used >= MIN_USED) and float(np.mean(shares)) >= order_given


def _share(top: list[int], ranked: Sequence[int]) -> float:
    return len(set(top) & set(ranked)) / max(1, len(top))


if __name__ == "__main__":
    sys.exit(main())
