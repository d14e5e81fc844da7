"""Known documents: how long calls take while nothing of their documents is in memory, and while everything is."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from resift.evaluate.results import DocumentFigures, Latency

if TYPE_CHECKING:
    from collections.abc import Callable

    from resift.reranker import Reranker
    from resift.settings import Settings
    from resift.states.document_states import StatesCounts

ROOM = 1 << 28
"""Bound in bytes of the memory for the documents of one pool, unless the settings say another: a thousand of MiniLM's longest."""


def with_room(settings: Settings) -> Settings:
    """With memory for the states of any pool, unless the settings say how much."""
    return replace(settings, document_cache=ROOM) if settings.document_cache == "auto" else settings


def forget_documents(reranker: Reranker | None) -> None:
    """Leaves nothing of documents in memory: those of the next call are new, as far as they are not in a store."""
    if reranker is not None and reranker.document_states is not None:
        reranker.document_states.forget()


class KnownDocuments:
    """Calls with nothing of their documents in memory, and each of them again, with the states of all of them there."""

    def __init__(self) -> None:
        self._prepared = self._new = 0
        self._seconds: list[float] = []
        self._is_read = False
        self._is_known = True

    def add(self, counts: StatesCounts | None, seconds: float, again: Callable[[], StatesCounts | None]) -> None:
        """A call that took so many seconds after `forget_documents`, and found so much; None if no split graph read it.

        `again` makes the same call once more, if a split graph read it: it finds what the first one left.
        """
        if counts is not None:
            self._is_read = True
            self._prepared, self._new = self._prepared + counts.prepared, self._new + counts.new
            began = time.perf_counter()
            found = again()
            seconds = time.perf_counter() - began
            self._is_known = self._is_known and found is not None and not found.new
        self._seconds.append(seconds)

    def figures(self) -> DocumentFigures | None:
        """The figures of all calls; None if no split graph read one."""
        if not self._is_read:
            return None
        p50, p95 = (1000 * np.percentile(self._seconds, [50, 95])).tolist()
        return DocumentFigures(
            prepared=self._prepared, new=self._new, known_latency_ms=Latency(p50=p50, p95=p95) if self._is_known else None
        )
