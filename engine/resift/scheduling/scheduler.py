"""Scheduler: which rows run next. Pure: no threads, no onnxruntime, the clock is an argument.

Rows wait in queues by graph and bucket. The call that is due first goes first: its longest rows form a batch, which is filled up
with rows of other calls. By default all rows of a bucket are of one length, so nothing is padded: no work is spent on padding,
attention needs no mask (the unmasked kernel is twice as fast), and no pair is affected by the length of another.

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

from resift.errors import OverloadedError
from resift.scheduling.buckets import Buckets
from resift.scheduling.call import Batch
from resift.scheduling.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        self.waiting_rows = 0
        self.waiting: dict[str, int] = {}
        """tokens of the rows that wait, by graph"""
        self.dropped_rows = 0
        """rows that did not run because their call ended before"""
        self._token_budget = token_budget
        self._buckets = buckets or Buckets()
        self._limit = limit
        self._delay = delay
        self._workers = workers
        self._numbers = itertools.count()
        # Heaps of (due, number, call): all calls with rows waiting, and those with rows of one graph and bucket. A call whose rows
        # all went into other calls' batches stays in the first until it reaches its head.
        self._calls: list[tuple[float, int, Call]] = []
        self._queues: dict[tuple[str, Bucket], list[tuple[float, int, Call]]] = {}
        self._retries: deque[Batch] = deque()
        self._deadlines: list[tuple[float, int, Call]] = []
        self._given_up: list[Call] = []

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
            if not batch.rows[0][0].ended:
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
            batch = Batch(graph, bucket, list(self._take(graph, bucket, self._size(first, graph, bucket, now, idle))), now)
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
        """Records that a batch failed and returns the calls that end with it. Of several calls, each is retried alone instead."""
        rows: dict[Call, list[tuple[Call, int]]] = {}
        for call, row in batch.rows:
            rows.setdefault(call, []).append((call, row))
        pending = [call for call in rows if not call.ended]
        if len(rows) > 1:
            self._retries.extend(Batch(batch.graph, batch.bucket, rows[call], batch.started_at) for call in pending)
            return []
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
        size = min(-(-self.waiting_rows // max(1, idle)), self._token_budget // bucket.width)
        if first.deadline is not None:
            size = min(size, first.deadline.max_rows(first.waiting, bucket, self.pace.predict(graph, bucket.width), now))
        return max(1, size)

    def _give_up(self, call: Call) -> None:
        """Drops the rows of a call that cannot be scored in time; if none is running, it goes on to its next step, or ends."""
        call.pending_rows -= self._drop(call)
        if not call.pending_rows:
            self._advance(call)
            if call.ended:
                self._given_up.append(call)

    def _drop(self, call: Call) -> int:
        """Takes a call out of the queues and returns how many of its rows waited there."""
        dropped, graph = 0, call.graph
        for bucket, rows in call.waiting.items():
            dropped += len(rows)
            self._queues[graph, bucket] = _without(call, self._queues[graph, bucket])
        if dropped:
            self.waiting[graph] -= call.waiting_tokens
        self.waiting_rows -= dropped
        self.dropped_rows += dropped
        call.waiting_tokens = 0
        call.waiting.clear()
        self._calls = _without(call, self._calls)
        return dropped

    def _queue(self, call: Call, rows: NDArray[np.int64]) -> None:
        """Queues rows of a call for its step: the longest first, or, with a deadline, in the order of `rows`."""
        graph = call.graph
        if call.deadline is None:
            rows = rows[np.argsort(-call.encodings.lengths[rows], kind="stable")]
        else:
            call.deadline.set_order(rows.tolist())
        lengths = call.encodings.lengths[rows]
        for row, bucket in zip(rows.tolist(), self._buckets.of(graph, call.encodings, rows), strict=True):
            call.waiting.setdefault(bucket, deque()).append(row)
        for bucket in call.waiting:
            heapq.heappush(self._queues.setdefault((graph, bucket), []), (call.due, call.number, call))
        call.pending_rows = len(rows)
        call.waiting_tokens = int(lengths.sum())
        self.waiting_rows += len(rows)
        self.waiting[graph] = self.waiting.get(graph, 0) + call.waiting_tokens

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

    def _take(self, graph: str, bucket: Bucket, size: int) -> Iterator[tuple[Call, int]]:
        """Takes up to `size` rows from one queue, those of the call that is due first ahead."""
        queue = self._queues[graph, bucket]
        while queue and size:
            call = queue[0][2]
            rows = call.waiting[bucket]
            while rows and size:
                row = rows.popleft()
                tokens = int(call.encodings.lengths[row])
                self.waiting[graph] -= tokens
                call.waiting_tokens -= tokens
                self.waiting_rows -= 1
                size -= 1
                yield call, row
            if not rows:
                del call.waiting[bucket]
                heapq.heappop(queue)
        if not queue:
            del self._queues[graph, bucket]


def _without(call: Call, heap: list[tuple[float, int, Call]]) -> list[tuple[float, int, Call]]:
    entries = [entry for entry in heap if entry[2] is not call]
    heapq.heapify(entries)
    return entries
