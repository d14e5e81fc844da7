"""halves: a split checkpoint as two functions, from a document to its states, and from queries and states to logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from resift_export.checkpoint.layers import compact_copy
from resift_export.checkpoint.split import embed, head_logits, run_first_layers, run_later_layers

if TYPE_CHECKING:
    from resift_export.checkpoint.labels import Label
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.checkpoint.split import SplitLayout


class DocumentHalf(torch.nn.Module):
    """Takes token ids and, if the model reads them, segment ids of documents, int64[b, d]; returns states float32[b, d, size]."""

    def __init__(self, model: Any, split: SplitLayout) -> None:
        super().__init__()
        self.model, self.split = model, split

    def forward(self, *columns: torch.Tensor) -> torch.Tensor:
        """Runs the first layers."""
        return run_first_layers(self.model, self.split, embed(self.model, *columns, first=self.split.document_position))


class QueryHalf(torch.nn.Module):
    """Takes what precedes the documents of n pairs, int64[n, q], and documents' states; returns logits float32[b, labels].

    Between the ids and the states, float32[b, w, size], it takes the number of the query that reads each document, int64[b].
    """

    def __init__(self, model: Any, split: SplitLayout, label: Label | None) -> None:
        super().__init__()
        self.model, self.split, self.label = model, split, label

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Runs the first layers once a query, and the others and the head once a document."""
        *columns, query_of, documents = inputs
        queries = run_first_layers(self.model, self.split, embed(self.model, *columns)).index_select(0, query_of)
        logits = head_logits(self.model, run_later_layers(self.model, self.split, queries, documents)[-1])
        return logits if self.label is None else self.label.of(logits)


def halves_of(checkpoint: Checkpoint, split: SplitLayout) -> tuple[DocumentHalf, QueryHalf]:
    """Both halves of a checkpoint, which share its weights, without heads and inner units that contribute nothing."""
    model = compact_copy(checkpoint.model)
    return DocumentHalf(model, split).eval(), QueryHalf(model, split, checkpoint.label).eval()
