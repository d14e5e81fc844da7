"""Scheduler: which rows run next. Pure: no threads, no onnxruntime, the clock is an argument.

Rows wait in queues by graph and bucket. The call that is due first goes first: its longest rows form a batch, which is filled up
with rows of other calls. By default all rows of a bucket are of one length, so nothing is padded: no work is spent on padding,
attention needs no mask (the unmasked kernel is twice as fast), and no pair is affected by the length of another. A batch of a
masked graph, which runs on a GPU, is padded: it also takes rows of narrower buckets.

A call has one step or several. Once all rows of a step are scored, those of its best documents wait for the next step. A document
has one row, or one for each of its windows, of which the best counts; only a document with all its windows scored goes on.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from resift.errors import OutOfMemoryError, OverloadedError
from resift.scheduling.buckets import Buckets
from resift.scheduling.call import Batch
from resift.scheduling.pace import Pace
from resift.scheduling.queues import Queues, without
from resift.scheduling.retries import parts_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resift.scheduling.buckets import Bucket
    from resift.scheduling.call import Call

PATIENCE = 4.0
"""A call without a budget is due once this many times its predicted cost has passed. Until then, shorter calls that arrive later
overtake a long one; no call waits forever."""


class Scheduler:
    """Rows in, batches out. Not thread-safe: its owner calls it under one lock."""

    def __init__(  # noqa: PLR0913 - its limits, by name
        self,
        token_budget: int,
        *,
        buckets: Buckets | None = None,
        limit: int | None = None,
        delay: float | None = None,
        pace: Pace | None = None,
        workers: int = 1,
    ) -> None:
        """`token_budget`: largest rows x width of a batch, unless one row is wider. `buckets`: rows' buckets; None: by length.

        `limit`: tokens that may wait; None: any number. `delay`: a call is refused if the work due before it takes one worker
        longer than so many seconds, or than the call itself if that is longer; None: never. `pace`: predicts a call's cost.
        `workers`: batches that run at once.
        """
        self.pace = pace or Pace()
        self.dropped_rows = 0
        """rows that did not run because their call ended before"""
        self.halved_batches = 0
        """batches that were halved because memory was too short for them"""
        self.token_budget = token_budget
        self._buckets = buckets or Buckets()
        self._limit = limit
        self._delay = delay
        self._workers = workers
        self._numbers = itertools.count()
        # A heap of (due, number, call) of all calls with rows waiting. A call whose rows all went into other calls' batches stays
        # until it reaches the head.
        self._calls: list[tuple[float, int, Call]] = []
        self._queues = Queues()
        self._retries: deque[Batch] = deque()
        self._deadlines: list[tuple[float, int, Call]] = []
        self._given_up: list[Call] = []

    @property
    def waiting_rows(self) -> int:
        """Rows that wait. Any thread may ask."""
        return self._queues.rows

    @property
    def waiting(self) -> dict[str, int]:
        """Tokens of the rows that wait, by graph."""
        return self._queues.tokens

    @property
    def waiting_tokens(self) -> int:
        """Tokens of the rows that wait. Any thread may ask."""
        return sum(list(self.waiting.values()))

    @property
    def waiting_seconds(self) -> float:
        """Predicted time of one worker for the rows that wait. Any thread may ask."""
        return sum(self.pace.predict(graph, tokens) for graph, tokens in list(self.waiting.items()))

    def add(self, call: Call, now: float) -> None:
        """Queues all rows of a call, which has at least one.

        Raises OverloadedError if more tokens than the limit would wait, or if too much work is due before the call; when none
        are waiting, any call is accepted.
        """
        lengths = call.encodings.lengths
        tokens = int(lengths.sum())
        if self._limit is not None and self.waiting_tokens and self.waiting_tokens + tokens > self._limit:
            raise OverloadedError(
                f"{self.waiting_tokens} tokens are waiting and this call has {tokens}; expected at most {self._limit} in total: "
                "try again later"
            )
        if call.deadline is not None:
            last = call.steps[-1].graph
            seconds = (self.waiting_seconds + self.pace.predict(last, tokens)) / min(self._workers, len(lengths))
            documents, is_guess = len(call.encodings.tokens_cut), not self.pace.knows(last)
            call.steps = call.deadline.needed_steps(call.steps, documents, seconds, now, is_guess=is_guess)
        cost = self._cost(call, tokens)
        call.queued_at = now
        call.due = now + PATIENCE * cost if call.deadline is None else call.deadline.at
        if self._delay is not None:
            ahead = sum(self._cost(other, other.waiting_tokens) for due, _, other in self._calls if due <= call.due)
            limit = max(self._delay, cost)
            if ahead > limit:
                raise OverloadedError(
                    f"{ahead:.1f} s of one worker's time are due before this call; expected at most {limit:.1f} s: try again later"
                )
        call.number = next(self._numbers)
        heapq.heappush(self._calls, (call.due, call.number, call))
        if call.deadline is not None:
            heapq.heappush(self._deadlines, (call.deadline.at, call.number, call))
        self._queue(call, np.arange(len(lengths)))

    def next(self, now: float, idle: int) -> Batch | None:
        """The batch to run now; None if no rows wait. `idle`: number of idle workers, including the one that asks.

        A batch takes at most an even share of the waiting rows, so that one call spreads over the idle workers.
        """
        while self._retries:
            batch = self._retries.popleft()
            batch.rows = [(call, row) for call, row in batch.rows if not call.ended]
            if batch.rows:
                batch.started_at = now
                return batch
        while self._calls:
            first = self._calls[0][2]
            if not first.waiting:
                heapq.heappop(self._calls)
                continue
            graph, bucket = first.graph, next(iter(first.waiting), None)
            if first.deadline is not None:
                bucket = first.deadline.bucket(first.waiting, partial(self.pace.predict, graph), now)
            if bucket is None:
                self._give_up(first)
                continue
            batch = self._batch(first, graph, bucket, now, idle)
            break
        else:
            return None
        for call, _ in batch.rows:
            if call.started_at is None:
                call.started_at = now
        return batch

    def done(self, batch: Batch, logits: NDArray[np.float32], now: float) -> list[Call]:
        """Scatters logits float32[b, labels] to the calls and returns those that end with this batch.

        A call whose step has no row left goes on to the next step; it fails if the graph's logits are not finite.
        """
        self.pace.observe(batch.graph, batch.tokens, now - batch.started_at)
        ended: list[Call] = []
        for (call, row), row_logits in zip(batch.rows, logits, strict=True):
            if call.ended:
                continue
            if batch.graph not in call.logits:
                call.logits[batch.graph] = np.full((len(call.steps_done), logits.shape[1]), np.nan, np.float32)
            call.logits[batch.graph][row] = row_logits
            call.steps_done[row] += 1
            call.pending_rows -= 1
            if not call.pending_rows:
                self._advance(call)
            if call.ended:
                ended.append(call)
        return ended

    def failed(self, batch: Batch, error: Exception) -> list[Call]:
        """Records that a batch failed and returns the calls that end with it; none if it is tried again, see `parts_of`.

        If memory was too short for it, later batches have at most half of its tokens.
        """
        if parts := parts_of(batch, error):
            if isinstance(error, OutOfMemoryError):
                self.halved_batches += 1
                self.token_budget = min(self.token_budget, batch.tokens // 2)
            self._retries.extend(parts)
            return []
        pending = list(dict.fromkeys(call for call, _ in batch.rows if not call.ended))
        for call in pending:
            call.error = error
            self.cancel(call)
        return pending

    def cancel(self, call: Call) -> None:
        """Ends a call: rows that have not started are dropped, and the results of running ones are ignored."""
        call.ended = True
        self._drop(call)

    def expire(self, now: float) -> list[Call]:
        """Ends the calls whose deadline has passed, with what is scored by then; returns them and those that `next` gave up."""
        ended, self._given_up = self._given_up, []
        while (deadline := self.deadline) is not None and deadline <= now:
            _, _, call = heapq.heappop(self._deadlines)
            self.cancel(call)
            ended.append(call)
        return ended

    @property
    def deadline(self) -> float | None:
        """The first deadline of all calls that have not ended; None without one."""
        while self._deadlines and self._deadlines[0][2].ended:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def _size(self, first: Call, graph: str, bucket: Bucket, now: float, idle: int) -> int:
        """Rows of the next batch: a fair share of those that wait, within the token budget and the first call's deadline."""
        size = min(-(-self.waiting_rows // max(1, idle)), self.token_budget // bucket.width)
        if first.deadline is not None:
            size = min(size, first.deadline.max_rows(first.waiting, bucket, self.pace.predict(graph, bucket.width), now))
        return max(1, size)

    def _batch(self, first: Call, graph: str, bucket: Bucket, now: float, idle: int) -> Batch:
        """A batch of rows of the bucket; in a masked graph, also of narrower buckets and, if all have room, of wider ones."""
        buckets = [bucket]
        if self._takes_narrower(graph, bucket):
            bucket = self._widened(graph, bucket, idle) if first.deadline is None else bucket
            buckets = self._queues.buckets(graph, self._buckets.narrowest(graph, bucket.width), bucket.width)
        batch, size = Batch(graph, bucket, [], now), self._size(first, graph, bucket, now, idle)
        for each in buckets:
            batch.rows += self._queues.take(graph, each, size - len(batch.rows))
        return batch

    def _takes_narrower(self, graph: str, bucket: Bucket) -> bool:
        """Whether rows of narrower buckets may be in the graph's batch of a bucket."""
        return self._buckets.narrowest(graph, bucket.width) < bucket.width

    def _widened(self, graph: str, bucket: Bucket, idle: int) -> Bucket:
        """The widest bucket whose batch takes rows of `bucket`, if it has room for all that may be in it; otherwise `bucket`."""
        wider, narrowest = self._queues.buckets(graph, bucket.width, self.token_budget), partial(self._buckets.narrowest, graph)
        widest = next((each for each in wider if narrowest(each.width) <= bucket.width), bucket)
        rows = self._queues.count(graph, self._queues.buckets(graph, narrowest(widest.width), widest.width))
        return widest if idle == 1 and rows * widest.width <= self.token_budget else bucket

    def _give_up(self, call: Call) -> None:
        """Drops the rows of a call that cannot be scored in time; if none is running, it goes on to its next step, or ends."""
        call.pending_rows -= self._drop(call)
        if not call.pending_rows:
            self._advance(call)
            if call.ended:
                self._given_up.append(call)

    def _drop(self, call: Call) -> int:
        """Takes a call out of the queues and returns how many of its rows waited there."""
        dropped = self._queues.drop(call)
        self.dropped_rows += dropped
        self._calls = without(call, self._calls)
        return dropped

    def _queue(self, call: Call, rows: NDArray[np.int64]) -> None:
        """Queues rows of a call for its step: the longest first, or, with a deadline, in the order of `rows`."""
        if call.deadline is None:
            rows = rows[np.argsort(-call.encodings.lengths[rows], kind="stable")]
        else:
            call.deadline.set_order(rows.tolist())
        buckets = self._buckets.of(call.graph, call.encodings, rows)
        widest = max(buckets)
        if call.deadline is not None and self._takes_narrower(call.graph, widest):
            buckets = [widest] * len(buckets)  # where padding is allowed, the best rows go first, whatever their lengths
        self._queues.add(call, rows.tolist(), buckets)
        call.pending_rows = len(rows)

    def _advance(self, call: Call) -> None:
        """Ends a call after its last step, or after one that scored nothing in time; otherwise its survivors wait for the next."""
        if call.step_number == len(call.steps) - 1 or not (call.document_steps > call.step_number).any():
            call.ended = True
            return
        try:
            rows = call.survivors()
        except Exception as error:  # noqa: BLE001 - LogitsError or whatever it is, it is passed on to the caller
            call.error = error
            self.cancel(call)
            return
        call.step_number += 1
        if all(other is not call for _, _, other in self._calls):
            heapq.heappush(self._calls, (call.due, call.number, call))
        self._queue(call, rows)

    def _cost(self, call: Call, tokens: int) -> float:
        """Predicted seconds of one worker until a call has ended whose current step has yet to score `tokens`."""
        steps = call.steps[call.step_number :]
        if len(steps) == 1:  # most calls: with a limit on seconds, this is asked of every call that waits
            return self.pace.predict(steps[0].graph, tokens)
        return self.pace.predict_steps(steps, tokens, int(call.encodings.lengths.sum()) / len(call.encodings.tokens_cut))
