"""Pace: how long batches take on this machine, learned from those that ran. Pure arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

FIRST_GUESS = 1e-4
"""Seconds per token assumed before any batch has run: the order of magnitude of a 12-layer MiniLM in int8 on one core."""
WEIGHT = 0.1
"""Weight of the newest batch in the estimate, which covers roughly the last ten."""


class Pace:
    """Seconds per token of a batch on one worker, by graph: an exponentially weighted mean over the batches that ran."""

    def __init__(self, operations: Mapping[str, int] | None = None) -> None:
        """`operations`: per token, by graph; a graph that has not run yet is taken to be as fast an operation as one that has."""
        self._operations = operations or {}
        self._seconds: dict[str, float] = {}

    def observe(self, graph: str, tokens: int, seconds: float) -> None:
        """Records that a batch of `tokens` took the graph `seconds`."""
        found = max(0.0, seconds) / max(1, tokens)
        known = self._seconds.get(graph)
        self._seconds[graph] = found if known is None else (1 - WEIGHT) * known + WEIGHT * found

    def knows(self, graph: str) -> bool:
        """Whether a batch of the graph has run."""
        return graph in self._seconds

    def predict(self, graph: str, tokens: int) -> float:
        """Predicted seconds for a batch of `tokens`."""
        known = self._seconds.get(graph)
        return tokens * (self._guess(graph) if known is None else known)

    def _guess(self, graph: str) -> float:
        own = self._operations.get(graph)
        for other, seconds in list(self._seconds.items()):
            if own is not None and other in self._operations:
                return seconds * own / self._operations[other]
        return FIRST_GUESS
