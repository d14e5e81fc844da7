"""Progress of an export, told to whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Report = Callable[[str, int, int], None]
"""Called with a step's name, how many of its parts are done and how many there are: at its beginning and after each part."""


def unreported(step: str, done: int, total: int) -> None:
    """Tells nobody."""


def reported(step: str, items: Sequence[Item], report: Report) -> Iterator[Item]:
    """The items, each a part of the step, which is done once the next is asked for."""
    for done, item in enumerate(items):
        report(step, done, len(items))
        yield item
    report(step, len(items), len(items))
