"""Calls that an event loop waits for: they run in a thread and stop between two batches when the wait is cancelled."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Params = ParamSpec("Params")
Result = TypeVar("Result")

_cancelled: ContextVar[threading.Event | None] = ContextVar("resift_cancelled", default=None)


class CallerGoneError(Exception):
    """Nobody waits for this call any more. It ends the thread's work and is seen by no one."""


async def in_thread(call: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs) -> Result:
    """The result of `call`, run in the loop's default executor.

    The loop stays free. A cancelled wait ends at once, and the call's own work at its next `check_cancelled`.
    """
    import asyncio  # takes longer than the rest of resift to import

    event = threading.Event()
    token = _cancelled.set(event)
    try:
        return await asyncio.to_thread(call, *args, **kwargs)
    except asyncio.CancelledError:
        event.set()
        raise
    finally:
        _cancelled.reset(token)


def check_cancelled() -> None:
    """Raises CallerGoneError if this runs for a wait that was cancelled."""
    event = _cancelled.get()
    if event is not None and event.is_set():
        raise CallerGoneError
