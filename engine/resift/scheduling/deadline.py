"""Deadline: which rows of a call are read while there is time. Pure: the clock is an argument.

They are read best first, in the order given or that of the step before. A row that would not be read in time is not begun; at the
end a shorter one among the next few may be. A step that would only say in which order is left out if there is time for all rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterable, Mapping

SKIPPED = 3
"""Rows of a call with a deadline that a worse one may overtake because there is no time left for them."""
SLACK, SLACK_OF_A_GUESS = 1.25, 10.0
"""How many times the predicted time there must be to read all rows in full without first saying in which order: rows that are then
late after all are the caller's last, not the worst. Of 480 calls on two cores 13 came to that with 1, and none with 1.25. The
second while no batch has run by which to predict."""


@dataclass(slots=True)
class Deadline:
    """The time at which a call ends, and the order in which its rows are read until then."""

    at: float
    """by time.monotonic"""
    places: dict[int, int] = field(default_factory=dict, init=False)
    """of the rows that the step reads: each one's place in the order, from 0"""

    def begin(self, rows: Iterable[int]) -> None:
        """A step begins that reads these rows, the best first."""
        self.places = {row: place for place, row in enumerate(rows)}

    def suffices(self, seconds: float, now: float, *, guessed: bool) -> bool:
        """Whether there is time to read all rows that are predicted to take `seconds`, with some slack."""
        return (SLACK_OF_A_GUESS if guessed else SLACK) * seconds <= self.at - now

    def bucket(self, waiting: Mapping[int, deque[int]], predict: Callable[[int], float], now: float) -> int | None:
        """The bucket of the best row that can be read in time; None if none of the best SKIPPED + 1 can.

        `waiting`: rows by bucket, in their order; `predict`: seconds for a row of a bucket. Not much worse rows are read in place
        of better ones, as what was read ranks above what was not.
        """
        places = {bucket: self.places[rows[0]] for bucket, rows in waiting.items()}
        end, left = min(places.values()) + SKIPPED, self.at - now
        fitting = [bucket for bucket, place in places.items() if place <= end and predict(bucket) <= left]
        return min(fitting, key=places.__getitem__, default=None)

    def most(self, waiting: Mapping[int, deque[int]], bucket: int, seconds: float, now: float) -> int:
        """Most rows of a bucket in one batch: those that come before all rows of other buckets, and are read in time.

        `seconds`: predicted for a row.
        """
        others = (self.places[rows[0]] for other, rows in waiting.items() if other != bucket)
        end, left = min(others, default=len(self.places)), self.at - now
        size = sum(1 for _ in takewhile(lambda row: self.places[row] < end, waiting[bucket]))
        return int(left / seconds) if seconds * size > left else size
