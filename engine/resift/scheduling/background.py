"""Background: threads that tokenize for asyncio."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from resift.errors import ClosedError
from resift.process import close_at_exit, renew_in_children, start_thread

if TYPE_CHECKING:
    from collections.abc import Callable


class Background:
    """Runs functions on at most `count` daemon threads, which start as they are needed.

    A ThreadPoolExecutor would refuse work from threads that outlive the main thread.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._closed = False
        self.begin_anew()
        renew_in_children(self)
        close_at_exit(self)

    def begin_anew(self) -> None:
        """Resets to no work and no threads: at the start, and in a forked child."""
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def run(self, function: Callable[[], None]) -> None:
        """Runs `function`, which must not raise, as soon as a thread is free.

        Raises ClosedError after `close`, and like `start_thread`.
        """
        with self._lock:
            if self._closed:
                raise ClosedError
            if len(self._threads) < self._count:
                self._threads.append(start_thread(_run_all, f"resift-encode-{len(self._threads)}", self._work))
            self._work.put(function)

    def close(self) -> None:
        """Ends the threads once the work given to them is done."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in self._threads:
                    self._work.put(None)

    def join(self) -> None:
        """Waits until the threads have ended."""
        for thread in self._threads:
            thread.join()


def _run_all(work: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    for function in iter(work.get, None):
        function()
