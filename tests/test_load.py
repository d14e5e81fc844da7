"""The load generator: what it sends, when, and how it counts."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
from types import SimpleNamespace

import pytest

from tests.conftest import REPOSITORY

pytest.importorskip("httpx")


@pytest.fixture(autouse=True)
def repository(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY))


@pytest.fixture
def figures():
    from benchmarks.load import figures

    return figures


@pytest.fixture
def traffic():
    from benchmarks.load import traffic

    return traffic


def outcome(figures, scheduled, ended, status=200, **more):
    return figures.Outcome(0, 10, scheduled, ended=ended, status=status, **more)


def test_latency_counts_from_the_time_a_request_was_due(figures):
    late = outcome(figures, scheduled=1.0, sent=4.0, ended=4.1)
    assert late.latency == pytest.approx(3.1)
    found = figures.Load([late] * 20, 5.0, 0.0).figures()
    assert found["p50_ms"] == pytest.approx(3100)
    assert found["sent_late_p95_ms"] == pytest.approx(3000)


def test_a_rejected_request_is_no_fast_one(figures):
    good = [outcome(figures, scheduled=1 + place / 100, sent=1, ended=1.2) for place in range(90)]
    rejected = [outcome(figures, scheduled=1.95, sent=1.95, ended=1.951, status=429) for _ in range(10)]
    load = figures.Load(good + rejected, 2.0, 0.0)
    assert load.p95() == float("inf")
    found = load.figures()
    assert (found["answered"], found["rejected"], found["failed"]) == (90, 10, 0)
    assert found["goodput"] == pytest.approx(90 / 1.8, rel=1e-3)
    assert found["throughput"] == pytest.approx(100 / 1.8, rel=1e-3)
    assert found["documents_per_s"] == pytest.approx(900 / 1.8, rel=1e-3)
    assert figures.Load([*good, *rejected[:4]], 2.0, 0.0).p95() < 1


def test_the_warm_up_is_left_out(figures):
    slow = [outcome(figures, scheduled=0.5, sent=0.5, ended=0.9) for _ in range(50)]
    steady = [outcome(figures, scheduled=5, sent=5, ended=5.1) for _ in range(50)]
    found = figures.Load(slow + steady, 10.0, 0.0).figures()
    assert found["p99_ms"] == pytest.approx(100)
    assert found["requests"] == 50


@pytest.mark.parametrize(
    ("value", "at_most", "holds"), [(2.0, True, True), (2.1, True, False), (1.9, False, False), (None, True, False)]
)
def test_a_check_that_was_not_measured_does_not_hold(figures, value, at_most, holds):
    assert figures.check("x", value, 2.0, at_most=at_most)["holds"] is holds


def test_arrivals_at_two_rates_differ_in_their_scale_only(traffic):
    slow, fast = traffic.arrivals(5, 2000, 1), traffic.arrivals(50, 2000, 1)
    assert fast * 10 == pytest.approx(slow)
    assert slow[-1] == pytest.approx(2000 / 5, rel=0.1)
    gaps = [after - before for before, after in itertools.pairwise(slow)]
    assert statistics.pstdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.1)  # as of a Poisson process
    assert (traffic.arrivals(5, 10, 2) != slow[:10]).all()


def test_the_mix_depends_on_its_seed_only(traffic):
    mix = traffic.mixed_requests(1)
    assert mix == traffic.mixed_requests(1) != traffic.mixed_requests(2)
    assert {len(request.documents) for request in mix} == set(traffic.SIZES)
    words = [len(document.split()) for request in mix for document in request.documents]
    assert min(words) <= 10
    assert max(words) > 200
    for request in mix:
        assert json.loads(request.cohere)["documents"] == json.loads(request.tei)["texts"] == request.documents


@pytest.mark.parametrize("true", [0.07, 0.5, 0.83, 1.0, 2.9])
def test_the_search_finds_a_rate_wherever_it_lies(true):
    from benchmarks.load.ratio import RateSearch

    search, tried = RateSearch(0.8), []
    for _ in range(12):
        tried.append(search.share)
        search.tell(holds=search.share <= true)
    assert max(share for share in tried if share <= true) == pytest.approx(true, rel=0.05)


def test_a_load_is_open_requests_are_sent_before_the_last_ones_are_answered(traffic):
    from benchmarks.load.client import open_loop

    count = 20

    async def main():
        arrived = asyncio.Event()
        waiting = []

        async def answer(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            waiting.append(writer)
            if len(waiting) == count:
                arrived.set()
            await arrived.wait()  # answers none until all have come
            writer.write(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            server = SimpleNamespace(
                url=f"http://127.0.0.1:{port}",
                call=lambda request: ("/v2/rerank", request.cohere),
                memory_mb=lambda: 1.0,
                cpu_seconds=lambda: 0.0,
            )
            return await open_loop(
                server, traffic.uniform_requests(1, documents=1, words=3, count=3), traffic.arrivals(1000, count, 1)
            )

    load = asyncio.run(asyncio.wait_for(main(), 60))
    assert [each.status for each in load.outcomes] == [429] * count
    assert [each.request for each in load.outcomes[:4]] == [0, 1, 2, 0]


def test_a_server_that_is_not_there_is_a_failure_and_no_exception(traffic):
    from benchmarks.load.client import open_loop
    from benchmarks.load.servers import free_port

    server = SimpleNamespace(
        url=f"http://127.0.0.1:{free_port()}",
        call=lambda request: ("/v2/rerank", request.cohere),
        memory_mb=lambda: 0.0,
        cpu_seconds=lambda: 0.0,
    )
    load = asyncio.run(open_loop(server, traffic.uniform_requests(1, documents=1, words=3), traffic.arrivals(1000, 5, 1)))
    assert [each.status for each in load.outcomes] == [0] * 5
    assert all("ConnectError" in each.error for each in load.outcomes)
    assert load.figures()["failed"] > 0
