"""Deadline: which rows of a call are scored while there is time. Pure: the clock is an argument.

They are scored best first, in the caller's order or in that of the step before. A row that would not be done in time is not begun;
a shorter row among the next few may take its place. A step that only finds the order is left out if there is time for all rows.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterable, Mapping

    from resift.artifact.resolved_plans import Step
    from resift.scheduling.buckets import Bucket
    from resift.scheduling.call import Call

MAX_OVERTAKEN = 3
"""Rows of a call with a deadline that a worse one may overtake because there is no time left for them."""
SLACK, SLACK_OF_A_GUESS = 1.25, 10.0
"""To skip the step that finds the order, the time left must be this many times the predicted time of scoring all rows: if some are
late after all, they are the caller's last, not the worst. This happened to 13 of 480 calls on two cores with 1, and to none with
1.25. The second holds while no batch has run that a prediction could rest on."""


@dataclass(slots=True)
class Deadline:
    """The time at which a call ends, and the order in which its rows are scored until then."""

    at: float
    """by time.monotonic"""
    positions: dict[int, int] = field(default_factory=dict, init=False)
    """position in the order, from 0, of each row of the current step"""

    def set_order(self, rows: Iterable[int]) -> None:
        """Sets the order of the rows of a step that begins: the best first."""
        self.positions = {row: position for position, row in enumerate(rows)}

    def needed_steps(
        self, steps: tuple[Step, ...], documents: int, seconds: float, now: float, *, is_guess: bool
    ) -> tuple[Step, ...]:
        """The steps that a call of `documents` needs: only the last, if there is time and the others would leave out no document.

        `seconds`: predicted until the last step alone would have scored all of them.
        """
        keep_all = all(step.keep is not None and step.keep >= documents for step in steps[:-1])
        has_time = (SLACK_OF_A_GUESS if is_guess else SLACK) * seconds <= self.at - now
        return steps[-1:] if keep_all and has_time else steps

    def bucket(self, waiting: Mapping[Bucket, deque[int]], predict: Callable[[int], float], now: float) -> Bucket | None:
        """The bucket of the best row that can be scored in time; None if this holds for none of the best MAX_OVERTAKEN + 1.

        `waiting`: rows by bucket, in their order; `predict`: seconds for a row of a width. A row that is only a little worse goes
        before a better one that is too long, because a document that was scored ranks above all that were not.
        """
        positions = {bucket: self.positions[rows[0]] for bucket, rows in waiting.items()}
        end, seconds_left = min(positions.values()) + MAX_OVERTAKEN, self.at - now
        fitting = [bucket for bucket, position in positions.items() if position <= end and predict(bucket.width) <= seconds_left]
        return min(fitting, key=positions.__getitem__, default=None)

    def max_rows(self, waiting: Mapping[Bucket, deque[int]], bucket: Bucket, seconds: float, now: float) -> int:
        """The most rows of a bucket for one batch: those before every waiting row of another bucket, as far as there is time.

        `seconds`: predicted for a row.
        """
        heads = (self.positions[rows[0]] for other, rows in waiting.items() if other != bucket)
        end, seconds_left = min(heads, default=len(self.positions)), self.at - now
        size = sum(1 for _ in takewhile(lambda row: self.positions[row] < end, waiting[bucket]))
        return int(seconds_left / seconds) if seconds * size > seconds_left else size


class Deadlines:
    """Calls by their deadlines, the first one first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Call]] = []

    def add(self, call: Call) -> None:
        """Adds a call that has a deadline."""
        assert call.deadline is not None
        heapq.heappush(self._heap, (call.deadline.at, call.number, call))

    @property
    def first(self) -> float | None:
        """The first deadline of all calls that have not ended; None without one."""
        while self._heap and self._heap[0][2].ended:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take(self, now: float) -> list[Call]:
        """Takes out the calls that have not ended and whose deadline has passed."""
        passed = []
        while (first := self.first) is not None and first <= now:
            passed.append(heapq.heappop(self._heap)[2])
        return passed
