"""Sends requests: open loop at scheduled times, or closed loop by clients that wait for their answers."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import httpx

from benchmarks.load.figures import Load, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.load.servers import ServerProcess
    from benchmarks.load.traffic import LoadRequest

TIMEOUT = 120.0
SAMPLES_EVERY = 0.5
PAUSE = 0.1
"""Seconds that a client waits after its request was refused."""
HEADERS = {"content-type": "application/json"}


def connect(server: ServerProcess) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    return httpx.AsyncClient(base_url=server.url, headers=HEADERS, timeout=TIMEOUT, limits=limits, trust_env=False)


async def open_loop(
    server: ServerProcess,
    requests: Sequence[LoadRequest],
    times: NDArray[np.float64],
    *,
    hopeless: Callable[[list[Outcome], float], bool] = lambda _outcomes, _now: False,
    background: Callable[[Load], Coroutine[None, None, None]] | None = None,
) -> Load:
    """Sends the requests in turn at `times`, seconds from now, without waiting for answers; then waits for all answers.

    Stops sending once the load is `hopeless`. `background` runs at the same time.
    """
    outcomes: list[Outcome] = []
    load = Load(outcomes, float(times[-1]), 0.0)
    async with connect(server) as client, asyncio.TaskGroup() as tasks:
        load.began = began = time.perf_counter()
        sampling = asyncio.create_task(_sample(server, load))
        if background:
            tasks.create_task(background(load))
        cpu, server_cpu = time.process_time(), server.cpu_seconds()
        for place, due in enumerate(times):
            await asyncio.sleep(began + due - time.perf_counter())
            if hopeless(outcomes, time.perf_counter() - began):
                load.seconds = float(due)
                break
            request = requests[place % len(requests)]
            outcome = Outcome(place % len(requests), len(request.documents), float(due))
            outcomes.append(outcome)
            tasks.create_task(_send(client, server.call(request), outcome, began))
        elapsed = time.perf_counter() - began
        load.generator_cpu = (time.process_time() - cpu) / elapsed
        load.server_cpu = (server.cpu_seconds() - server_cpu) / elapsed
        sampling.cancel()
    return load


async def closed_loop(server: ServerProcess, requests: Sequence[LoadRequest], seconds: float, clients: int) -> Load:
    """Runs `clients` clients that each send the next request once the last one was answered, or soon after it was refused."""
    outcomes: list[Outcome] = []
    began, cpu, server_cpu = time.perf_counter(), time.process_time(), server.cpu_seconds()

    async def ask(number: int) -> None:
        place = number * len(requests) // clients
        while (now := time.perf_counter() - began) < seconds:
            request = requests[place % len(requests)]
            outcome = Outcome(place % len(requests), len(request.documents), now)
            outcomes.append(outcome)
            place += 1
            await _send(client, server.call(request), outcome, began)
            if outcome.status != 200:
                await asyncio.sleep(PAUSE)

    async with connect(server) as client:
        await asyncio.gather(*map(ask, range(clients)))
    elapsed = time.perf_counter() - began
    cores = (server.cpu_seconds() - server_cpu) / elapsed
    return Load(outcomes, seconds, (time.process_time() - cpu) / elapsed, server_cpu=cores)


async def _send(client: httpx.AsyncClient, call: tuple[str, bytes], outcome: Outcome, began: float) -> None:
    outcome.sent = time.perf_counter() - began
    path, body = call
    try:
        reply = await client.post(path, content=body)
    except httpx.HTTPError as error:
        outcome.error = f"{type(error).__name__}: {error}"
    else:
        outcome.status = reply.status_code
        outcome.content = reply.content
    outcome.ended = time.perf_counter() - began


async def _sample(server: ServerProcess, load: Load) -> None:
    while True:
        load.memory.append((round(time.perf_counter() - load.began, 1), round(server.memory_mb(), 1)))
        await asyncio.sleep(SAMPLES_EVERY)
