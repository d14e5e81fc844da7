"""Admission: decides which requests are accepted, before work is spent on them. Pure: no clock, no network."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from resift.serve.request import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from resift.serve.config import Config
    from resift.serve.request import RankingRequest

OVERLOADED = "Model is overloaded"
"""the beginning of text-embeddings-inference's message"""
STOPPING = "the server is shutting down"
PEER_SHARE = 4
"""One client may have at most this fraction of the bytes that are held for all."""
LITTLE = 1 << 16
"""Bytes that a client may have whatever others have: as many clients as it takes could fill the rest. Connections limit clients."""


class Admission:
    """Counts the requests in progress, their bytes, and the characters that wait for tokenization. Only one thread may use it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.requests = 0
        """the number of requests in progress"""
        self.bodies = 0
        """the number of them whose body has arrived"""
        self.characters = 0
        """the characters of requests that are not tokenized yet"""
        self.held = HeldBytes(config.max_held_bytes)
        self.is_stopping = False
        """whether new requests are refused because the server stops"""

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts a request while it is in progress. Raises Refusal if there are too many bodies, or if the server stops."""
        if self.is_stopping:
            raise Refusal("stopping", STOPPING, retry_after=1)
        self._check_bodies()
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    @contextmanager
    def body(self) -> Iterator[None]:
        """Counts a request whose body has arrived. Raises Refusal if there are too many.

        Those that are awaited do not count, as a client could keep all others out by sending beginnings of bodies. They are limited
        by their bytes, their time and their connections.
        """
        self._check_bodies()
        self.bodies += 1
        try:
            yield
        finally:
            self.bodies -= 1

    def _check_bodies(self) -> None:
        if self.bodies >= self._config.max_concurrent_requests:
            raise Refusal("busy", f"{OVERLOADED}: {self.bodies} requests are in progress; try again later", retry_after=1)

    @contextmanager
    def text(self, requests: Sequence[RankingRequest], seconds: float) -> Iterator[None]:
        """Counts the characters of a body's requests while they wait. If no others wait, there is no limit on their number.

        `seconds`: the predicted time until the waiting work has run. Raises Refusal for requests that are too large together, or if
        too many characters would wait.
        """
        characters = sum(request.characters for request in requests)
        if characters > self._config.max_request_characters:
            raise Refusal(
                "length",
                f"the request has {characters} characters; expected at most {self._config.max_request_characters}: "
                "send fewer or shorter documents",
            )
        if self.characters and self.characters + characters > self._config.max_waiting_characters:
            message = f"{OVERLOADED}: {self.characters} characters wait to be tokenized; try again later"
            raise Refusal("busy", message, retry_after=retry_after(seconds))
        self.characters += characters
        try:
            yield
        finally:
            self.characters -= characters

    def check_documents(self, documents: int) -> None:
        """Raises Refusal for a body of too many documents."""
        if documents > self._config.max_client_batch_size:
            raise Refusal("documents", f"batch size {documents} > maximum allowed batch size {self._config.max_client_batch_size}")

    def check_tokens(self, tokens: int) -> None:
        """Raises Refusal for a request of too many tokens."""
        if tokens > self._config.max_request_tokens:
            raise Refusal(
                "length",
                f"the request has {tokens} tokens; expected at most {self._config.max_request_tokens}: send fewer documents",
            )


class HeldBytes:
    """The bytes of bodies and answers, each from its arrival or its making until the answer has been taken, by client."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.total = 0
        self._by_client: Counter[str] = Counter()

    @contextmanager
    def of(self, client: str) -> Iterator[Holding]:
        """What one request holds; it is let go at the end."""
        holding = Holding(self, client)
        try:
            yield holding
        finally:
            holding.add(-holding.bytes)
            if not self._by_client[client]:
                del self._by_client[client]

    def change(self, client: str, count: int) -> None:
        """Counts that many bytes more."""
        self.total += count
        self._by_client[client] += count

    def check(self, client: str, size: int) -> None:
        """Raises Refusal if too many bytes are held, `size` of them by the request in question, unless these are all of them."""
        in_all, by_client = self.total - size, self._by_client[client] - size
        is_full = in_all and self.total > self._limit and self._by_client[client] > LITTLE
        if is_full or (by_client and self._by_client[client] > self._limit // PEER_SHARE):
            message = f"{OVERLOADED}: {by_client} bytes of your other requests are held, {in_all} of all; try again later"
            raise Refusal("busy", message, retry_after=1)


class Holding:
    """The bytes that one request holds."""

    def __init__(self, held: HeldBytes, client: str) -> None:
        self._held = held
        self._client = client
        self.bytes = 0

    def add(self, count: int) -> None:
        """Counts bytes that exist in any case."""
        self.bytes += count
        self._held.change(self._client, count)

    def receive(self, count: int) -> None:
        """Counts bytes that arrive. Raises Refusal if too many are held."""
        self.add(count)
        self._held.check(self._client, self.bytes)


def retry_after(seconds: float) -> int:
    """Whole seconds for a Retry-After header, from the predicted time of the waiting work: 1 to 60."""
    return min(60, max(1, math.ceil(seconds)))
