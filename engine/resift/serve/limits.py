"""Limits of the transport: a request's body is read within bytes and time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from resift.serve.request import Refusal

if TYPE_CHECKING:
    from starlette.types import Receive

DRAINED = 1 << 26
"""Most bytes of a body that are read only to be dropped."""


class Disconnected(Exception):  # noqa: N818 - no error
    """The client went away."""


class Body:
    """The body of one request as it arrives."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False
        """whether all of it has been read"""

    async def read(self, *, length: int | None, most: int, seconds: float) -> bytes:
        """All of it, if it has at most `most` bytes and arrives within `seconds`. `length`: the bytes announced, if they are.

        Raises Refusal and Disconnected.
        """
        if length is not None and length > most:
            raise Refusal("body size", f"the body has {length} bytes; expected at most {most}")
        size, parts = 0, []
        try:
            async with asyncio.timeout(seconds):
                while not self.ended:
                    parts.append(await self._next())
                    size += len(parts[-1])
                    if size > most:
                        raise Refusal("body size", f"the body has more than {most} bytes")
        except TimeoutError as error:
            raise Refusal("slow", f"the body did not arrive within {seconds:g} seconds") from error
        return b"".join(parts)

    async def drain(self, seconds: float) -> None:
        """Reads the rest and drops it: if the server closed with bytes unread, the client might never see its refusal.

        Gives up after DRAINED bytes or `seconds`. Raises Disconnected.
        """
        dropped = 0
        try:
            async with asyncio.timeout(seconds):
                while not self.ended and dropped < DRAINED:
                    dropped += len(await self._next())
        except TimeoutError:
            return

    async def disconnected(self) -> None:
        """Waits, once the body has been read, until the client goes away."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        self.ended = not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part
