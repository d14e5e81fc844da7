"""Connections that are held, in a process of their own, and honest clients beside them."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np

from benchmarks.hostile.bodies import Watch

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable

    from benchmarks.load.servers import ServerProcess

HONEST = 4
"""Honest clients, each with one request at a time."""
DOCUMENTS = ["The moon pulls the sea into tides.", "Bread rises because yeast makes gas.", "Rain falls on the plain."]
START = 3.0
"""Seconds of an attack before the honest clients are looked at."""
DRIP = 5.0
"""Seconds between the bytes of a client that is slow."""
ESTABLISHED = "01"
HEAD = b"POST /v1/rerank HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
SIZE = 1_900_000
LARGE = b'{"query":"a","return_documents":true,"documents":[{"text":"a","n":"' + b"a" * SIZE + b'"}]}'


@dataclass
class AttackEffect:
    """What honest clients and the server's machine saw."""

    p95: float
    """seconds, of honest requests"""
    requests: int
    failed: int
    silence: float
    """seconds of the longest wait for /health"""
    mb: float
    busy: float
    """share of a processor that the event loop took"""
    open: int
    """hostile connections at the end"""


def measure(server: ServerProcess, kind: str, arguments: argparse.Namespace) -> AttackEffect:
    """Honest clients beside an attack; without one if `kind` is empty."""
    port = server.url.rpartition(":")[2]
    command = [sys.executable, "-m", __name__, kind, port, arguments.connections, arguments.addresses, arguments.reopen]
    attack = subprocess.Popen(list(map(str, command))) if kind else None
    try:
        time.sleep(START if attack else 0)
        began, cpu = time.perf_counter(), server.main_thread_seconds()
        with Watch(server) as watch:
            latencies, failed = asyncio.run(honest(server.url, arguments.seconds if attack else min(arguments.seconds, 15)))
        busy = (server.main_thread_seconds() - cpu) / (time.perf_counter() - began)
        p95 = float(np.percentile(latencies, 95))
        return AttackEffect(p95, len(latencies), failed, watch.longest, watch.mb, busy, established(int(port)))
    finally:
        if attack:
            attack.kill()
            attack.wait()


async def honest(url: str, seconds: float) -> tuple[list[float], int]:
    """Latencies of the requests of honest clients, and how many of them were not answered with 200."""
    latencies: list[float] = []
    failed = 0
    until = time.perf_counter() + seconds

    async def rank(client: httpx.AsyncClient) -> None:
        nonlocal failed
        while time.perf_counter() < until:
            began = time.perf_counter()
            try:
                reply = await client.post("/v2/rerank", json={"query": "how do tides work", "documents": DOCUMENTS})
                failed += reply.status_code != 200
            except httpx.HTTPError:
                failed += 1
            latencies.append(time.perf_counter() - began)

    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        await asyncio.gather(*(rank(client) for _ in range(HONEST)))
    return latencies, failed


def established(port: int) -> int:
    """Connections to the port from other addresses than 127.0.0.1, from https://man7.org/linux/man-pages/man5/proc_net.5.html."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == ESTABLISHED and not row[2].startswith("0100007F") for row in rows)


class Client:
    """One hostile connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()

    async def send(self, content: bytes) -> None:
        await self._loop.sock_sendall(self._connection, content)

    async def hear(self) -> None:
        """Waits for bytes of the server. Raises ConnectionError once it has closed."""
        if not await self._loop.sock_recv(self._connection, 1 << 16):
            raise ConnectionAbortedError

    async def drip(self, byte: bytes) -> None:
        """Sends a byte now and then, until the server closes."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.hear(), DRIP)
            await self.send(byte)


async def silent(client: Client) -> None:
    while True:
        await client.hear()


async def half_head(client: Client) -> None:
    await client.send(b"POST /rerank HTTP/1.1\r\nhost: a\r\nx: ")
    await client.drip(b"a")


async def early_answer(client: Client) -> None:
    await client.send(b"POST /health HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n")
    await client.hear()
    await client.drip(b"a")


async def stalled_body(client: Client) -> None:
    await client.send(HEAD + b"content-length: %d\r\n\r\n" % len(LARGE) + LARGE[: SIZE * 9 // 10])
    await client.drip(b"a")


async def begun_body(client: Client) -> None:
    await client.send(HEAD + b"content-length: 1000\r\n\r\n{")
    await client.drip(b" ")


async def slow_reader(client: Client) -> None:
    await client.send(HEAD + b"content-length: %d\r\n\r\n" % len(LARGE) + LARGE)
    await asyncio.sleep(1e6)


async def small_chunks(client: Client) -> None:
    await client.send(HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 200_000)
    await client.drip(b"1\r\na\r\n")


async def no_http(client: Client) -> None:
    await client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10)
    await silent(client)


KINDS: dict[str, Callable[[Client], Awaitable[None]]] = {
    "silent": silent,
    "half a head": half_head,
    "early answer": early_answer,
    "begun body": begun_body,
    "stalled body": stalled_body,
    "slow reader": slow_reader,
    "small chunks": small_chunks,
    "no HTTP": no_http,
}


async def attack(kind: str, port: int, count: int, addresses: int, reopen: float) -> None:
    """Holds so many connections of a kind, and opens those again that end, `reopen` seconds later."""

    async def hold(number: int) -> None:
        await asyncio.sleep(random.random())
        while True:
            with socket.socket() as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
                connection.bind((f"127.0.{number % addresses // 250}.{2 + number % addresses % 250}", 0))
                with suppress(OSError):
                    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
                    await KINDS[kind](Client(connection))
            await asyncio.sleep(reopen)

    await asyncio.gather(*map(hold, range(count)))


if __name__ == "__main__":
    asyncio.run(attack(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])))
