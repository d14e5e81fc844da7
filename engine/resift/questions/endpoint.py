"""Endpoint: a server of chat completions in OpenAI's format, asked over HTTP with nothing but what the caller gives.

https://platform.openai.com/docs/api-reference/chat. Proxies, keys and addresses in environment variables or in ~/.netrc are not
used, and redirects are not followed, so that texts and the key go to the address that was named and nowhere else.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from resift.errors import InputError, ResiftError
from resift.files.json_decoding import decode_json
from resift.questions.backoff import ATTEMPTS, seconds_before

if TYPE_CHECKING:
    from collections.abc import Mapping
    from urllib.parse import SplitResult

ANSWER_LIMIT = 1 << 20
"""Maximum size of an answer in bytes: some questions take a few hundred."""
AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
"""Statuses after which the same request is sent again later."""
REFUSALS = {400, 413, 422}
"""Statuses that speak of one request: its text is too long, or a filter refuses it."""
HEADERS = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "resift"}
LOCAL = {"localhost", "127.0.0.1", "::1"}


class RefusedError(ResiftError):
    """The endpoint refused one request, or gave an answer to it that cannot be used."""


class BudgetSpentError(ResiftError):
    """No further request may be sent."""


class StoppedError(ResiftError):
    """The run is over, so that nothing is sent any more."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where an endpoint is, and how it is asked."""

    parts: SplitResult
    model: str
    key: str | None = None
    timeout: float = 120.0
    """seconds that one answer may take"""

    @classmethod
    def parse(cls, url: str, model: str, key: str | None = None, timeout: float = 120.0) -> Address:
        """From the base URL of an API, such as http://localhost:11434/v1, or that of its chat completions.

        Raises InputError for any other URL, and for one that holds a password, which messages could show.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InputError(
                f"the endpoint {url!r:.200} is no URL: {error}; expected one such as http://localhost:11434/v1"
            ) from error
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise InputError(
                f"the endpoint {url!r:.200} is no URL of http or https; expected one such as http://localhost:11434/v1"
            )
        if parts.username is not None or parts.password is not None:
            raise InputError(
                "the endpoint's URL holds a user or a password; leave them out, and name the key's variable: --key-variable"
            )
        if not url.isascii() or not url.isprintable() or " " in url:
            raise InputError(f"the endpoint {url!r:.200} holds characters that no URL has; expected ASCII without spaces")
        if key is not None and not (key.isascii() and key.isprintable()):
            raise InputError("the key holds characters that no HTTP header can have; expected printable ASCII in one line")
        path = parts.path.rstrip("/")
        path = path if path.endswith("/chat/completions") else f"{path}/chat/completions"
        return cls(parts._replace(path=path, fragment=""), model, key, timeout)

    @property
    def target(self) -> str:
        """Path and query of the request."""
        return f"{self.parts.path}?{self.parts.query}" if self.parts.query else self.parts.path

    @property
    def name(self) -> str:
        """The endpoint without what may be secret, for messages."""
        return f"{self.parts.scheme}://{self.parts.netloc}{self.parts.path}"

    def sends_key_in_clear(self) -> bool:
        """Whether a key would cross a network unencrypted."""
        return self.key is not None and self.parts.scheme == "http" and self.parts.hostname not in LOCAL

    def connect(self) -> http.client.HTTPConnection:
        """A connection that is opened by its first request; certificates are checked by the system's authorities."""
        host, port = self.parts.hostname or "", self.parts.port
        if self.parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self.timeout)
        return http.client.HTTPSConnection(host, port, timeout=self.timeout, context=ssl.create_default_context())

    def headers(self) -> Mapping[str, str]:
        """Of every request."""
        return HEADERS if self.key is None else {**HEADERS, "Authorization": f"Bearer {self.key}"}


class Budget:
    """How many requests may still be sent, by all threads together, and whether any may."""

    def __init__(self, limit: int | None, spent: int = 0) -> None:
        self.spent = spent
        """number of requests that were sent"""
        self.stopped = threading.Event()
        """set where the run is over"""
        self._limit, self._lock = limit, threading.Lock()

    def spend(self) -> None:
        """Counts one request. Raises BudgetSpentError if no more may be sent, StoppedError if the run is over."""
        with self._lock:
            if self.stopped.is_set():
                raise StoppedError
            if self._limit is not None and self.spent >= self._limit:
                raise BudgetSpentError
            self.spent += 1

    def wait(self, seconds: float) -> None:
        """Waits. Raises StoppedError as soon as the run is over."""
        if self.stopped.wait(seconds):
            raise StoppedError


class ChatEndpoint:
    """One thread's connection to an endpoint."""

    def __init__(self, address: Address, budget: Budget) -> None:
        self.requests = 0
        """number of requests that it has sent"""
        self._address, self._budget = address, budget
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, messages: list[dict[str, str]]) -> str:
        """The content of the answer to `messages`.

        A server that is busy, fails or cannot be reached is asked again, later each time, as long as it says in Retry-After, up to
        ATTEMPTS times. Raises RefusedError if it refuses these messages or its answer cannot be used, InputError if it refuses
        every request or stays out of reach, BudgetSpentError and StoppedError.
        """
        body = json.dumps({"model": self._address.model, "messages": messages}).encode()
        for attempt in range(1, ATTEMPTS + 1):
            self._budget.spend()
            self.requests += 1
            retry_after: str | None = None
            try:
                status, answer, retry_after = self._send(body)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                trouble = f"cannot be reached: {_reason(error)}"
            else:
                if status == http.HTTPStatus.OK:
                    return _content(answer)
                trouble = f"answered {status}{_message(answer)}"
                if status not in AGAIN:
                    self._refuse(status, trouble)
            if attempt < ATTEMPTS:
                self._budget.wait(seconds_before(attempt, retry_after))
        raise InputError(f"{self._address.name} {trouble}, after {ATTEMPTS} attempts; the same command goes on where this run ends")

    def close(self) -> None:
        """Closes the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _send(self, body: bytes) -> tuple[int, bytes, str | None]:
        """Status, body and Retry-After of the answer."""
        if self._connection is None:
            self._connection = self._address.connect()
        self._connection.request("POST", self._address.target, body, dict(self._address.headers()))
        response = self._connection.getresponse()
        content = self._read(response)
        response.close()
        if response.will_close:
            self.close()
        return response.status, content, response.getheader("Retry-After")

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        """The body, which may not be endless, neither in size nor in time."""
        length, content, end = response.length, bytearray(), time.monotonic() + self._address.timeout
        while (length is None or len(content) < length) and (part := response.read1(1 << 16)):
            content += part
            if len(content) > ANSWER_LIMIT:
                self.close()
                raise RefusedError(f"an answer of more than {ANSWER_LIMIT} bytes")
            if time.monotonic() > end:
                raise TimeoutError(f"no whole answer within {self._address.timeout:g} s")
        if length is not None and len(content) < length:
            raise http.client.IncompleteRead(bytes(content), length - len(content))
        return bytes(content)

    def _refuse(self, status: int, trouble: str) -> None:
        if status in REFUSALS:
            raise RefusedError(trouble)
        mends = {401: "name the variable that holds the key: --key-variable NAME", 403: "expected a key with access to the model"}
        mend = mends.get(status, "expected the base URL of an OpenAI-compatible API, such as http://localhost:11434/v1")
        if 300 <= status < 400:
            mend = "redirects are not followed; name the address that it redirects to"
        raise InputError(f"{self._address.name} {trouble}; {mend}")


def _content(answer: bytes) -> str:
    """The text of a chat completion. Raises RefusedError for anything else."""
    try:
        found = decode_json(answer)
        content = found["choices"][0]["message"]["content"]
    except ValueError as error:
        raise RefusedError(f"an answer that is not JSON: {error}") from error
    except (KeyError, IndexError, TypeError) as error:
        raise RefusedError("an answer without choices[0].message.content") from error
    if not isinstance(content, str) or not content.strip():
        raise RefusedError("an empty answer")
    return content


def _message(answer: bytes) -> str:
    """What an error's body says, as OpenAI's servers and others write it; empty if it says nothing."""
    try:
        found = decode_json(answer)
    except ValueError:
        return ""
    message = found.get("error", found.get("detail", found.get("message"))) if isinstance(found, dict) else None
    message = message.get("message") if isinstance(message, dict) else message
    return f" ({' '.join(message.split())[:200]})" if isinstance(message, str) and message.strip() else ""


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or error})"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text or type(error).__name__
