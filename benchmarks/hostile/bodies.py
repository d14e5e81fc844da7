"""The worst bodies: for each field the one of a size that takes longest to read."""

from __future__ import annotations

import http.client
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.load.servers import ServerProcess

PAUSE = 0.002
TIMEOUT = 120


@dataclass(frozen=True)
class Attack:
    """One kind of body."""

    name: str
    body: Callable[[int], bytes]
    """makes it, of a size in bytes"""
    path: str = "/v1/rerank"
    chunk: int = 0
    """bytes of each chunk in which it is sent; 0: it is announced by its length"""


@dataclass
class BodyCost:
    """What a body does to a server."""

    seconds: float
    """median over the rounds of the longest wait for /health"""
    cpu: float
    """median of the seconds of processor time that the event loop took"""
    mb: float
    """megabytes of the server's memory at its largest"""
    status: int


def measure(server: ServerProcess, attack: Attack, size: int, rounds: int) -> BodyCost:
    """Posts the body several times."""
    content = attack.body(size)
    assert 0.97 * size <= len(content) <= size, (attack.name, len(content))
    found, cpu, largest = [], [], 0.0
    status = 0
    for _ in range(rounds):
        before = server.main_thread_seconds()
        with Watch(server) as watch:
            status = post(server, attack, content)
        cpu.append(server.main_thread_seconds() - before)
        found.append(watch.longest)
        largest = max(largest, watch.mb)
    return BodyCost(sorted(found)[rounds // 2], sorted(cpu)[rounds // 2], largest, status)


def post(server: ServerProcess, attack: Attack, content: bytes) -> int:
    """The status of the answer; 0 if there was none."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=TIMEOUT)
    headers = {"content-type": "application/json"}
    parts = [content[start : start + attack.chunk] for start in range(0, len(content), attack.chunk)] if attack.chunk else None
    try:
        if parts:
            written = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
            connection.putrequest("POST", attack.path)
            for name, value in {**headers, "transfer-encoding": "chunked"}.items():
                connection.putheader(name, value)
            connection.endheaders(written)
        else:
            connection.request("POST", attack.path, content, headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


class Watch:
    """Asks for /health all the time in a thread, and looks at the server's memory."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.longest = 0.0
        self.mb = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(self._server.url.removeprefix("http://"), timeout=TIMEOUT)
        while not self._is_over.wait(PAUSE):
            began = time.perf_counter()
            try:
                connection.request("GET", "/health")
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):  # it counts as the time until then
                connection.close()
            self.longest = max(self.longest, time.perf_counter() - began)
            self.mb = max(self.mb, self._server.memory_mb())
        connection.close()


def filled(head: str, unit: str, tail: str) -> Callable[[int], bytes]:
    """A body that repeats a unit, between a head and a tail."""

    def body(size: int) -> bytes:
        return (head + unit * ((size - len(head) - len(tail)) // len(unit.encode())) + tail).encode()

    return body


def numbered(head: str, unit: Callable[[int], str], tail: str) -> Callable[[int], bytes]:
    """A body of units that differ."""

    def body(size: int) -> bytes:
        parts, length, number = [], len(head) + len(tail), 0
        while length + len(part := unit(number)) <= size:
            parts.append(part)
            length += len(part)
            number += 1
        return (head + "".join(parts) + tail).encode()

    return body


def documents_of_fields(size: int) -> bytes:
    """A thousand documents of as many fields as fit."""
    fields = "".join(f',"{number:03x}":0' for number in range(size // 1000 // 8 - 4))
    rows = ",".join(['{"text":"a"' + fields + "}"] * 999)
    head = '{"query":"a","return_documents":true,"documents":['
    rest = size - len(head) - len(rows) - 20
    return f'{head}{rows},"{"a" * rest}"]}}'.encode()


def fields_times_documents(size: int) -> bytes:
    """Half of it names to be joined, half documents."""
    names = "".join(f',"{number:05x}"' for number in range(size // 2 // 8 - 20))
    head = '{"query":"a","rank_fields":["text"' + names + '],"documents":['
    return filled(head, '{"text":"a"},', '"a"]}')(size)


def deep_lists(size: int) -> bytes:
    """Lists within lists, as deep as they may be, one after another."""
    rows = ",".join(["[" * 400 + "]" * 400] * ((size - 90) // 801))
    return f"{ONE}[{rows}]}}]}}".ljust(size).encode()


Q = '{"query":"a"'
REPEATED = f'{Q},"documents":[{{"text":"{"a" * 100_000}"}}],"rank_fields":["text"'
HONEST = Attack("honest", filled(Q + ',"documents":["a"', f',"{"the moon pulls the sea " * 2800}"', "]}"), "/v1/rerank")
ONE = Q + ',"return_documents":true,"documents":[{"text":"a","n":'
ATTACKS = [
    Attack("rank_fields, one again and again", filled(REPEATED, ',"text"', "]}")),
    Attack("rank_fields x documents", fields_times_documents),
    Attack("documents: numbers", filled(Q + ',"documents":[1', ",1", "]}")),
    Attack("documents: empty texts", filled(Q + ',"documents":["a"', ',""', "]}")),
    Attack("documents: empty objects", filled(Q + ',"documents":["a"', ",{}", "]}")),
    Attack("documents: 1,000 of many fields", documents_of_fields),
    Attack("a document of many fields", numbered(Q + ',"documents":[{"text":"a"', lambda number: f',"{number:05x}":0', "}]}")),
    Attack("a document: lists, returned", filled(ONE + "[[]", ",[]", "]}]}")),
    Attack("a document: objects, returned", filled(ONE + "[{}", ',{"a":{}}', "]}]}")),
    Attack("a document: deep lists, returned", deep_lists),
    Attack("a document: lists in its text", filled(Q + ',"documents":[{"text":[[]', ",[]", "]}]}")),
    Attack("a document: lists in its meta", filled(Q + ',"documents":[{"meta":{"text":"a","n":[[]', ",[]", "]}}]}")),
    Attack("a document: a long number", filled(ONE, "9", "}]}")),
    Attack("query", filled('{"documents":["a"],"query":"a', "tide ", '"}')),
    Attack("query: escapes", filled('{"documents":["a"],"query":"a', r"\u00e9", '"}')),
    Attack("query: halves of pairs", filled('{"documents":["a"],"query":"a', r"\ud83da", '"}')),
    Attack("query: pairs and one half", filled('{"documents":["a"],"query":"\\udc00', r"\ud83d\ude00", '"}')),
    Attack("query: backslashes", filled('{"documents":["a"],"query":"\\udc00', r"\\", '"}')),
    Attack("instruction", filled(Q + ',"documents":["a"],"instruction":"', "tide ", '"}')),
    Attack("plan: commas", filled(Q + ',"documents":["a"],"plan":"', ",", '"}')),
    Attack("model", filled(Q + ',"documents":["a"],"model":"', "m", '"}')),
    Attack("top_n: a long number", filled(Q + ',"documents":["a"],"top_n":', "9", "}")),
    Attack("top_n: a long text", filled(Q + ',"documents":["a"],"top_n":"', "9", '"}')),
    Attack("budget_ms: a long fraction", filled(Q + ',"documents":["a"],"budget_ms":1.', "7", "}")),
    Attack("unknown fields", filled(Q + ',"documents":["a"]', ',"a":1', "}")),
    Attack("a field again and again", filled(Q + ',"documents":["a"]', ',"documents":["a"]', "}")),
    Attack("an unknown field: deep lists", filled(Q + ',"documents":["a"],"a":', "[", "}")),
    Attack("texts: empty texts", filled(Q + ',"texts":["a"', ',""', "]}"), "/rerank"),
    Attack("texts: different texts", numbered(Q + ',"texts":["a"', lambda number: f',"{number:04x}"', "]}"), "/rerank"),
    Attack("text_1: different texts", numbered('{"text_2":"a","text_1":["a"', lambda number: f',"{number:04x}"', "]}"), "/score"),
    Attack("text_1 and text_2", numbered('{"text_1":["a"],"text_2":["a"', lambda number: f',"{number:04x}"', "]}"), "/score"),
    Attack("no JSON", filled("", "\u00e9", "")),
    Attack("NUL bytes", filled(Q, "\0", "}")),
    Attack("chunks of one byte", filled(Q + ',"documents":["', "a", '"]}'), chunk=1),
    Attack("chunks of 300 bytes", filled(Q + ',"documents":["', "a", '"]}'), chunk=300),
]  # fmt: skip
