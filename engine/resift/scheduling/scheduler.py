"""Scheduler: which rows run next. Pure: no threads, no onnxruntime, the clock is an argument.

Rows wait in queues by graph and bucket. The call that is due first goes first: its longest rows form a batch, which is filled up
with rows of other calls. By default all rows of a bucket are of one length, so nothing is padded: no work is spent on padding,
attention needs no mask (the unmasked kernel is twice as fast), and no pair is affected by the length of another. A batch of a
masked graph, which runs on a GPU, is padded: it also takes rows of narrower buckets.

A call has one step or several. Once all rows of a step are scored, those of its best documents wait for the next step. A document
has one row, or one for each of its windows, of which the best counts; only a document with all its windows scored goes on.

A step with a split graph has phases, which follow each other like steps: the states of the documents are looked up, then computed
where they are not known, then the query half reads them. A document that two calls want at once may be computed by both.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from resift.errors import OutOfMemoryError
from resift.scheduling.buckets import Buckets
from resift.scheduling.call import Batch
from resift.scheduling.costs import call_seconds, reserved_seconds, row_seconds
from resift.scheduling.deadline import Deadlines
from resift.scheduling.halves import Phase
from resift.scheduling.overload import check_seconds, check_tokens
from resift.scheduling.pace import Pace
from resift.scheduling.queues import Queues, without
from resift.scheduling.retries import next_part, parts_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from resift.scheduling.buckets import Bucket
    from resift.scheduling.call import Call
    from resift.states.document_states import Found

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
        self._limit, self._delay, self._workers = limit, delay, workers
        self._numbers = itertools.count()
        # A heap of (due, number, call) of all calls with rows waiting. A call whose rows all went into other calls' batches stays
        # until it reaches the head.
        self._calls: list[tuple[float, int, Call]] = []
        self._queues = Queues()
        self._retries: deque[Batch] = deque()
        self._deadlines = Deadlines()
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
        if self._limit is not None:
            check_tokens(self.waiting_tokens, tokens, self._limit)
        if call.deadline is not None:
            last = call.steps[-1].graph
            seconds = (self.waiting_seconds + self.pace.predict_pairs(last, tokens)) / min(self._workers, len(lengths))
            documents, is_guess = len(call.encodings.tokens_cut), not self.pace.knows(last)
            call.steps = call.deadline.needed_steps(call.steps, documents, seconds, now, is_guess=is_guess)
        cost = call_seconds(self.pace, call, tokens)
        call.queued_at = now
        call.due = now + PATIENCE * cost if call.deadline is None else call.deadline.at
        if self._delay is not None:
            ahead = sum(call_seconds(self.pace, other, other.waiting_tokens) for due, _, other in self._calls if due <= call.due)
            check_seconds(ahead, cost, self._delay)
        call.number = next(self._numbers)
        heapq.heappush(self._calls, (call.due, call.number, call))
        if call.deadline is not None:
            self._deadlines.add(call)
        self._queue(call, call.begin_step(np.arange(len(lengths))))

    def next(self, now: float, idle: int) -> Batch | None:
        """The batch to run now; None if no rows wait. `idle`: number of idle workers, including the one that asks.

        A batch takes at most an even share of the waiting rows, so that one call spreads over the idle workers.
        """
        if batch := next_part(self._retries) or self._first_batch(now, idle):
            batch.start(now)
        return batch

    def done(self, batch: Batch, results: Any, now: float) -> list[Call]:
        """Scatters the results of a batch to the calls, and returns those that end with it.

        `results`: logits float32[b, labels]; of a lookup or a document half, what was found of each call's documents. A call whose
        step has no row left goes on to the next step; it fails if the graph's logits are not finite.
        """
        scatter = self._scored if batch.phase in (None, Phase.QUERY) else self._found
        return scatter(batch, results, now)

    def _scored(self, batch: Batch, logits: NDArray[np.float32], now: float) -> list[Call]:
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

    def _found(self, batch: Batch, results: Mapping[Call, Found], now: float) -> list[Call]:
        if batch.phase is Phase.DOCUMENT:
            self.pace.observe(batch.queue, batch.tokens, now - batch.started_at)
        calls = [(call, rows) for call, rows in batch.by_call().items() if not call.ended]
        for call, rows in calls:
            new = call.take_in(rows, results[call], batch.phase)
            if batch.phase is Phase.LOOKUP:
                self.pace.observe_lookup(batch.graph, new, len(rows))
            call.pending_rows -= len(rows)
            if not call.pending_rows:
                self._advance(call)
        return [call for call, _ in calls if call.ended]

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
        call.reading = None

    def expire(self, now: float) -> list[Call]:
        """Ends the calls whose deadline has passed, with what is scored by then; returns them and those that `next` gave up."""
        passed = self._deadlines.take(now)
        for call in passed:
            self.cancel(call)
        ended, self._given_up = self._given_up + passed, []
        return ended

    @property
    def deadline(self) -> float | None:
        """The first deadline of all calls that have not ended; None without one."""
        return self._deadlines.first

    def _first_batch(self, now: float, idle: int) -> Batch | None:
        """A batch that begins with rows of the call that is due first."""
        while self._calls:
            first = self._calls[0][2]
            if not first.waiting:
                heapq.heappop(self._calls)
                continue
            bucket, time = next(iter(first.waiting), None), now
            if first.deadline is not None:
                time += reserved_seconds(self.pace, first) / self._workers
                bucket = first.deadline.bucket(first.waiting, partial(row_seconds, self.pace, first), time)
            if bucket is not None:
                return self._batch(first, bucket, time, idle)
            self._give_up(first)
        return None

    def _size(self, first: Call, bucket: Bucket, now: float, idle: int) -> int:
        """Rows of the next batch: a fair share of those that wait, within the token budget and the first call's deadline."""
        size = min(-(-self.waiting_rows // max(1, idle)), self.token_budget // bucket.width)
        if first.deadline is not None:
            size = min(size, first.deadline.max_rows(first.waiting, bucket, row_seconds(self.pace, first, bucket.width), now))
        return max(1, size)

    def _batch(self, first: Call, bucket: Bucket, now: float, idle: int) -> Batch:
        """A batch of rows of the bucket; in a masked graph, also of narrower buckets and, if all have room, of wider ones."""
        graph, queue, buckets = first.graph, first.queue, [bucket]
        if self._takes_narrower(first, bucket):
            narrowest = partial(self._buckets.narrowest, graph)
            if first.deadline is None and idle == 1:
                bucket = self._queues.widest(graph, bucket, narrowest, self.token_budget)
            buckets = self._queues.buckets(graph, narrowest(bucket.width), bucket.width)
        size = self._size(first, bucket, now, idle)
        batch = Batch(graph, bucket, [], now, None if first.reading is None else first.reading.phase)
        for each in buckets:
            batch.rows += self._queues.take(queue, each, size - len(batch.rows))
        return batch

    def _takes_narrower(self, call: Call, bucket: Bucket) -> bool:
        """Whether rows of narrower buckets may be in a batch of the bucket, for the graph of the call's step."""
        return call.reading is None and self._buckets.narrowest(call.graph, bucket.width) < bucket.width

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
            rows = rows[np.argsort(-call.row_tokens[rows], kind="stable")]
        else:
            call.deadline.set_order(rows.tolist())
        buckets = self._buckets.of(call.graph, call.encodings, rows) if call.reading is None else call.reading.buckets(rows)
        widest = max(buckets)
        if call.deadline is not None and self._takes_narrower(call, widest):
            buckets = [widest] * len(buckets)  # where padding is allowed, the best rows go first, whatever their lengths
        self._queues.add(call, rows.tolist(), buckets)
        call.pending_rows = len(rows)

    def _advance(self, call: Call) -> None:
        """Queues the rows of a call for its next step, or the next phase of a step with a split graph; ends it after the last."""
        try:
            rows = call.go_on()
        except Exception as error:  # noqa: BLE001 - LogitsError or whatever it is, it is passed on to the caller
            call.error = error
            self.cancel(call)
            return
        if not len(rows):
            call.ended = True
            return
        if all(other is not call for _, _, other in self._calls):
            heapq.heappush(self._calls, (call.due, call.number, call))
        self._queue(call, rows)
