"""Scenarios with only resift's server: capacity, overload, endurance, fairness. Each returns its figures and checks."""

from __future__ import annotations

import asyncio
import statistics
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.load import traffic
from benchmarks.load.client import PAUSE, closed_loop, connect, open_loop
from benchmarks.load.figures import REJECTED, Load, check, percentiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from benchmarks.load.servers import ServerProcess
    from benchmarks.load.traffic import LoadRequest

CLIENTS = 16
"""Number of closed-loop clients that measure the capacity."""
LADDER = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5)
"""Offered rates as shares of the capacity."""
LONG_WORDS = 300
MAX_LATE_MS = 20
"""Maximum delay between the time when a request is due and its sending."""
MAX_GENERATOR_CPU = 0.1
"""Maximum share of a core that the generator may use, as it takes time from the server on a small machine."""


def capacity_of(server: ServerProcess, requests: Sequence[LoadRequest], seconds: float) -> dict[str, Any]:
    """The throughput of a server whose clients always wait for it."""
    return asyncio.run(closed_loop(server, requests, seconds, CLIENTS)).figures()


def run_load(server: ServerProcess, requests: Sequence[LoadRequest], rate: float, seconds: float, seed: int) -> Load:
    """Sends requests at `rate` per second for `seconds`."""
    times = traffic.arrivals(rate, max(2, round(rate * seconds)), seed)
    return asyncio.run(open_loop(server, requests, times))


def capacity(server: ServerProcess, requests: Sequence[LoadRequest], *, seconds: float, seed: int) -> dict[str, Any]:
    """Throughput against latency at a ladder of rates."""
    full = capacity_of(server, requests, seconds)
    rungs = []
    for share in LADDER:
        figures = run_load(server, requests, share * full["goodput"], seconds, seed).figures()
        rungs.append({"share of capacity": share, **figures})
        print(line(f"{share:.2f} of capacity", figures), flush=True)
    return {"capacity": full, "ladder": rungs, "checks": generator(rungs)}


def overload(server: ServerProcess, requests: Sequence[LoadRequest], *, seconds: float, seed: int, repeats: int) -> dict[str, Any]:
    """Compares a load of twice the capacity with a load of half the capacity."""
    rounds = []
    for number in range(repeats):
        full = capacity_of(server, requests, seconds)
        half = run_load(server, requests, 0.5 * full["goodput"], seconds, seed + number).figures()
        twice = run_load(server, requests, 2.0 * full["goodput"], seconds, seed + number).figures()
        rounds.append({"capacity": full, "half": half, "twice": twice})
        for name, figures in rounds[-1].items():
            print(line(name, figures), flush=True)
    slower = statistics.median(found["twice"]["p95_ms"] / found["half"]["p95_ms"] for found in rounds)
    goodput = statistics.median(found["twice"]["documents_per_s"] / found["capacity"]["documents_per_s"] for found in rounds)
    return {
        "rounds": rounds,
        "checks": [
            check("p95 of answered requests, twice / half the capacity", slower, 3.0),
            check("goodput in documents, at twice the capacity / the capacity", goodput, 0.9, at_most=False),
            check("requests that failed", sum(found["twice"]["failed"] for found in rounds), 0),
            *generator([found[name] for found in rounds for name in ("half", "twice")]),
        ],
    }


def endurance(
    server: ServerProcess, requests: Sequence[LoadRequest], *, seconds: float, minutes: float, seed: int
) -> dict[str, Any]:
    """Memory over minutes at 0.8 of the capacity."""
    full = capacity_of(server, requests, seconds)
    load = run_load(server, requests, 0.8 * full["goodput"], 60 * minutes, seed)
    figures = load.figures()
    samples = [megabytes for _, megabytes in load.memory if megabytes]
    quarter = max(1, len(samples) // 4)
    early, late = statistics.median(samples[quarter : 2 * quarter]), statistics.median(samples[-quarter:])
    print(line("0.80 of capacity", figures) + f", {early:.0f} MB in the second quarter, {late:.0f} MB in the last", flush=True)
    every = max(1, len(load.memory) // 60)
    return {
        "figures": figures,
        "memory_mb": load.memory[::every],
        "checks": [
            check("memory, last / second quarter", late / early, 1.05),
            check("requests that failed", figures["failed"], 0),
            *generator([figures]),
        ],
    }


def fairness(server: ServerProcess, *, seconds: float, seed: int, repeats: int) -> dict[str, Any]:
    """Small requests alone, and together with a client that sends 1,000 long documents again and again."""
    small = traffic.uniform_requests(seed, documents=10, words=60)
    big = traffic.uniform_requests(seed, documents=1000, words=LONG_WORDS, count=1)[0]
    rate = 0.2 * capacity_of(server, small, seconds)["goodput"]
    alone: list[float] = []
    beside: list[float] = []
    statuses: list[int] = []
    for number in range(repeats):
        alone += latencies(run_load(server, small, rate, seconds, seed + number))
        times = traffic.arrivals(rate, max(2, round(rate * seconds)), seed + number)
        load, answered = asyncio.run(_run_with_big_client(server, small, times, big))
        beside += latencies(load)
        statuses += answered
    figures = {"alone": percentiles(alone), "beside": percentiles(beside)}
    for name, found in figures.items():
        print(f"{name:8} p50 {found['p50_ms']} ms, p95 {found['p95_ms']} ms", flush=True)
    print(f"statuses of the requests of 1,000 documents, one more of which was in progress at each end: {statuses}")
    slower = float(np.percentile(beside, 95) / np.percentile(alone, 95))
    return {
        "rate": rate,
        **figures,
        "big_statuses": statuses,
        "checks": [
            check("p95 of small requests, beside / alone", slower, 2.0),
            check("small requests, answered beside / alone", len(beside) / len(alone), 1.0, at_most=False),
            check("requests of 1,000 documents that were rejected", sum(status in REJECTED for status in statuses), 0),
        ],
    }


def latencies(load: Load) -> list[float]:
    return [outcome.latency for outcome in load.outcomes if outcome.status == 200]


async def _run_with_big_client(
    server: ServerProcess, small: Sequence[LoadRequest], times: NDArray[np.float64], big: LoadRequest
) -> tuple[Load, list[int]]:
    """The load of small requests while a client sends the big one; also the statuses of the big ones."""
    statuses: list[int] = []

    async def ask() -> None:
        async with connect(server) as client:
            while True:
                statuses.append((await client.post(server.path, content=big.cohere)).status_code)
                if statuses[-1] != 200:
                    await asyncio.sleep(PAUSE)

    asking = asyncio.create_task(ask())
    load = await open_loop(server, small, times)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    return load, statuses


def generator(loads: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Checks that the generator was fast enough for the figures to be those of the server."""
    return [
        check("the generator's own CPU, in cores", max(figures["generator_cpu"] for figures in loads), MAX_GENERATOR_CPU),
        check("p95 of the ms by which requests were sent late", max(figures["sent_late_p95_ms"] for figures in loads), MAX_LATE_MS),
    ]


def line(name: str, figures: dict[str, Any]) -> str:
    rates = (
        f"offered {figures['offered']:7.2f}/s, answered {figures['goodput']:7.2f}/s ({figures['documents_per_s']:7.1f} documents/s)"
    )
    times = f"p50 {figures['p50_ms']} p95 {figures['p95_ms']} p99 {figures['p99_ms']} ms"
    rest = f"rejected {figures['rejected']}, failed {figures['failed']}, generator {100 * figures['generator_cpu']:.1f} % of a core"
    return f"{name:20} {rates}, {times}, {rest}"
