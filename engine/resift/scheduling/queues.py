"""Queues: the rows that wait to run, by graph and bucket, and how many there are.

For a split graph, rows wait for one phase after the other, each of which has a name of its own in place of the graph's.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from resift.scheduling.buckets import Bucket
    from resift.scheduling.call import Call


class Queues:
    """A queue for each graph and bucket. In each, the rows of the call that is due first come first."""

    def __init__(self) -> None:
        self.rows = 0
        """rows that wait"""
        self.tokens: dict[str, int] = {}
        """tokens of the rows that wait, by graph"""
        self._heaps: dict[tuple[str, Bucket], list[tuple[float, int, Call]]] = {}

    def add(self, call: Call, rows: Sequence[int], buckets: Sequence[Bucket]) -> None:
        """Queues rows of a call, in their order in each of their buckets, for the graph of the call's step, or a phase of it."""
        graph = call.queue
        for row, bucket in zip(rows, buckets, strict=True):
            call.waiting.setdefault(bucket, deque()).append(row)
        for bucket in call.waiting:
            heapq.heappush(self._heaps.setdefault((graph, bucket), []), (call.due, call.number, call))
        call.waiting_tokens = int(call.row_tokens[rows].sum())
        self.rows += len(rows)
        self.tokens[graph] = self.tokens.get(graph, 0) + call.waiting_tokens

    def take(self, graph: str, bucket: Bucket, size: int) -> Iterator[tuple[Call, int]]:
        """Takes up to `size` rows from one queue."""
        heap = self._heaps[graph, bucket]
        while heap and size:
            call = heap[0][2]
            rows = call.waiting[bucket]
            while rows and size:
                row = rows.popleft()
                tokens = int(call.row_tokens[row])
                self.tokens[graph] -= tokens
                call.waiting_tokens -= tokens
                self.rows -= 1
                size -= 1
                yield call, row
            if not rows:
                del call.waiting[bucket]
                heapq.heappop(heap)
        if not heap:
            del self._heaps[graph, bucket]

    def buckets(self, graph: str, narrowest: int, widest: int) -> list[Bucket]:
        """The buckets of the graph with rows that wait and a width between those two, from the widest down to the narrowest."""
        found = (bucket for name, bucket in self._heaps if name == graph and narrowest <= bucket.width <= widest)
        return sorted(found, reverse=True)

    def count(self, graph: str, buckets: Iterable[Bucket]) -> int:
        """Number of the graph's rows that wait in those buckets."""
        return sum(len(call.waiting[bucket]) for bucket in buckets for _, _, call in self._heaps[graph, bucket])

    def widest(self, graph: str, bucket: Bucket, narrowest: Callable[[int], int], token_budget: int) -> Bucket:
        """The widest bucket of a masked graph whose batch takes rows of `bucket`, if it has room for all that may be in it.

        Otherwise `bucket`. `narrowest`: tokens of the narrowest bucket in a batch of a width.
        """
        wider = self.buckets(graph, bucket.width, token_budget)
        widest = next((each for each in wider if narrowest(each.width) <= bucket.width), bucket)
        rows = self.count(graph, self.buckets(graph, narrowest(widest.width), widest.width))
        return widest if rows * widest.width <= token_budget else bucket

    def drop(self, call: Call) -> int:
        """Takes a call out of the queues and returns how many of its rows waited."""
        dropped, graph = 0, call.queue
        for bucket, rows in call.waiting.items():
            dropped += len(rows)
            self._heaps[graph, bucket] = without(call, self._heaps[graph, bucket])
        if dropped:
            self.tokens[graph] -= call.waiting_tokens
        self.rows -= dropped
        call.waiting_tokens = 0
        call.waiting.clear()
        return dropped


def without(call: Call, heap: list[tuple[float, int, Call]]) -> list[tuple[float, int, Call]]:
    """The heap without the entries of a call."""
    entries = [entry for entry in heap if entry[2] is not call]
    heapq.heapify(entries)
    return entries
