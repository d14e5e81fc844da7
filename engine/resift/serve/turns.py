"""Turns: connections that send much are read one after the other, so that those that send little need not wait for all of them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

MUCH = 1 << 14
"""Bytes of a read after which the rest of a body waits for its turn."""


class Turns:
    """The connections that wait to be read on: one of them in each pass of the event loop, first come, first served.

    Without turns, each pass reads a part of every large body that arrives, and an answer takes several passes.
    """

    def __init__(self) -> None:
        self._waiting: deque[Any] = deque()

    def wait(self, connection: Any, loop: asyncio.AbstractEventLoop) -> None:
        """Stops reading a connection, one of uvicorn's protocols, until its turn comes."""
        connection.transport.pause_reading()
        self._waiting.append(connection)
        if len(self._waiting) == 1:
            loop.call_soon(self._next, loop)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        connection = self._waiting.popleft()
        if not connection.flow.read_paused:  # if it is, what was read is waited for first; then it reads on by itself
            connection.transport.resume_reading()
        if self._waiting:
            loop.call_soon(self._next, loop)
