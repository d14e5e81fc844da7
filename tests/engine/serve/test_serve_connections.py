"""Limits on connections: how many there are, what they hold, and how long they may wait for their clients."""

from __future__ import annotations

import json
import logging
import socket
from contextlib import suppress

import pytest

from tests.support import tiny

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from resift.serve.access import CLIENT_LIMIT
from resift.serve.turns import MUCH, Turns
from tests.support.serving import TIMEOUT, TIMES, rest, serving, until

QUERY, DOCUMENTS = "how do tides work", tiny.texts()[1:9:2]
BODY = json.dumps({"query": QUERY, "texts": DOCUMENTS}).encode()
HEAD = b"POST /rerank HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"


@pytest.fixture(scope="module")
def served(reranker):
    with serving({"org/tiny": reranker}, **TIMES) as running:
        yield running


def answer(connection) -> bytes:
    """The head and body of one answer."""
    said = b""
    while b"\r\n\r\n" not in said:
        said += connection.recv(1 << 16)
    head, _, body = said.partition(b"\r\n\r\n")
    length = next(int(line.partition(b":")[2]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += connection.recv(1 << 16)
    assert len(body) == length
    return head + body


EARLY = {
    "a method that is not allowed": b"POST /health HTTP/1.1\r\nhost: a\r\n",
    "no such route": b"POST /none HTTP/1.1\r\nhost: a\r\n",
    "a body of a GET": b"GET /health HTTP/1.1\r\nhost: a\r\n",
    "the page": b"GET / HTTP/1.1\r\nhost: a\r\n",
}


@pytest.mark.parametrize(
    "framing", [b"content-length: 100\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n"], ids=["length", "chunked"]
)
@pytest.mark.parametrize("head", EARLY.values(), ids=EARLY)
def test_a_byte_after_an_early_answer_does_not_hold_the_connection(served, head, framing):
    with served.connect() as connection:
        connection.sendall(head + framing)
        answer(connection)
        connection.sendall(b"1")
        served.put_forward(101)
        assert rest(connection) == b""


def test_the_rest_of_a_body_after_an_early_answer_is_followed_by_a_request(served):
    with served.connect() as connection:
        connection.sendall(b"POST /health HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n")
        assert answer(connection).startswith(b"HTTP/1.1 405 ")
        connection.sendall(b"abcGET /health HTTP/1.1\r\nhost: a\r\n\r\n")
        assert answer(connection).startswith(b"HTTP/1.1 200 ")
        served.put_forward(101)
        assert rest(connection) == b""


def test_a_connection_that_is_idle_after_the_rest_of_a_body_is_closed(served):
    with served.connect() as connection:
        connection.sendall(b"POST /health HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n")
        answer(connection)
        connection.sendall(b"abc")
        served.put_forward(101)
        assert rest(connection) == b""


def test_a_second_head_that_trickles_is_cut_off(served):
    with served.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\nGET")
        answer(connection)
        for _ in range(9):
            served.put_forward(11)
            connection.sendall(b" ")
        served.put_forward(11)
        assert rest(connection) == b""


@pytest.mark.parametrize("key", ["", "k"])
def test_a_stalled_body_ends_with_and_without_a_key(reranker, key):
    with serving({"org/tiny": reranker}, api_key=key, **TIMES) as served, served.connect() as connection:
        connection.sendall(HEAD + b"content-length: 100\r\n\r\n{")
        served.put_forward(101)
        assert rest(connection).startswith(b"HTTP/1.1 401 " if key else b"HTTP/1.1 408 ")
        until(lambda: not served.service.admission.held.total)


def test_an_answer_that_is_not_taken_is_given_up(reranker):
    long = "a" * (7 << 20)  # more than the system keeps for a client
    body = json.dumps({"query": QUERY, "texts": [long], "return_text": True}).encode()
    with serving({"org/tiny": reranker}, max_body_bytes=1 << 24, **TIMES) as served, socket.socket() as connection:
        with served.connect() as taking:
            taking.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
            assert len(answer(taking)) > len(long)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(TIMEOUT)
        connection.connect(("127.0.0.1", served.port))
        connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
        assert connection.recv(12) == b"HTTP/1.1 200"
        assert served.metric("resift_held_bytes") > 2 * len(long)  # the body and the answer
        served.put_forward(101)
        until(lambda: not served.service.admission.held.total)
        assert served.metric("resift_closed_connections_total", reason="not taken") == 1
        assert len(rest(connection)) < len(long)
        assert served.post("/rerank", content=BODY).status_code == 200


def test_bodies_in_progress_are_limited_by_their_bytes(reranker):
    with serving({"org/tiny": reranker}, max_held_bytes=4000, **TIMES) as served:
        held = served.service.admission.held
        with served.connect() as first:
            first.sendall(HEAD + b"content-length: 1000\r\n\r\n" + b" " * 900)
            until(lambda: held.total == 900)
            reply = served.post("/rerank", content=BODY)
            assert (reply.status_code, reply.json()["error_type"]) == (429, "Overloaded")
            assert reply.headers["retry-after"] == "1"
            assert "900 bytes of your other requests are held" in reply.json()["error"]
        until(lambda: not held.total)
        assert served.post("/rerank", content=BODY).status_code == 200
        large = json.dumps({"query": QUERY, "texts": ["a" * 5000]}).encode()
        assert served.post("/rerank", content=large).status_code == 200  # by itself a body may have any length


def test_bodies_that_are_awaited_keep_no_other_request_out(reranker):
    with serving({"org/tiny": reranker}, max_concurrent_requests=1, **TIMES) as served, served.connect() as stalled:
        stalled.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY[:1])
        until(lambda: served.service.admission.requests == 1)
        assert served.post("/rerank", content=BODY).status_code == 200
        stalled.sendall(BODY[1:])
        assert answer(stalled).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(("size", "waits"), [(MUCH // 2, False), (16 * MUCH, True)], ids=["small", "large"])
def test_the_rest_of_a_large_body_waits_for_its_turn(served, monkeypatch, size, waits):
    waited, wait = [], Turns.wait
    monkeypatch.setattr(Turns, "wait", lambda *arguments: waited.append(arguments) or wait(*arguments))
    body = BODY + b" " * size
    with served.connect() as connection:
        connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
        assert answer(connection).startswith(b"HTTP/1.1 200 ")
    assert bool(waited) is waits


def test_a_proxy_tells_clients_apart(reranker, log_records):
    def as_client(address: str) -> dict[str, str]:
        return {"content-type": "application/json", "x-forwarded-for": f"9.9.9.9, {address}"}

    with serving({"org/tiny": reranker}, max_held_bytes=4000, trusted_proxy=["127.0.0.0/8"], **TIMES) as served:
        with served.connect() as first:
            first.sendall(HEAD + b"x-forwarded-for: 10.1.1.1\r\ncontent-length: 1000\r\n\r\n" + b" " * 900)
            until(lambda: served.service.admission.held.total == 900)
            statuses = [
                served.client.post("/rerank", content=BODY, headers=as_client(address)).status_code
                for address in ("10.1.1.1", "10.1.1.2", "x" * 1000)
            ]
        assert statuses == [429, 200, 200]
    clients = [fields["client"] for fields in served.logged(log_records)]
    assert clients[:3] == ["10.1.1.1", "10.1.1.2", "x" * CLIENT_LIMIT]


def test_a_client_is_not_believed_about_its_address(reranker, log_records):
    with serving({"org/tiny": reranker}) as served:
        served.client.get("/info", headers={"x-forwarded-for": "10.1.1.1"})
    assert [fields["client"] for fields in served.logged(log_records)] == ["127.0.0.1"]


def test_a_connection_too_many_of_a_peer_ends_the_one_that_has_waited_longest(reranker):
    with serving({"org/tiny": reranker}, max_peer_connections=3, **TIMES) as served:
        with served.connect() as first, served.connect() as second, served.connect() as third:
            for connection in (first, second, third):
                connection.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
                answer(connection)
            first.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
            answer(first)  # so that the second has waited longest
            assert served.post("/rerank", content=BODY).status_code == 200
            assert rest(second) == b""
            for connection in (first, third):
                connection.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
                assert answer(connection).startswith(b"HTTP/1.1 200 ")
        assert served.metric("resift_closed_connections_total", reason="made room") == 1


def test_too_many_connections_in_all_cost_those_that_have_most(reranker):
    with serving({"org/tiny": reranker}, max_connections=4, **TIMES) as served:
        hostile = [socket.socket() for _ in range(4)]
        try:
            for connection in hostile:
                connection.settimeout(TIMEOUT)
                try:
                    connection.bind(("127.0.0.2", 0))
                except OSError:
                    pytest.skip("this system has one loopback address")
                connection.connect(("127.0.0.1", served.port))
            with served.connect() as honest:
                for _ in range(3):
                    assert served.post("/rerank", content=BODY).status_code == 200
                honest.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
                assert answer(honest).startswith(b"HTTP/1.1 200 ")
            assert rest(hostile[0]) == b""
        finally:
            for connection in hostile:
                connection.close()


def test_a_connection_that_finds_no_room_is_told_so(one_at_a_time, gate):
    opened, begun, _ = gate
    with serving({"tiny": one_at_a_time}, max_connections=1, **TIMES) as served:
        until(begun.is_set)
        with served.connect() as first:
            first.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY)
            until(lambda: served.service.admission.requests == 1)
            with served.connect() as second:
                assert rest(second).startswith(b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n")
            opened.set()
            assert answer(first).startswith(b"HTTP/1.1 200 ")
        assert served.metric("resift_closed_connections_total", reason="too many") == 1


CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
REFUSED = {
    "two framings": (b"content-length: 5\r\n" + CHUNKED + b"0\r\n\r\n", b"Transfer-Encoding with Content-Length"),
    "two framings, the other way": (
        b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding with Content-Length",
    ),
    "two lengths": (b"content-length: 5\r\ncontent-length: 6\r\n\r\n", b"Invalid"),
    "another coding": (b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", b"Invalid"),
    "129 headers": (b"x: 1\r\n" * 126 + b"content-length: 0\r\n\r\n", b"129 headers; expected at most 128"),
    "small chunks": (CHUNKED + b"1\r\n \r\n" * 1100, b"the body's first 33 chunks have 33 bytes; expected chunks of 128"),
    "chunks a little too small": (CHUNKED + (b"7f\r\n" + b" " * 127 + b"\r\n") * 4100, b"; expected chunks of 128 bytes or more"),
    "long extensions": (CHUNKED + b"1;" + b"a" * (1 << 17) + b"\r\n", b"Invalid"),
    "a long trailer": (CHUNKED + b"0\r\nx: " + b"a" * (1 << 17) + b"\r\n\r\n", b"Invalid"),
    "a broken chunk": (CHUNKED + b"1\r\n \r\nzz\r\n", b"Invalid"),
}


@pytest.mark.parametrize(("framing", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_ambiguous_or_costs_more_than_it_says_is_refused(served, log_records, framing, reason):
    disconnected = served.metric("resift_disconnected_total")
    with served.connect() as connection:
        with suppress(ConnectionError):
            connection.sendall(HEAD + framing)
        said = rest(connection)
    is_cut_off = len(framing) > 1 << 17 and not said  # closed with our bytes unread, which the answer may not survive
    head, _, body = said.partition(b"\r\n\r\n")
    assert is_cut_off or (head.startswith(b"HTTP/1.1 400 Bad Request\r\n") and reason in body)
    assert is_cut_off or b"content-length: %d" % len(body) in head
    until(lambda: not served.service.admission.requests)
    assert served.client.get("/health").status_code == 200  # which is answered once all that was refused is counted and logged
    assert served.metric("resift_disconnected_total") - disconnected in (0, 1)
    assert not [record for record in log_records if record.levelno >= logging.ERROR]


def test_transfer_encoding_in_http_1_0_is_refused(served):
    with served.connect() as connection:
        connection.sendall(HEAD.replace(b"1.1", b"1.0") + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 400 ")


def test_chunks_and_headers_within_their_limits_are_read(served):
    body = BODY + b" " * 128 * 100
    parts = [body[at : at + 1] for at in range(32)] + [body[at : at + 128] for at in range(32, len(body), 128)]
    chunks = b"".join(b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\nx: 1\r\n\r\n"
    with served.connect() as connection:
        connection.sendall(HEAD + b"x: 1\r\n" * 125 + b"transfer-encoding: chunked\r\n\r\n" + chunks)
        assert answer(connection).startswith(b"HTTP/1.1 200 ")


def test_a_fault_after_an_early_answer_ends_the_connection_in_silence(served, log_records):
    with served.connect() as connection:
        connection.sendall(b"POST /health HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        answer(connection)
        connection.sendall(b"zz\r\n")
        assert rest(connection) == b""
    assert not [record for record in log_records if record.levelno >= logging.ERROR]


def test_a_fault_in_the_servers_event_loop_is_in_its_log(served, log_records):
    def fail() -> None:
        raise ZeroDivisionError("so")

    loop = served.running.servers[0].get_loop()
    for _ in range(3):
        loop.call_soon_threadsafe(fail)
    assert served.client.get("/health").status_code == 200
    [record] = [record for record in log_records if record.levelno == logging.ERROR]
    assert record.fields["fault"].startswith("Exception in callback ")
    assert record.exc_info[0] is ZeroDivisionError
