"""Hostile and broken clients: the right status each, never a fault of the server's, and the server goes on."""

from __future__ import annotations

import gzip
import json
import socket
import struct
from contextlib import ExitStack

import pytest

from tests.support import tiny

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from tests.support.serving import JSON, serving

QUERY, DOCUMENTS = "how do tides work", tiny.texts()[1:9:2]
PATHS = {"/v2/rerank": "documents", "/v1/rerank": "documents", "/rerank": "texts"}
ALL = pytest.mark.parametrize(("path", "field"), PATHS.items(), ids=lambda value: value.strip("/").replace("/", "-"))


@pytest.fixture(scope="module")
def served(reranker):
    limits = {"max_body_bytes": 1 << 20, "max_request_characters": 100_000, "max_request_tokens": 5000}
    with serving({"org/tiny": reranker}, header_seconds=100, body_seconds=100, keep_alive_seconds=100, **limits) as running:
        yield running


@pytest.fixture(autouse=True)
def still_alive(served):
    """After each attack the server ranks as before, and nothing is left over from it."""
    yield
    reply = served.post("/v2/rerank", {"query": QUERY, "documents": DOCUMENTS})
    assert reply.status_code == 200
    assert len(reply.json()["results"]) == len(DOCUMENTS)
    assert served.service.admission.requests == served.service.admission.characters == 0
    assert served.metric("resift_requests_total", api="other", status="500") == 0


def shaped(path: str, reply) -> bool:
    """Whether a refusal has the fields of its API, and those only."""
    return set(reply.json()) == ({"error", "error_type"} if path == "/rerank" else {"id", "message", "detail", "error"})


def valid(field: str) -> str:
    return json.dumps({"query": QUERY, field: ["a"]})


DEEP = 100_000
SYNTAX = {
    "nothing": b"",
    "no JSON": b"query=tides",
    "cut off": b'{"query": "tides", ',
    "something behind": b'{"query": "a", "documents": ["a"], "texts": ["a"]} {}',
    "NaN": b'{"query": NaN}',
    "Infinity": b'{"query": Infinity}',
    "NaN in an unknown field": b'{"query": "a", "unknown": NaN}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"query": "a"}'.encode("utf-16"),
    "invalid UTF-8": b'{"query": "\xff"}',
    "invalid UTF-8 in an unknown field": b'{"unknown": "\xff"}',
    "an overlong escape": rb'{"query": "\u00"}',
    "a control character": b'{"query": "a\nb"}',
    "deep nesting in an unknown field": b'{"unknown": ' + b"[" * DEEP + b"]" * DEEP + b"}",
}


@ALL
@pytest.mark.parametrize("content", SYNTAX.values(), ids=SYNTAX)
def test_what_is_no_json_is_400(served, path, field, content):
    reply = served.post(path, content=content)
    assert reply.status_code == 400
    assert shaped(path, reply)


def test_a_constant_that_json_lacks_is_named(served):
    reply = served.post("/v2/rerank", content=b'{"query": "NaN", "documents": ["a"], "unknown": -Infinity}')
    assert reply.json()["message"].startswith("the body is not valid JSON: -Infinity at byte 48 (JSON has no such number: write")


@ALL
@pytest.mark.parametrize(
    "content", [b"[]", b"[" * DEEP, b"null", b"3", b'"tides"', b"{}", b'{"query": 1e999}', b'{"query": {"a": 1}}'], ids=range(8)
)
def test_what_is_no_request_is_named(served, path, field, content):
    reply = served.post(path, content=content)
    assert reply.status_code == (422 if path == "/rerank" else 400)
    assert shaped(path, reply)


@pytest.mark.parametrize("number", [b"9" * 5000, b"-" + b"9" * 5000, b"1e400", b"1" * 20 + b".5"])
def test_huge_numbers_are_out_of_range(served, number):
    content = b'{"query": "a", "documents": ["a"], "top_n": ' + number + b"}"
    reply = served.post("/v2/rerank", content=content)
    assert reply.status_code == 400
    assert "$.top_n" in reply.json()["message"]


@pytest.mark.parametrize("value", ["9" * 400, "1e999", "9" * 5000])
def test_a_documents_other_fields_may_not_break_the_reply(served, value):
    content = '{"query": "a", "return_documents": true, "documents": [{"text": "a", "n": ' + value + "}]}"
    assert served.post("/v1/rerank", content=content.encode()).status_code in (200, 400)


@pytest.mark.parametrize("depth", range(100, 1000, 100))
def test_nested_fields_of_a_document_come_back_or_are_refused(served, depth):
    nested = "[" * depth + "]" * depth
    content = '{"query": "a", "return_documents": true, "documents": [{"text": "a", "n": ' + nested + "}]}"
    reply = served.post("/v1/rerank", content=content.encode())
    assert reply.status_code in (200, 400)
    if reply.status_code == 200:
        assert nested in reply.text


@ALL
def test_the_texts_may_hold_any_character(served, path, field):
    texts = ["\0", "\u2028 \ufeff \uffff \U0010ffff", "\u202e abc", "", " ", "a" * 5000, "<script>", "\x7f\x1b[31m"]
    reply = served.post(path, {"query": "\0 \U0001f30a", field: texts, "return_text": True, "return_documents": True})
    assert reply.status_code == 200
    rows = reply.json() if path == "/rerank" else reply.json()["results"]
    assert sorted(row["index"] for row in rows) == list(range(len(texts)))


@ALL
@pytest.mark.parametrize("size", [(1 << 20) + 1, 50_000_000, 100_000_000])
def test_a_large_body_is_413_even_for_a_client_that_sends_it_whole(served, path, field, size):
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n".encode()
    with served.connect() as connection:
        connection.sendall(head)
        part = b" " * (1 << 16)
        try:
            for _ in range(-(-size // len(part))):
                connection.sendall(part)
        except OSError:
            assert size > 1 << 26  # only a body that is not worth reading to its end is cut off
        else:
            assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_large_body_of_unknown_length_is_413(served):
    reply = served.client.post("/rerank", content=(b" " * 65536 for _ in range(64)), headers=JSON)
    assert reply.status_code == 413
    assert reply.json()["error_type"] == "Validation"


@ALL
def test_too_many_documents_characters_or_tokens_are_refused(served, path, field):
    refused = {"/rerank": 413}.get(path, 400)
    for texts, said in (
        (["a"] * 10_000, "batch size 10000 > maximum"),
        (["a" * 100_001], "characters; expected at most 100000"),
        (["tides and the moon " * 20] * 200, "tokens; expected at most 5000"),
    ):
        reply = served.post(path, {"query": QUERY, field: texts})
        assert reply.status_code == refused
        assert said in reply.text
        assert shaped(path, reply)


@ALL
@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp", "json"])
def test_another_media_type_is_415(served, path, field, media_type):
    reply = served.client.post(path, content=valid(field), headers={"content-type": media_type})
    assert reply.status_code == 415
    assert shaped(path, reply)


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_a_media_type_may_have_parameters_and_capitals(served, media_type):
    assert served.client.post("/rerank", content=valid("texts"), headers={"content-type": media_type}).status_code == 200


@ALL
@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "x" * 1000])
def test_a_compressed_body_is_415(served, path, field, encoding):
    content = gzip.compress(valid(field).encode())
    reply = served.client.post(path, content=content, headers=JSON | {"content-encoding": encoding})
    assert reply.status_code == 415
    assert shaped(path, reply)
    assert served.client.post(path, content=valid(field), headers=JSON | {"content-encoding": "Identity"}).status_code == 200


def test_routes_and_methods_that_are_not_there(served):
    assert served.client.post("/v3/rerank", json={}).status_code == 404
    assert served.client.get("/../../etc/passwd").status_code == 404
    for method in ("GET", "HEAD", "DELETE", "TRACE"):
        reply = served.client.request(method, "/v2/rerank")
        assert (reply.status_code, reply.headers["allow"]) == (405, "POST, OPTIONS")
    reply = served.client.post("/info", json={})
    assert (reply.status_code, reply.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    for path, allowed in (("/v2/rerank", "POST, OPTIONS"), ("/health", "GET, HEAD, OPTIONS")):
        reply = served.client.options(path)
        assert (reply.status_code, reply.headers["allow"], reply.content) == (204, allowed, b"")
    assert served.client.options("/v3/rerank").status_code == 404


@pytest.mark.parametrize("path", ["/health", "/ready", "/info", "/v1/models", "/metrics", "/openapi.json", "/docs", "/"])
def test_head_is_get_without_a_body(served, path):
    asked, told = served.client.get(path), served.client.head(path)
    assert (told.status_code, told.content) == (asked.status_code, b"")
    assert told.headers["content-type"] == asked.headers["content-type"]


def test_what_a_client_sent_comes_back_cut(served):
    long = "X" * 60_000
    replies = [
        served.client.request(long, "/rerank"),
        served.client.get(f"/{long[:30_000]}?{long[:30_000]}"),
        served.client.get(f"/v1/models/{long}"),
        served.client.post("/rerank", content=b"{}", headers={"content-type": long}),
        served.client.post("/rerank", content=b"{}", headers=JSON | {"content-encoding": long}),
        served.client.get("/health", headers={"x-request-id": long}),
        served.post("/rerank", {"query": "a", "texts": ["a"], "truncation_direction": long}),
        served.post("/v1/rerank", {"query": "a", "documents": [{"a": "b"}], "rank_fields": [long]}),
        served.post("/v1/rerank", {"query": "a", "documents": [{long: "b"}]}),
        served.post("/v1/rerank", {"query": "a", "documents": ["a"], "plan": long}),
    ]
    assert [reply.status_code for reply in replies] == [405, 404, 200, 415, 415, 200, 422, 400, 400, 400]
    assert max(len(reply.content) + len(str(reply.headers)) for reply in replies) < 5000


def test_a_length_of_thousands_of_digits_is_refused(served):
    with served.connect() as connection:
        connection.sendall(b"POST /rerank HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: " + b"9" * 5000)
        connection.sendall(b"\r\n\r\n{")
        assert connection.recv(100).split()[1] in (b"400", b"413")


def closed_in_time(served, connection) -> bytes:
    """What the server says before it closes a connection, which it does when any of its limits of time has passed."""
    served.put_forward(101)
    return said_by(connection)


def said_by(connection) -> bytes:
    """What the server says before it closes a connection."""
    said = b""
    while part := connection.recv(65536):
        said += part
    return said


def test_a_connection_that_says_nothing_is_closed(served):
    with served.connect() as connection:
        assert closed_in_time(served, connection) == b""


def test_headers_that_trickle_are_cut_off(served):
    with served.connect() as connection:
        connection.sendall(b"POST /rerank HTTP/1.1\r\nhost: a\r\n")
        for _ in range(9):
            served.put_forward(11)
            connection.sendall(b"x-more: 1\r\n")  # does not give it another hundred seconds
        served.put_forward(11)
        assert said_by(connection) == b""


def test_headers_without_end_are_refused(served):
    with served.connect() as connection:
        try:
            connection.sendall(b"GET /health HTTP/1.1\r\nx: " + b"a" * (1 << 20))
            assert b" 400 " in closed_in_time(served, connection)
        except ConnectionError:
            pass  # closed with our bytes unread


def test_a_body_that_trickles_is_408(served):
    with served.connect() as connection:
        connection.sendall(b"POST /rerank HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
        said = closed_in_time(served, connection)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b'"error_type":"Validation"' in said


@pytest.mark.parametrize(
    "junk",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /rerank HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"POST /rerank HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /rerank HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-type: application/json\r\n\r\nzz\r\n",
        b"\r\n" * 1000,
    ],
)
def test_what_is_no_http_ends_the_connection(served, junk):
    with served.connect() as connection:
        connection.sendall(junk)
        said = closed_in_time(served, connection)
    assert said == b"" or b" 400 " in said.partition(b"\r\n")[0]


def test_half_a_request_and_gone(served):
    for part in (b"POST", b"POST /rerank HTTP/1.1\r\ncontent-length: 100\r\n\r\n{", b""):
        with served.connect() as connection:
            connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
            closed_in_time(served, connection)


def test_connections_that_are_reset_leave_nothing_behind(served):
    head = b"POST /rerank HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{"
    for _ in range(100):
        with served.connect() as connection:
            connection.sendall(head)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes by RST


def test_half_open_connections_keep_no_one_out(served):
    with ExitStack() as held:
        for _ in range(200):
            held.enter_context(served.connect()).sendall(b"POST /rerank HTT")
        assert served.post("/rerank", content=valid("texts").encode()).status_code == 200


def test_pipelined_requests_are_answered_in_their_order(served):
    bodies = [json.dumps({"query": QUERY, "texts": DOCUMENTS[:count], "return_text": True}) for count in (1, 2, 3)]
    head = "POST /rerank HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    requests = [f"{head}x-request-id: {number}\r\ncontent-length: {len(body)}\r\n" for number, body in enumerate(bodies)]
    requests[-1] += "connection: close\r\n"
    with served.connect() as connection:
        connection.sendall("".join(f"{head}\r\n{body}" for head, body in zip(requests, bodies, strict=True)).encode())
        said = said_by(connection)
    assert said.count(b"HTTP/1.1 200 OK") == 3
    assert said.index(b"x-request-id: 0") < said.index(b"x-request-id: 1") < said.index(b"x-request-id: 2")


@pytest.mark.parametrize("given", ["a b", "x" * 129, "ä", "a\tb", ""])
def test_a_request_id_that_could_forge_a_log_is_replaced(served, given):
    reply = served.client.get("/health", headers={"x-request-id": given.encode()})
    assert reply.headers["x-request-id"] != given
    assert len(reply.headers["x-request-id"]) == 32
