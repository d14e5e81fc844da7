"""Limits of the transport: a request's body is read up to a number of bytes and within a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from resift.serve.request import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive

DRAIN_LIMIT = 1 << 26
"""Maximum number of bytes of a body that are read only to be discarded."""


class ClientDisconnected(Exception):  # noqa: N818 - it is not an error
    """The client went away."""


class Body:
    """The body of one request as it arrives."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.is_complete = False
        """whether all of it has been read"""

    async def read(self, *, length: int | None, limit: int, seconds: float, receive: Callable[[int], None]) -> bytes:
        """All of it, if it has at most `limit` bytes and arrives within `seconds`. `length`: the announced bytes, if known.

        `receive` is called with the number of bytes of each part that arrives, and may refuse them. Raises Refusal and
        ClientDisconnected.
        """
        if length is not None and length > limit:
            raise Refusal("body size", f"the body has {length} bytes; expected at most {limit}")
        content = bytearray()  # a list of parts takes many times as much memory if they are small
        try:
            async with asyncio.timeout(seconds):
                while not self.is_complete:
                    part = await self._next()
                    receive(len(part))
                    content += part
                    if len(content) > limit:
                        raise Refusal("body size", f"the body has more than {limit} bytes")
        except TimeoutError as error:
            raise Refusal("slow", f"the body did not arrive within {seconds:g} seconds") from error
        return bytes(content)

    async def drain(self, seconds: float) -> None:
        """Reads and discards the rest: if the server closed the connection earlier, the client might never see its refusal.

        Gives up after DRAIN_LIMIT bytes or `seconds`. Raises ClientDisconnected.
        """
        discarded = 0
        try:
            async with asyncio.timeout(seconds):
                while not self.is_complete and discarded < DRAIN_LIMIT:
                    discarded += len(await self._next())
        except TimeoutError:
            return

    async def wait_for_disconnect(self) -> None:
        """Waits, once the body has been read, until the client goes away."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        self.is_complete = not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part
