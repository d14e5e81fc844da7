"""Scenario compare: compares servers at equal p95, and their ratio with that of the libraries in the same run."""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from benchmarks.compare.running import ContenderProcess
from benchmarks.load import traffic
from benchmarks.load.client import open_loop
from benchmarks.load.figures import Load, Outcome, check
from benchmarks.load.scenarios import generator, line
from benchmarks.load.servers import running

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.compare.catalogue import Contender
    from benchmarks.environments import Environment
    from benchmarks.load.servers import ServerProcess
    from benchmarks.load.traffic import LoadRequest

    Library = tuple[Contender, Environment, str]
    """with the environment that runs it, and its model"""

MIN_RATIO = 0.85
"""Minimum of the servers' ratio divided by the libraries' ratio."""
LATENCY_FACTOR = 3.0
"""The limit of the servers' p95, as a multiple of the slower library's p95 for one pool at a time."""
FIRST_SHARE, GROWTH = 0.8, 1.5
"""The first rate tried, as a share of the library's pools per second, and the factor by which it grows until a rate is too high."""
WARM_UP = 8
"""Number of requests before the first load of a server, and of pools before a library is measured."""


@dataclass(frozen=True)
class Effort:
    """How much to measure."""

    threads: int
    rounds: int
    requests: int
    """number of requests in each load; every server gets the same ones, however long it takes"""
    steps: int
    """number of rates tried for each server in each round"""
    library_pools: int
    """number of pools that the libraries rank in each round"""
    seed: int


def compare(
    servers: Sequence[ServerProcess], libraries: Sequence[Library], requests: Sequence[LoadRequest], effort: Effort
) -> dict[str, Any]:
    """Compares `servers`: resift's, FastAPI's, then others; `libraries`: resift and sentence-transformers, with their models."""
    found = []
    for number in range(effort.rounds):
        library = _libraries(libraries, requests[: effort.library_pools], effort.threads)
        limit = LATENCY_FACTOR * max(figures["p95_s"] for figures in library)
        ratio = library[0]["pools_per_s"] / library[1]["pools_per_s"]
        print(f"round {number + 1}: library {ratio:.2f} times; servers are held to a p95 of {limit:.2f} s", flush=True)
        served = {}
        # The other servers let requests wait as long as they like, so resift's may use the p95 that all are held to.
        patient = replace(servers[0], command=[*servers[0].command, "--max-waiting-seconds", f"{limit:.2f}"])
        for server in (patient, *servers[1:]):
            rate = library[0 if server is patient else 1]["pools_per_s"]
            with running(server):
                served[server.name] = _highest(
                    _Trial(server, requests[: effort.requests], effort.seed + number, limit), rate, effort.steps
                )
        rates = [served[server.name]["documents_per_s"] for server in servers]
        ratios_by_name = {server.name: _times(rates[0], other) for server, other in zip(servers[1:], rates[1:], strict=True)}
        found.append(
            {"library": library, "library_ratio": ratio, "p95_limit_s": limit, "servers": served, "ratios": ratios_by_name}
        )
        for name, times in ratios_by_name.items():
            description = f"{times:.2f} times {name}" if times else f"against {name}: no figure, a server held no rate"
            print(f"round {number + 1}: resift's server {description} at a p95 of {limit:.2f} s", flush=True)
    fastapi = servers[1].name
    loads = [figures for each in found for figures in each["servers"].values() if "requests" in figures]
    ratios = [each["ratios"][fastapi] / each["library_ratio"] for each in found if each["ratios"][fastapi]]
    median = statistics.median(ratios) if len(ratios) == len(found) else None
    return {
        "rounds": found,
        "checks": [check("ratio of servers / ratio of libraries", median, MIN_RATIO, at_most=False), *generator(loads)],
    }


def _libraries(libraries: Sequence[Library], requests: Sequence[LoadRequest], threads: int) -> list[dict[str, Any]]:
    """Pools per second and p95 of both libraries, one pool at a time, in turn."""
    processes = [
        ContenderProcess(replace(contender, environment=environment), model, threads) for contender, environment, model in libraries
    ]
    seconds: list[list[float]] = [[] for _ in libraries]
    try:
        for place, request in enumerate([*requests[:WARM_UP], *requests]):
            for process, spent in zip(processes, seconds, strict=True):
                taken = process.rank([(request.query, request.documents)])["seconds"]
                if place >= WARM_UP:
                    spent.append(taken)
    finally:
        for process in processes:
            process.close()
    return [
        {"name": contender.name, "pools_per_s": len(spent) / sum(spent), "p95_s": sorted(spent)[int(0.95 * (len(spent) - 1))]}
        for (contender, *_), spent in zip(libraries, seconds, strict=True)
    ]


class RateSearch:
    """Searches the highest share that holds: grows or halves the share until the highest is enclosed, then bisects."""

    def __init__(self, first: float) -> None:
        self.share = first
        self._holds: float | None = None
        self._fails: float | None = None

    def tell(self, *, holds: bool) -> None:
        """Notes whether the share held, and chooses the next one."""
        if holds:
            self._holds = self.share
        else:
            self._fails = self.share
        if self._fails is None:
            self.share *= GROWTH
        elif self._holds is None:
            self.share /= 2
        else:
            self.share = (self._holds + self._fails) / 2


@dataclass(frozen=True)
class _Trial:
    """Loads of one server that differ only in their rate."""

    server: ServerProcess
    requests: Sequence[LoadRequest]
    seed: int
    limit: float
    """limit of the p95 in seconds"""

    async def at(self, rate: float) -> Load:
        times = traffic.arrivals(rate, len(self.requests), self.seed)

        def hopeless(outcomes: list[Outcome], now: float) -> bool:
            """Whether too many requests are late already for the p95 to hold."""
            late = sum(min(each.ended, now) - each.scheduled > self.limit or each.status not in (0, 200) for each in outcomes)
            return late > 0.05 * len(times)

        return await open_loop(self.server, self.requests, times, hopeless=hopeless)


def _highest(trial: _Trial, library: float, steps: int) -> dict[str, Any]:
    """Figures of the highest rate tried whose p95 is within the limit; rejected requests count as infinitely late."""
    asyncio.run(open_loop(trial.server, trial.requests, traffic.arrivals(library / 2, WARM_UP, trial.seed)))
    best, search = {"documents_per_s": 0.0}, RateSearch(FIRST_SHARE)
    for _ in range(steps):
        load = asyncio.run(trial.at(search.share * library))
        holds, figures = load.p95() <= trial.limit, load.figures()
        print(line(f"  {trial.server.name[:12]} {search.share:.2f}{'' if holds else ' no'}", figures), flush=True)
        if holds and figures["documents_per_s"] > best["documents_per_s"]:
            best = {"share of the library": search.share, **figures}
        search.tell(holds=holds)
    return best


def _times(rate: float, other: float) -> float | None:
    """The ratio of two rates; None if no rate held for one of the servers."""
    return rate / other if rate and other else None
