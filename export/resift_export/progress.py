"""Progress of an export, reported to the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Report = Callable[[str, int, int], None]
"""Called with a step's name, the number of its parts that are done and their total: at its beginning and after each part."""


def no_report(step: str, done: int, total: int) -> None:
    """Reports nothing."""


def track(step: str, items: Sequence[Item], report: Report) -> Iterator[Item]:
    """Yields the items, each a part of the step, and reports each as done when the next is requested."""
    for done, item in enumerate(items):
        report(step, done, len(items))
        yield item
    report(step, len(items), len(items))
