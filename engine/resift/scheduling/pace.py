"""Pace: how long batches take on this machine, learned from those that ran. Pure arithmetic."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from resift.scheduling.halves import Phase, queue_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from resift.artifact.resolved_plans import Step
    from resift.artifact.signature import Split

FIRST_GUESS = 1e-4
"""Seconds per token assumed before any batch has run: the order of magnitude of a 12-layer MiniLM in int8 on one core."""
WEIGHT = 0.1
"""Weight of the newest batch in the estimate, which covers roughly the last ten."""


class Pace:
    """Seconds per token of a batch on one worker, by graph: an exponentially weighted mean over the batches that ran.

    Each half of a split graph has a pace of its own.
    """

    def __init__(self, operations: Mapping[str, int] | None = None, splits: Mapping[str, Split] | None = None) -> None:
        """`operations`: per token, by graph. A graph that has not run is assumed to need as long per operation as one that has.

        `splits`: how the split graphs read, by their names.
        """
        self._operations = operations or {}
        self._splits = splits or {}
        self._lookups = {queue_name(graph, Phase.LOOKUP): graph for graph in self._splits}
        self._seconds: dict[str, float] = {}
        self._new: dict[str, float] = {}  # share of the documents that were looked up for a split graph

    def observe(self, graph: str, tokens: int, seconds: float) -> None:
        """Records that a batch of `tokens` took the graph `seconds`."""
        newest = max(0.0, seconds) / max(1, tokens)
        mean = self._seconds.get(graph)
        self._seconds[graph] = newest if mean is None else _moved(mean, newest)

    def observe_lookup(self, graph: str, new: int, documents: int) -> None:
        """Records that of so many documents for a split graph, `new` were not known."""
        self._new[graph] = _moved(self._new.get(graph, 1.0), new / documents)

    def knows(self, graph: str) -> bool:
        """Whether a batch of the graph has run."""
        return graph in self._seconds

    def predict(self, graph: str, tokens: float) -> float:
        """Predicted seconds for a batch of `tokens`. `graph`: also the name of a split graph's phase; see `queue_name`.

        A lookup stands for all that follows it: the document half for the usual share of new documents, and the query half.
        """
        if (split_graph := self._lookups.get(graph)) is not None:
            return self.predict_pairs(split_graph, tokens)
        mean = self._seconds.get(graph)
        return tokens * (self._guess(graph) if mean is None else mean)

    def predict_pairs(self, graph: str, tokens: float) -> float:
        """Predicted seconds until a graph, both halves of a split one, has scored pairs of `tokens`."""
        split = self._splits.get(graph)
        if split is None:
            return self.predict(graph, tokens)
        new = self._new.get(graph, 1.0) * self.predict(queue_name(graph, Phase.DOCUMENT), tokens)
        return new + self.predict(graph, tokens * split.prepared_operations / split.query_operations)

    def predict_steps(self, first: float, steps: Sequence[Step], document_tokens: float) -> float:
        """Predicted seconds for the first of the steps, which takes `first`, and each next one for the documents that go on to it.

        `document_tokens`: mean tokens of a document.
        """
        seconds = first
        for before, step in pairwise(steps):
            assert before.keep is not None
            seconds += self.predict_pairs(step.graph, round(before.keep * document_tokens))
        return seconds

    def _guess(self, graph: str) -> float:
        operations = self._operations.get(graph)
        for other, seconds in list(self._seconds.items()):
            if operations is not None and other in self._operations:
                return seconds * operations / self._operations[other]
        return FIRST_GUESS


def _moved(mean: float, newest: float) -> float:
    return (1 - WEIGHT) * mean + WEIGHT * newest
