"""Retries: what runs again in place of a batch that failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resift.errors import OutOfMemoryError
from resift.scheduling.call import Batch

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterable

    from resift.scheduling.call import Call


def parts_of(batch: Batch, error: Exception) -> list[Batch]:
    """The batches to try again, of the rows whose calls have not ended; none if `batch` cannot be tried in another way.

    If memory was too short for it, they are its halves. Otherwise each of several calls is tried by itself.
    """
    if isinstance(error, OutOfMemoryError):
        rows = [(call, row) for call, row in batch.rows if not call.ended]
        half = -(-len(rows) // 2)
        return [_part(batch, rows[:half]), _part(batch, rows[half:])] if len(rows) > 1 else []
    by_call = batch.by_call()
    if len(by_call) == 1:
        return []
    return [_part(batch, [(call, row) for row in rows]) for call, rows in by_call.items() if not call.ended]


def next_part(parts: deque[Batch]) -> Batch | None:
    """Takes the next of the batches that has rows whose calls have not ended, with only these; None if there is none."""
    while parts:
        batch = parts.popleft()
        batch.rows = [(call, row) for call, row in batch.rows if not call.ended]
        if batch.rows:
            return batch
    return None


def _part(batch: Batch, rows: Iterable[tuple[Call, int]]) -> Batch:
    return Batch(batch.graph, batch.bucket, list(rows), batch.started_at, batch.phase)
