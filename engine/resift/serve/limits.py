"""Limits of the transport: a request's body is read within bytes and time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from resift.serve.request import Refusal

if TYPE_CHECKING:
    from starlette.types import Receive

DRAINED = 1 << 26
"""Bytes of a too large body that are read and dropped, so that a client that sends it whole sees the refusal."""


class Disconnected(Exception):  # noqa: N818 - no error
    """The client went away."""


async def read_body(receive: Receive, *, length: int | None, most: int, seconds: float) -> bytes:
    """A request's body of at most `most` bytes, which arrives within `seconds`. `length`: what the client announced.

    Raises Refusal and Disconnected.
    """
    size, parts = 0, []
    try:
        async with asyncio.timeout(seconds):
            while size <= max(most, DRAINED) and not (length is not None and length > max(most, DRAINED)):
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                part = message.get("body", b"")
                size += len(part)
                if size <= most:
                    parts.append(part)
                else:
                    parts.clear()
                if not message.get("more_body", False):
                    break
    except TimeoutError as error:
        raise Refusal("slow", f"the body did not arrive within {seconds:g} seconds") from error
    if size > most or (length or 0) > most:
        raise Refusal("body size", f"the body has {max(size, length or 0)} bytes; expected at most {most}")
    return b"".join(parts)


async def disconnected(receive: Receive) -> None:
    """Waits until the client goes away, once its body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
