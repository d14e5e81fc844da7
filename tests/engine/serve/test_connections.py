"""Which connection makes room for another, and what the log says of the event loop's faults, without a network."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from types import SimpleNamespace

import pytest

from resift.serve import connections
from resift.serve.config import Config
from resift.serve.connections import Connections, connections_for, peer_of
from resift.serve.loop_errors import INTERVAL, LoopErrors
from resift.serve.turns import Turns


class Body:
    """A connection whose body is read on a pass of the event loop, unless it is paused; `passes` are the passes that read it."""

    def __init__(self) -> None:
        self.is_reading = True
        self.passes = []
        self.flow = SimpleNamespace(read_paused=False)
        self.transport = SimpleNamespace(pause_reading=partial(self.read, on=False), resume_reading=partial(self.read, on=True))

    def read(self, *, on: bool) -> None:
        self.is_reading = on


async def passes_of(bodies, count):
    """Lets a loop pass `count` times, each of which reads all `bodies` that are not paused."""
    turns = Turns()
    for number in range(count):
        for body in bodies:
            if body.is_reading:
                body.passes.append(number)
                turns.wait(body, asyncio.get_running_loop())
        await asyncio.sleep(0)


def test_of_bodies_that_arrive_at_once_one_is_read_in_each_pass():
    bodies = [Body() for _ in range(3)]
    asyncio.run(passes_of(bodies, 7))
    assert [body.passes for body in bodies] == [[0, 1, 4], [0, 2, 5], [0, 3, 6]]


def test_a_body_whose_last_part_is_waited_for_is_not_read_when_its_turn_comes():
    bodies = [Body() for _ in range(2)]
    bodies[0].flow.read_paused = True
    asyncio.run(passes_of(bodies, 4))
    assert [body.passes for body in bodies] == [[0], [0, 2, 3]]


class Peer:
    """A connection of a peer, in progress or waiting for its client."""

    def __init__(self, peer: str, *, waits_for_client: bool = True) -> None:
        self.peer = peer
        self.waits_for_client = waits_for_client
        self.is_open = True

    def make_room(self) -> None:
        self.is_open = False


def test_what_is_in_progress_is_not_ended_for_a_peer_that_has_as_many():
    registry = Connections(limit=4, peer_limit=4)
    busy = [Peer("a", waits_for_client=False) for _ in range(3)]
    assert all(map(registry.admit, [*busy, Peer("b", waits_for_client=False)]))
    second, third = Peer("b", waits_for_client=False), Peer("c", waits_for_client=False)
    assert registry.admit(second)  # 3 of a, 1 of b: b's second ends a's newest
    assert [each.is_open for each in busy] == [True, True, False]
    assert registry.admit(third)  # 2 of each, none of c: the newest of one that has more
    assert registry.count == 4
    assert not registry.admit(Peer("c", waits_for_client=False))  # no one has more than c would have
    assert registry.count == 4
    for peer in (*busy, third):
        registry.forget(peer)
        registry.forget(peer)
    assert registry.count <= 2


@pytest.mark.parametrize(("number", "ended"), [(connections.FEW, 0), (connections.FEW + 2, 2)], ids=["few", "many"])
def test_a_few_requests_go_on_while_connections_of_others_wait(number, ended):
    registry = Connections(limit=number + 2, peer_limit=number)
    busy = [Peer("a", waits_for_client=False) for _ in range(number)]
    waiting = [Peer(name) for name in "bcde"]
    assert all(map(registry.admit, [*busy, *waiting]))
    assert registry.count == number + 2
    assert [each.is_open for each in busy].count(False) == ended
    assert [each.is_open for each in waiting] == ([True] * 4 if ended else [False, False, True, True])


def test_a_peer_of_several_is_not_closed_before_those_that_wait_longer():
    registry = Connections(limit=4, peer_limit=4)
    honest, hostile = [Peer("a"), Peer("a")], [Peer(name) for name in "bcdef"]
    assert all(map(registry.admit, [*honest, *hostile[:2]]))
    for each in honest:
        registry.answered(each)
    assert all(map(registry.admit, hostile[2:4]))
    assert [each.is_open for each in (*honest, *hostile[:4])] == [True, True, False, False, True, True]
    assert registry.admit(hostile[4])  # now the first of the honest ones has waited longest
    assert [each.is_open for each in honest] == [False, True]
    assert registry.count == 4


@pytest.mark.parametrize("proxy", ["2001:db8::/32", "2001:db8::1"], ids=["network", "address"])
def test_the_limit_by_peer_does_not_hold_for_a_trusted_proxy(proxy):
    registry = Connections(limit=10, peer_limit=2, trusted_proxies=["10.0.0.0/8", proxy])
    proxied = [Peer(peer_of("10.1.2.3")) for _ in range(3)] + [Peer(peer_of("2001:db8::1")) for _ in range(3)]
    direct = [Peer(peer_of("11.1.2.3")) for _ in range(3)]
    local = [Peer(peer_of(None)) for _ in range(3)]
    assert all(map(registry.admit, [*proxied, *direct, *local]))
    assert [each.is_open for each in (*proxied, *direct, *local)] == [True] * 6 + [False, True, True] * 2


@pytest.mark.parametrize(
    ("host", "peer"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_a_peer_is_an_address_or_a_network_of_ipv6(host, peer):
    assert peer_of(host) == peer


@pytest.mark.parametrize(("files", "limit"), [(None, 2048), (1 << 20, 2048), (256, 192), (70, 16)])
def test_there_are_fewer_connections_where_fewer_files_may_be_open(monkeypatch, files, limit):
    monkeypatch.setattr(connections, "open_files_limit", lambda: files)
    assert connections_for(Config()).limit == limit


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_the_limit_of_open_files_is_the_systems():
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert connections.open_files_limit() == (None if soft == resource.RLIM_INFINITY else soft)


def test_a_fault_of_the_event_loop_is_one_line_in_a_while(log_records):
    now = 1000.0
    loop = SimpleNamespace(time=lambda: now)
    report = LoopErrors()
    full = {"message": "socket.accept() out of system resource", "exception": OSError(24, "Too many open files")}
    for _ in range(1000):
        report(loop, full)
    report(loop, {"message": "Task exception was never retrieved", "exception": KeyError("x")})
    now += INTERVAL
    report(loop, full)
    assert [(record.getMessage(), record.fields["fault"], record.fields["omitted"]) for record in log_records] == [
        ("event loop", "socket.accept() out of system resource: [Errno 24] Too many open files", 0),
        ("event loop", "Task exception was never retrieved: 'x'", 0),
        ("event loop", "socket.accept() out of system resource: [Errno 24] Too many open files", 999),
    ]
    assert [bool(record.exc_info) for record in log_records] == [False, True, False]
