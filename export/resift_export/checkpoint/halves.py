"""halves: a split checkpoint as two functions, from a document to its states, and from queries and states to logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from resift.scoring import relevance
from resift_export.checkpoint.layers import compact_copy
from resift_export.checkpoint.split import embed, head_logits, run_first_layers, run_later_layers
from resift_export.progress import no_report, track

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from resift.encoding.encodings import Encodings
    from resift_export.checkpoint.labels import Label
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.checkpoint.split import SplitLayout
    from resift_export.progress import Report

    Row = tuple[NDArray[np.int32], NDArray[np.int32]]
    """token ids and segment ids"""

REFERENCE_DOCUMENTS = 16
"""The most documents of a batch of references."""
MASK_VALUE = -1e9
"""Value added to the attention score of padding, whose weight is then 0."""


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


class SplitReference:
    """Scores pairs by a split checkpoint in PyTorch."""

    def __init__(self, checkpoint: Checkpoint, split: SplitLayout, document_tokens: int) -> None:
        """`document_tokens`: the most tokens of a document that are read."""
        self._checkpoint, self._split, self._document_tokens = checkpoint, split, document_tokens
        self._tokenizer = checkpoint.pair_tokenizer()
        self._model = compact_copy(checkpoint.model)

    def references(
        self, pools: Sequence[tuple[str, Sequence[str]]], full: Sequence[NDArray[np.float32]], report: Report = no_report
    ) -> list[NDArray[np.float32]]:
        """Relevance logits float32[n] of each query and its documents.

        `full`: those of the full model, which are returned where a query is too long for the split one.
        """
        found = []
        for (query, documents), exact in zip(track("reference of the first look", pools, report), full, strict=True):
            encodings = self._tokenizer.encode(query, documents)
            fits = len(encodings) > 0 and int(encodings.query_tokens[0]) <= self._split.document_position
            found.append(self._logits(encodings) if fits else exact)
        return found

    def _logits(self, encodings: Encodings) -> NDArray[np.float32]:
        """float32[n]: relevance logits of pairs of one query, documents of similar length together."""
        logits = np.empty(len(encodings), np.float32)
        order = np.argsort(encodings.lengths, kind="stable")
        with torch.inference_mode():
            query = run_first_layers(self._model, self._split, embed(self._model, *self._columns([encodings.query(0)])))
            for group in np.array_split(order, -(-len(order) // REFERENCE_DOCUMENTS)):
                rows = [encodings.document(int(number), self._document_tokens) for number in group]
                logits[group] = self._score(query, rows)
        return logits

    def _score(self, query: torch.Tensor, documents: Sequence[Row]) -> NDArray[np.float32]:
        """float32[n]: relevance logits of a query, by its states [1, q, hidden size], and of documents, which are padded."""
        lengths = torch.tensor([len(ids) for ids, _ in documents])
        columns = self._columns(documents)
        read = torch.arange(columns[0].shape[1] + query.shape[1]) - query.shape[1] < lengths[:, None]
        mask = torch.where(read, 0.0, MASK_VALUE)[:, None, None]
        embedded = embed(self._model, *columns, first=self._split.document_position)
        states = run_first_layers(self._model, self._split, embedded, mask[..., query.shape[1] :])
        queries = query.expand(len(documents), -1, -1)
        logits = head_logits(self._model, run_later_layers(self._model, self._split, queries, states, mask)[-1])
        label = self._checkpoint.label
        return relevance((logits if label is None else label.of(logits)).numpy(), self._checkpoint.relevance)

    def _columns(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """int64[n, width]: the token ids of rows and, if the model reads them, their segment ids, padded with 0."""
        columns = [
            pad_sequence([torch.tensor(ids, dtype=torch.int64) for ids in column], batch_first=True)
            for column in zip(*rows, strict=True)
        ]
        return columns[: len(self._checkpoint.signature.inputs)]
