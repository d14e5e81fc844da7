"""Shapes of HTTP made by a grammar, most of them wrong: each is answered, or its connection closed, in time."""

from __future__ import annotations

import json
import random
import re
from contextlib import ExitStack, suppress

import pytest

from tests.support import tiny

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from tests.support.serving import TIMES, rest, serving, until

BODY = json.dumps({"query": "how do tides work", "texts": tiny.texts()[1:5]}).encode()
SHAPES, AT_ONCE = 360, 24

# Rules of the grammar: <name> stands for one of the alternatives of `name`; the first alternative is the right one.
GRAMMAR: dict[str, list[bytes]] = {
    "message": [b"<head><end><body>"] * 12
    + [b"<head>", b"<head><end><body><message>", b"<junk>", b"<junk><head><end>", b"<end><head><end>"],
    "head": [b"<method> <target> <version><end><headers>"] * 9
    + [b"<method><target><end><headers>", b"<method>  <target>  <version><end>"],
    "method": [b"POST"] * 5 + [b"GET", b"HEAD", b"OPTIONS", b"post", b"PRI", b"CONNECT", b"P\0ST", b"P" * 5000, b""],
    "target": [b"/rerank"] * 5
    + [
        b"/health",
        b"/v2/rerank",
        b"*",
        b"http://a/rerank",
        b"//",
        b"/%zz%00",
        b"/\xff",
        b"/?" + b"q=%20&" * 999,
        b"a:1",
        b"/" + b"a/" * 9999,
    ],
    "version": [b"HTTP/1.1"] * 8 + [b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/11", b"http/1.1", b""],
    "end": [b"\r\n"] * 20 + [b"\n", b"\r", b"\r\n\r\n", b" \r\n"],
    "headers": [b"<host><type><framing><others>"] * 6
    + [b"<framing><host><others><type>", b"<host><host><type><framing>", b"<type><framing>"],
    "host": [b"host: a<end>"] * 6 + [b"host:<end>", b"Host : a<end>", b"host: a\0<end>", b"host: " + b"a" * 70_000 + b"<end>"],
    "type": [b"content-type: application/json<end>"] * 6
    + [b"", b"content-type: text/plain<end>", b"content-type: application/json<end> x<end>"],
    "framing": [b"content-length: <length><end>"] * 6
    + [
        b"transfer-encoding: chunked<end>",
        b"transfer-encoding: <coding><end>",
        b"content-length: <length><end>transfer-encoding: <coding><end>",
        b"content-length: <length><end>content-length: <length><end>",
        b"",
    ],
    "length": [b"%d" % len(BODY)] * 4
    + [b"0", b"1", b"1000", b"-1", b"+1", b"0x1", b"1e1", b"1,1", b"1, 2", b"9" * 50, b"", b" 3 ", b"\xb2"],
    "coding": [b"chunked"] * 3
    + [b"gzip", b"gzip, chunked", b"chunked, chunked", b"identity", b"Chunked", b"chunked;q=1", b"\x0bchunked", b""],
    "others": [b""] * 4
    + [
        b"connection: <connection><end>",
        b"expect: 100-continue<end>",
        b"expect: x<end>",
        b"upgrade: websocket<end>connection: upgrade<end>sec-websocket-key: a<end>",
        b"upgrade: h2c<end>connection: upgrade, http2-settings<end>",
        b"content-encoding: gzip<end>",
        b"x: 1<end>" * 200,
        b"x<end>",
        b": x<end>",
        b"x: \xff\xfe<end>",
        b"x: a\rb<end>",
        b"authorization: Bearer " + b"k" * 9000 + b"<end>",
    ],
    "connection": [b"close", b"keep-alive", b"keep-alive, close", b"x" * 500],
    "body": [BODY] * 6 + [b"<chunks>"] * 6 + [b"", BODY[:20], BODY * 2, b"<junk>"],
    "chunks": [b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)] * 3
    + [
        b"<size><end>a<end>0<end><end>",
        b"<size>;<extension><end>" + BODY + b"<end>0<end><end>",
        b"0<end>x: 1<end><others><end>",
        b"1\r\na\r\n" * 2000 + b"0\r\n\r\n",
        b"1\r\nab\r\n0\r\n\r\n",
    ],
    "size": [b"1", b"0001", b"-1", b"0x1", b"f" * 20, b"ffffffff", b"z", b"", b" 1", b"1 "],
    "extension": [b"a=b", b'a="\r\n"', b"a" * 70_000, b"\0"],
    "junk": [b"\0" * 100, b"\x16\x03\x01\x02\x00\x01\x00", b"\r\n" * 50, b"{}", b"SSH-2.0-x\r\n", b"\xff" * 300, b"a" * 70_000],
}
RULE = re.compile(rb"<([a-z]+)>")


def shape(seed: int) -> bytes:
    """A message that the grammar makes."""
    random_ = random.Random(seed)
    made = b"<message>"
    for _ in range(200):
        if (rule := RULE.search(made)) is None:
            return made
        made = made[: rule.start()] + random_.choice(GRAMMAR[rule[1].decode()]) + made[rule.end() :]
    return RULE.sub(b"", made)


@pytest.fixture(scope="module")
def served(reranker):
    with serving({"org/tiny": reranker}, **TIMES) as running:
        yield running


def test_the_grammar_makes_distinct_shapes_right_and_wrong_ones():
    shapes = {shape(seed) for seed in range(SHAPES)}
    assert len(shapes) >= 300
    assert sum(BODY in each for each in shapes) > SHAPES // 4


@pytest.mark.parametrize("first", range(0, SHAPES, AT_ONCE))
def test_every_shape_is_answered_or_closed_in_time(served, first):
    with ExitStack() as stack:
        connections = []
        for seed in range(first, first + AT_ONCE):
            connection = stack.enter_context(served.connect())
            with suppress(ConnectionError):  # refused and closed before all was sent
                connection.sendall(shape(seed))
            connections.append(connection)
            assert served.client.get("/health").status_code == 200
        until(lambda: not served.running.server_state.tasks or served.put_forward(101))
        served.put_forward(101)
        statuses = [_status(connection) for connection in connections]
    assert set(statuses) <= {0, 100, 200, 204, 400, 401, 404, 405, 408, 413, 415, 422}
    assert not served.service.admission.requests
    assert not served.service.admission.held.total
    assert served.metric("resift_requests_total", api="other", status="500") == 0
    assert served.post("/rerank", content=BODY).status_code == 200


def _status(connection) -> int:
    """The status of the first answer on a connection that the server has closed, 0 if there is none. Fails if it is not closed."""
    said = rest(connection)
    return int(said.split(b" ", 2)[1]) if said else 0
