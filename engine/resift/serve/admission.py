"""Admission: decides which requests are accepted, before work is spent on them. Pure: no clock, no network."""

from __future__ import annotations

import math
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


class Admission:
    """Counts the requests in progress and the characters that wait for tokenization. Only one thread may use it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.requests = 0
        """the number of requests in progress"""
        self.characters = 0
        """the characters of requests that are not tokenized yet"""
        self.is_stopping = False
        """whether new requests are refused because the server stops"""

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts a request while it is in progress. Raises Refusal if there are too many requests, or if the server stops."""
        if self.is_stopping:
            raise Refusal("stopping", STOPPING, retry_after=1)
        if self.requests >= self._config.max_concurrent_requests:
            raise Refusal("busy", f"{OVERLOADED}: {self.requests} requests are in progress; try again later", retry_after=1)
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    @contextmanager
    def text(self, requests: Sequence[RankingRequest], seconds: float) -> Iterator[None]:
        """Counts the characters of a body's requests while they wait. If no others wait, there is no limit on their number.

        `seconds`: the predicted time until the waiting work has run. Raises Refusal for requests that are too large together, or if
        too many characters would wait.
        """
        documents = sum(len(request.documents) for request in requests)
        if documents > self._config.max_client_batch_size:
            raise Refusal("documents", f"batch size {documents} > maximum allowed batch size {self._config.max_client_batch_size}")
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

    def check_tokens(self, tokens: int) -> None:
        """Raises Refusal for a request of too many tokens."""
        if tokens > self._config.max_request_tokens:
            raise Refusal(
                "length",
                f"the request has {tokens} tokens; expected at most {self._config.max_request_tokens}: send fewer documents",
            )


def retry_after(seconds: float) -> int:
    """Whole seconds for a Retry-After header, from the predicted time of the waiting work: 1 to 60."""
    return min(60, max(1, math.ceil(seconds)))
