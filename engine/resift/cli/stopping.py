"""StopCondition: when a command that saves its state is to stop, and the exit code that follows from it."""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Self

from resift.cli.streams import complain

if TYPE_CHECKING:
    from types import FrameType


class StopCondition:
    """Tells when to stop: after a signal or a time limit. A second signal ends the process at once.

    As a context manager, it has signals noted instead of ending the process, and restores their handlers at the end.
    """

    def __init__(self, minutes: float | None) -> None:
        self._signal: int | None = None
        self._is_announced = False
        self._end = None if minutes is None else time.monotonic() + 60 * minutes
        self._replaced: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, 130 for an interruption, as shells have it; 0 without a signal."""
        return 0 if self._signal is None else 128 + self._signal

    def __enter__(self) -> Self:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            # A signal that is ignored, such as SIGHUP under nohup, stays ignored.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._replaced[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._replaced.items():
            # None: of a handler that C installed, which Python cannot restore.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def should_continue(self) -> bool:
        """Whether neither has come; says once that the state is being saved."""
        if self._signal is not None and not self._is_announced:
            self._is_announced = True
            complain("stopping once the state is saved; a second signal stops at once")
        return self._signal is None and (self._end is None or time.monotonic() < self._end)

    def _stop(self, number: int, _: FrameType | None) -> None:
        if self._signal is not None:
            sys.exit(128 + number)
        self._signal = number  # without a message, as the signal may have interrupted the writing of another one
