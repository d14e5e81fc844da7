"""Loop errors: what fails in the event loop itself, such as accepting a connection with no file descriptor left, in the log."""

from __future__ import annotations

import logging
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from resift.serve.logs import log

if TYPE_CHECKING:
    import asyncio

CONTENT = re.compile(r"[(<]")
"""Begins what differs from one fault to the next of its kind, such as the address of an object."""
INTERVAL = 10.0
"""Seconds after a line in which no other is written about the same fault, which may occur thousands of times a second."""


class LoopErrors:
    """An exception handler of an event loop: a line for each kind of fault, at most one in INTERVAL, with the number left out."""

    def __init__(self) -> None:
        self._silent_until: dict[str, float] = {}
        self._omitted: Counter[str] = Counter()

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Logs the fault; a failure of the system without a traceback."""
        error = context.get("exception")
        kind = f"{CONTENT.split(context['message'])[0]:.200}: {type(error).__name__}"
        if loop.time() < self._silent_until.get(kind, 0.0):
            self._omitted[kind] += 1
            return
        self._silent_until[kind] = loop.time() + INTERVAL
        log(
            "event loop",
            level=logging.ERROR,
            error=None if isinstance(error, OSError) else error,
            fault=f"{context['message']}: {error}"[:500],
            omitted=self._omitted.pop(kind, 0),
        )
