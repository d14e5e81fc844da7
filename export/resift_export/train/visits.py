"""visits: what each step of a training reads, in order, as a function of the data, the options and nothing else.

All visits are laid out before the training. A resumed run then continues at its place in the list, whatever the trainer's own
samplers do at the beginning of an epoch.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from resift.pools.training_pairs import TrainingDocument, TrainingPairs
    from resift_export.train.options import Loss, TrainOptions

CERTAIN = 100.0
"""The label of the answer, and 0 of others, whose softmax gives the answer all of the probability."""


class Visit(NamedTuple):
    """One query with one answer and some of its negatives."""

    query: str
    answer: TrainingDocument
    negatives: list[TrainingDocument]


def visits(queries: Sequence[TrainingPairs], options: TrainOptions) -> Iterator[Visit]:
    """Each query once an epoch, in an order of the epoch's own. Answers take turns; negatives are drawn."""
    for epoch in range(options.epochs):
        generator = random.Random(f"{options.seed} epoch {epoch}")  # noqa: S311 - no secret
        for place in generator.sample(range(len(queries)), len(queries)):
            pairs = queries[place]
            count = min(options.negatives, len(pairs.negative))
            yield Visit(pairs.query, pairs.positive[epoch % len(pairs.positive)], generator.sample(pairs.negative, count))


def rows(found: Sequence[Visit], loss: Loss, negatives: int) -> list[dict[str, Any]]:
    """The visits as rows of the dataset that sentence-transformers' loss of that name reads."""
    if loss == "bce":
        return [row for visit in found for row in _labelled(visit)]
    if loss == "infonce":
        return [_listed(visit) for visit in found]
    return [_margins(visit, negatives) for visit in found]


def _labelled(visit: Visit) -> list[dict[str, Any]]:
    documents = [visit.answer, *visit.negatives]
    return [
        {"query": visit.query, "document": document.text, "label": 0.0 if number else 1.0}
        for number, document in enumerate(documents)
    ]


def _listed(visit: Visit) -> dict[str, Any]:
    documents = [visit.answer.text, *(document.text for document in visit.negatives)]
    return {"query": visit.query, "documents": documents, "label": [CERTAIN] + [0.0] * len(visit.negatives)}


def _margins(visit: Visit, negatives: int) -> dict[str, Any]:
    """A row of a fixed number of negatives; those of a query that has fewer take turns."""
    documents = [visit.negatives[number % len(visit.negatives)] for number in range(negatives)]
    texts = {f"negative_{number}": document.text for number, document in enumerate(documents)}
    margins = [float(visit.answer.score or 0.0) - float(document.score or 0.0) for document in documents]
    return {"query": visit.query, "answer": visit.answer.text, **texts, "label": margins}
