"""Scenarios in which something ends: SIGTERM in the middle of a load, and clients that disconnect."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.load import traffic
from benchmarks.load.client import TIMEOUT, connect, open_loop
from benchmarks.load.figures import REJECTED, Load, Outcome, check
from benchmarks.load.scenarios import capacity_of
from resift import Reranker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from benchmarks.load.servers import ServerProcess
    from benchmarks.load.traffic import LoadRequest

CLIENTS = 2
"""Number of clients that disconnect: the server would not admit more requests of this size."""
DOCUMENTS = 200
"""Number of documents in each request."""


def sigterm(server: ServerProcess, requests: Sequence[LoadRequest], *, seconds: float, seed: int, model: str) -> dict[str, Any]:
    """SIGTERM in the middle of a load at 0.8 of the capacity: compares the answers with the library's logits and with the log."""
    with Reranker.load(model or None) as reranker:
        expected = [reranker.logits(request.query, request.documents).tobytes() for request in requests]
    server.tei = True
    warmed = capacity_of(server, requests, seconds / 2)
    before = _count_logged(server)
    rate = 0.8 * warmed["goodput"]
    times = traffic.arrivals(rate, max(4, round(rate * seconds)), seed)
    load, signalled = asyncio.run(_run_until_sigterm(server, requests, times, seconds / 2))
    code = server.process.wait(TIMEOUT)
    good = [outcome for outcome in load.outcomes if outcome.status == 200]
    wrong = [outcome for outcome in good if _logits(outcome).tobytes() != expected[outcome.request]]
    early = [outcome for outcome in load.outcomes if outcome.sent < signalled]
    lost = [outcome for outcome in early if outcome.status != 200 and outcome.status not in REJECTED]
    logged = _count_logged(server) - before
    after = {"answered": 0, "refused": 0, "not connected": 0}
    for outcome in load.outcomes[len(early) :]:
        after["answered" if outcome.status == 200 else "refused" if outcome.status else "not connected"] += 1
    in_flight = sum(outcome.ended > signalled for outcome in early)
    print(f"{len(early)} requests before SIGTERM, {in_flight} of them in progress at it; after it: {after}; exit code {code}")
    return {
        "before": len(early),
        "in progress": in_flight,
        "after": after,
        "errors": sorted({outcome.error for outcome in load.outcomes if outcome.error}),
        "checks": [
            check("requests sent before SIGTERM that got no answer", len(lost), 0),
            check("answers that differ from the library's logits", len(wrong), 0),
            check("answers that the server logged and no client got", abs(logged - len(good)), 0),
            check("requests in progress at SIGTERM", in_flight, 1, at_most=False),
            check("exit code", code, 0),
        ],
    }


def disconnect(server: ServerProcess, *, seed: int) -> dict[str, Any]:
    """Clients that disconnect before they are answered: their rows leave the queue."""
    requests = traffic.uniform_requests(seed, documents=DOCUMENTS, words=250, count=CLIENTS)
    before = server.metrics()
    waiting, gone, after = asyncio.run(_go_away(server, requests))
    dropped = after["resift_dropped_rows_total"] - before["resift_dropped_rows_total"]
    counted = after["resift_disconnected_total"] - before["resift_disconnected_total"]
    print(f"{waiting:.0f} rows waited; {gone:.2f} s after the clients went away none did; {dropped:.0f} were dropped")
    return {
        "waiting_rows": waiting,
        "dropped_rows": dropped,
        "seconds": gone,
        "checks": [
            check("rows that waited", waiting, DOCUMENTS, at_most=False),
            check("rows dropped / rows that waited", dropped / max(1.0, waiting), 0.9, at_most=False),
            check("seconds until no rows wait", gone, 1.0),
            check("clients that the server saw go", counted, CLIENTS, at_most=False),
        ],
    }


async def _run_until_sigterm(
    server: ServerProcess, requests: Sequence[LoadRequest], times: NDArray[np.float64], at: float
) -> tuple[Load, float]:
    """Sends SIGTERM `at` seconds from the start, or later once a request is in progress; also returns the time of the signal."""
    sent = []

    async def terminate(load: Load) -> None:
        await asyncio.sleep(at)
        while not any(outcome.in_progress for outcome in load.outcomes):
            await asyncio.sleep(0.001)
        sent.append(time.perf_counter() - load.began)
        server.process.send_signal(signal.SIGTERM)

    load = await open_loop(server, requests, times, background=terminate)
    return load, sent[0]


async def _go_away(server: ServerProcess, requests: Sequence[LoadRequest]) -> tuple[float, float, dict[str, float]]:
    async with connect(server) as client:
        asking = [asyncio.create_task(client.post(server.path, content=request.cohere)) for request in requests]
        while (waiting := _waiting_rows(server)) <= DOCUMENTS and not all(task.done() for task in asking):
            await asyncio.sleep(0.02)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    began = time.perf_counter()
    while _waiting_rows(server) and time.perf_counter() < began + TIMEOUT:
        await asyncio.sleep(0.02)
    return waiting, time.perf_counter() - began, server.metrics()


def _waiting_rows(server: ServerProcess) -> float:
    return server.metrics()["resift_waiting_rows"]


def _logits(outcome: Outcome) -> np.ndarray:
    found = np.empty(outcome.documents, np.float32)
    for rank in json.loads(outcome.content):
        found[rank["index"]] = rank["score"]
    return found


def _count_logged(server: ServerProcess) -> int:
    """The number of rerank requests that the server's log shows as answered with 200."""
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    return sum(line["event"] == "request" and line["method"] == "POST" and line["status"] == 200 for line in lines)
