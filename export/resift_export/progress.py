"""Progress of an export, reported to the caller, and the time that its steps take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Report = Callable[[str, int, int], None]
"""Called with a step's name, the number of its parts that are done and their total: at its beginning and after each part."""
OTHER = "other"
"""The name of what is in no step."""


def no_report(step: str, done: int, total: int) -> None:
    """Reports nothing."""


def track(step: str, items: Sequence[Item], report: Report) -> Iterator[Item]:
    """Yields the items, each a part of the step, and reports each as done when the next is requested."""
    for done, item in enumerate(items):
        report(step, done, len(items))
        yield item
    report(step, len(items), len(items))


class StepClock:
    """The seconds that each step took; what is in no step is OTHER. A step inside another one does not count for that one."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._step, self._since = OTHER, time.perf_counter()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Counts the time of the block for the step `name`."""
        outer = self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def seconds(self) -> dict[str, float]:
        """The seconds of each step so far, in the order in which they began."""
        self._switch(self._step)
        return dict(self._seconds)

    def summary(self) -> str:
        """Each step with its seconds and its share of them all, on one line for a log."""
        seconds = self.seconds()
        total = sum(seconds.values())
        shares = (f"{name} {value:.1f} ({value / max(total, 1e-9):.1%})" for name, value in seconds.items())
        return f"{total:.1f} s: {', '.join(shares)}"

    def _switch(self, name: str) -> str:
        """Counts the time since the last switch for the step in progress, which is returned, and begins the step `name`."""
        now, before = time.perf_counter(), self._step
        self._seconds[before] = self._seconds.get(before, 0.0) + now - self._since
        self._step, self._since = name, now
        return before
