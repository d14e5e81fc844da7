"""Scenario compare: servers at equal p95, beside the ratio of the libraries in the same run."""

from __future__ import annotations

import asyncio
import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.compare import Contender, Process
from benchmarks.load import traffic
from benchmarks.load.client import open_loop
from benchmarks.load.figures import Load, Outcome, check
from benchmarks.load.scenarios import line
from benchmarks.load.servers import running

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.load.servers import Server
    from benchmarks.load.traffic import Request

KEPT = 0.85
"""Least share of the libraries' ratio that the servers keep."""
LATENCY_FACTOR = 3.0
"""The p95 that servers are held to, as a multiple of the slower library's p95 for one pool at a time."""
FIRST, STEP = 0.8, 0.3
"""The first rate tried, and the first step from it, as shares of the library's pools a second; each step is half the last."""


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    threads: int
    rounds: int
    count: int
    """requests of each load"""
    steps: int
    """rates tried for each server and round"""
    library_pools: int
    """pools that the libraries rank in each round"""
    seed: int


def compare(
    servers: Sequence[Server], libraries: Sequence[tuple[Contender, str]], requests: Sequence[Request], effort: Effort
) -> dict[str, Any]:
    """`servers`: resift's, FastAPI's, and others; `libraries`: resift's and sentence-transformers', with the models they load."""
    found = []
    for number in range(effort.rounds):
        library = _libraries(libraries, requests[: effort.library_pools], effort.threads)
        slower = max(math.ceil(1000 * figures["p95_s"]) / 1000 for figures in library)
        limit = LATENCY_FACTOR * slower
        ratio = library[0]["pools_per_s"] / library[1]["pools_per_s"]
        print(f"round {number + 1}: library {ratio:.2f} times; servers are held to a p95 of {limit:.2f} s", flush=True)
        served = {}
        for server in servers:
            rate = library[0 if server is servers[0] else 1]["pools_per_s"]
            with running(server):
                served[server.name] = _highest(
                    _Trial(server, requests, effort.count, effort.seed + number, limit), rate, effort.steps
                )
        rates = [served[server.name]["goodput"] for server in servers]
        others = {server.name: _share(rates[0], other) for server, other in zip(servers[1:], rates[1:], strict=True)}
        found.append({"library": library, "library_ratio": ratio, "p95_limit_s": limit, "servers": served, "ratios": others})
        for name, times in others.items():
            print(f"round {number + 1}: resift's server {times:.2f} times {name} at a p95 of {limit:.2f} s", flush=True)
    fastapi = servers[1].name
    kept = statistics.median(each["ratios"][fastapi] / each["library_ratio"] for each in found)
    return {"rounds": found, "checks": [check("ratio of servers / ratio of libraries", kept, KEPT, most=False)]}


def _libraries(libraries: Sequence[tuple[Contender, str]], requests: Sequence[Request], threads: int) -> list[dict[str, Any]]:
    """Pools a second and p95, one pool at a time, both libraries in turn."""
    processes = [Process(contender, model, threads) for contender, model in libraries]
    seconds: list[list[float]] = [[] for _ in libraries]
    try:
        for place, request in enumerate([requests[0], *requests]):
            for process, spent in zip(processes, seconds, strict=True):
                taken = process.ask(query=request.query, documents=request.documents)["seconds"]
                if place:  # the first warms up
                    spent.append(taken)
    finally:
        for process in processes:
            process.close()
    return [
        {"name": contender.name, "pools_per_s": len(spent) / sum(spent), "p95_s": sorted(spent)[int(0.95 * (len(spent) - 1))]}
        for (contender, _), spent in zip(libraries, seconds, strict=True)
    ]


@dataclass(frozen=True)
class _Trial:
    """Loads of one server that differ in their rate only."""

    server: Server
    requests: Sequence[Request]
    count: int
    seed: int
    limit: float
    """seconds that the p95 may take"""

    async def at(self, rate: float) -> Load:
        times = traffic.arrivals(rate, self.count, self.seed)
        return await open_loop(self.server, self.requests, times, hopeless=self._hopeless)

    def _hopeless(self, outcomes: list[Outcome], now: float) -> bool:
        """Whether too many are late already for the p95 to hold."""
        late = sum(min(each.ended, now) - each.scheduled > self.limit or each.status not in (0, 200) for each in outcomes)
        return late > 0.05 * self.count


def _highest(trial: _Trial, library: float, steps: int) -> dict[str, Any]:
    """Figures of the highest rate tried whose p95, rejected requests counted as infinitely late, is within the limit."""
    share, step, best = FIRST, STEP, {"goodput": 0.0}
    asyncio.run(open_loop(trial.server, trial.requests, traffic.arrivals(library / 2, 8, trial.seed)))  # warms up
    for _ in range(steps):
        load = asyncio.run(trial.at(share * library))
        holds, figures = load.p95() <= trial.limit, load.figures()
        print(line(f"  {trial.server.name[:12]} {share:.2f}{'' if holds else ' no'}", figures), flush=True)
        if holds and figures["goodput"] > best["goodput"]:
            best = {"share of the library": share, **figures}
        share, step = share + step if holds else share - step, step / 2
    return best


def _share(rate: float, other: float) -> float:
    return rate / other if other else math.inf
