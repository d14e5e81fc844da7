"""Pace: how long batches take on this machine, learned from those that ran. Pure arithmetic."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from resift.artifact.resolved_plans import Step

FIRST_GUESS = 1e-4
"""Seconds per token assumed before any batch has run: the order of magnitude of a 12-layer MiniLM in int8 on one core."""
WEIGHT = 0.1
"""Weight of the newest batch in the estimate, which covers roughly the last ten."""


class Pace:
    """Seconds per token of a batch on one worker, by graph: an exponentially weighted mean over the batches that ran."""

    def __init__(self, operations: Mapping[str, int] | None = None) -> None:
        """`operations`: per token, by graph. A graph that has not run is assumed to need as long per operation as one that has."""
        self._operations = operations or {}
        self._seconds: dict[str, float] = {}

    def observe(self, graph: str, tokens: int, seconds: float) -> None:
        """Records that a batch of `tokens` took the graph `seconds`."""
        newest = max(0.0, seconds) / max(1, tokens)
        mean = self._seconds.get(graph)
        self._seconds[graph] = newest if mean is None else (1 - WEIGHT) * mean + WEIGHT * newest

    def knows(self, graph: str) -> bool:
        """Whether a batch of the graph has run."""
        return graph in self._seconds

    def predict(self, graph: str, tokens: int) -> float:
        """Predicted seconds for a batch of `tokens`."""
        mean = self._seconds.get(graph)
        return tokens * (self._guess(graph) if mean is None else mean)

    def predict_steps(self, steps: Sequence[Step], tokens: int, document_tokens: float) -> float:
        """Predicted seconds for `tokens` in the first of the steps, and in each next one for the documents that go on to it.

        `document_tokens`: mean tokens of a document.
        """
        seconds = self.predict(steps[0].graph, tokens)
        for before, step in pairwise(steps):
            assert before.keep is not None
            seconds += self.predict(step.graph, round(before.keep * document_tokens))
        return seconds

    def _guess(self, graph: str) -> float:
        operations = self._operations.get(graph)
        for other, seconds in list(self._seconds.items()):
            if operations is not None and other in self._operations:
                return seconds * operations / self._operations[other]
        return FIRST_GUESS
