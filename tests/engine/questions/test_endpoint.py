"""An endpoint is asked over HTTP as its caller says, and again where it is busy; nothing is sent anywhere else."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from resift import InputError
from resift.questions import backoff, endpoint
from resift.questions.endpoint import Address, Budget, BudgetSpentError, ChatEndpoint, RefusedError, StoppedError
from tests.support import chat_server
from tests.support.chat_server import chatting, says

MESSAGES = [{"role": "user", "content": "潮汐 🌊"}]


@pytest.fixture
def waits(monkeypatch):
    """The seconds that are waited, which pass at once."""
    found = []
    monkeypatch.setattr(Budget, "wait", lambda self, seconds: found.append(seconds))
    return found


def ask(server, budget=None, **given):
    client = ChatEndpoint(Address.parse(server.url, "model", **given), budget or Budget(None))
    try:
        return client.ask(MESSAGES), client.requests
    finally:
        client.close()


def test_a_request_is_as_openai_has_it():
    with chatting(question=lambda text: f"{text}?") as server:
        assert ask(server, key="secret") == ("潮汐 🌊?", 1)
        assert ask(server) == ("潮汐 🌊?", 1)
    (path, headers, body), (_, without_key, _) = server.asked
    assert (path, body) == ("/v1/chat/completions", {"model": "model", "messages": MESSAGES})
    assert headers["Authorization"] == "Bearer secret"
    assert "Authorization" not in without_key


def test_one_connection_serves_many_requests():
    with chatting() as server:
        client = ChatEndpoint(Address.parse(server.url, "model"), Budget(None))
        client.ask(MESSAGES)
        first = client._connection.sock
        client.ask(MESSAGES)
        assert client._connection.sock is first
        client.close()


@pytest.mark.parametrize(
    "fault",
    [says(500), says(503), says(429), chat_server.resets, chat_server.hangs_up_half_way],
    ids=["500", "503", "429", "reset", "half"],
)
def test_a_server_in_trouble_is_asked_again(waits, fault):
    with chatting(fault, fault) as server:
        content, requests = ask(server)
    assert ("What is said of" in content, requests, len(server.asked)) == (True, 3, 3)
    assert 0.5 <= waits[0] <= 1 <= waits[1] <= 2


def test_a_busy_server_says_how_long_to_wait(waits):
    with chatting(says(429, Retry_After="7"), says(429, Retry_After=formatdate(time.time() + 90, usegmt=True))) as server:
        ask(server)
    assert waits[0] == 7
    assert 60 < waits[1] <= 90


def test_a_server_that_stays_in_trouble_ends_the_run(waits):
    with (
        chatting(*[says(503, "overloaded")] * 9) as server,
        pytest.raises(InputError, match=r"answered 503 \(overloaded\), after 6 attempts"),
    ):
        ask(server)
    assert len(server.asked) == backoff.ATTEMPTS == len(waits) + 1
    with pytest.raises(InputError, match=r"cannot be reached: .*, after 6 attempts; the same command goes on"):
        ask(server)


def test_a_slow_answer_has_an_end(waits):
    with chatting(chat_server.drips) as server:
        assert ask(server, timeout=0.3)[1] == 2
    with chatting(seconds=0.5) as server, pytest.raises(InputError, match="cannot be reached: timed out"):
        ask(server, timeout=0.1)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (chat_server.is_broken, "not JSON"),
        (chat_server.is_huge, "more than 1048576 bytes"),
        (chat_server.is_empty, "an empty answer"),
        (chat_server.answers(" \n"), "an empty answer"),
        (lambda request: request.answer(200, b"[]"), "without choices"),
        (lambda request: request.answer(200, b'{"choices": []}'), "without choices"),
        (says(400, "too long"), r"answered 400 \(too long\)"),
        (lambda request: request.answer(422, b"<html>"), "answered 422$"),
    ],
)
def test_an_answer_that_cannot_be_used_is_the_documents_fault(fault, message):
    with chatting(fault) as server, pytest.raises(RefusedError, match=message):
        ask(server)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (says(401, "no key"), r"answered 401 \(no key\); name the variable that holds the key: --key-variable"),
        (says(404, "no model\nhere"), r"answered 404 \(no model here\); expected the base URL"),
        (says(307, Location="http://127.0.0.1:9/"), "answered 307 .*redirects are not followed"),
    ],
)
def test_an_endpoint_that_refuses_all_ends_the_run(fault, message):
    with chatting(fault) as server, pytest.raises(InputError, match=message) as caught:
        ask(server, key="secret")
    assert len(server.asked) == 1
    assert "secret" not in str(caught.value)


def test_the_environment_says_nothing(monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("OPENAI_API_KEY", "of-the-environment")
    with chatting() as server:
        ask(server)
    assert "Authorization" not in server.asked[0][1]


def test_a_budget_counts_every_request(waits):
    budget = Budget(3, spent=1)
    with chatting(says(500)) as server:
        ask(server, budget)
        with pytest.raises(BudgetSpentError):
            ask(server, budget)
    assert (len(server.asked), budget.spent) == (2, 3)


def test_a_run_that_is_over_sends_and_waits_no_more():
    budget = Budget(None)
    budget.stopped.set()
    with pytest.raises(StoppedError):
        budget.wait(60)
    with chatting() as server, pytest.raises(StoppedError):
        ask(server, budget)
    assert server.asked == []


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://localhost:11434/v1", "/v1/chat/completions"),
        ("https://api.example.com/v1/", "/v1/chat/completions"),
        ("https://a.example/openai/chat/completions?api-version=1#x", "/openai/chat/completions?api-version=1"),
        ("http://[::1]:80", "/chat/completions"),
    ],
)
def test_a_base_url_becomes_that_of_completions(url, target):
    address = Address.parse(url, "m", "k")
    assert address.target == target
    assert not address.sends_key_in_clear()
    assert Address.parse("http://10.0.0.5/v1", "m", "k").sends_key_in_clear()


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost:8000/v1", "ftp://a/v1", "file:///etc/passwd", "http://", "http://a:b/", "http://a:0/", "http://u:p@a/v1"),
        *("http://a/ b", "http://a/\r\nX: y", "http://\u00e4/v1"),
    ],
)
def test_other_urls_are_refused(url):
    with pytest.raises(InputError):
        Address.parse(url, "m")


def test_a_key_is_one_line():
    with pytest.raises(InputError, match="the key holds characters"):
        Address.parse("http://a/v1", "m", "a\r\nX: y")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, 0), ("3", 3), (" 2.5 ", 2.5), ("soon", 0), ("-4", 0), ("", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)],
)
def test_retry_after_is_a_number_or_a_date(header, seconds):
    assert backoff.requested_seconds(header) == seconds


def test_waits_grow_and_have_an_end():
    waits = [backoff.seconds_before(attempt) for attempt in range(1, 12)]
    assert all(low <= wait <= 2 * low for wait, low in zip(waits, [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30], strict=True))
    assert backoff.seconds_before(1, "99999999") == backoff.LONGEST_REQUESTED
    assert endpoint.ANSWER_LIMIT == 1 << 20
