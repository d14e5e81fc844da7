"""batches: encoded pairs as padded tensors, with pairs of similar length in one batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from resift_export.checkpoint.split import positions_of
from resift_export.distill.options import DOCUMENT_POSITION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from resift.encoding.encodings import Encodings
    from resift_export.checkpoint.load import Checkpoint

GROUP_SIZE = 16
"""Maximum number of pairs in a batch: more would need more padding, fewer would use wide processors less."""
MASK_VALUE = -1e9
"""Value added to the attention score of a token that is not read, whose weight is then 0; bfloat16 can hold it too."""
WIDTH_STEP = 16
"""Widths are multiples of it, as far as the model has positions: oneDNN compiles its bfloat16 products for each shape that it does
not remember, which takes several times as long as a product."""
Reading = Literal["all", "apart", "frozen"]
"""What a layer's tokens read. all: the whole pair. apart: their own text. frozen: the whole pair, but only the query's tokens do;
the document's keep their states."""


@dataclass(frozen=True)
class PaddedBatch:
    """n pairs of at most `width` tokens."""

    rows: list[int]
    """numbers of the encoded pairs, from 0"""
    inputs: dict[str, torch.Tensor]
    """int64[n, width] each: the model's inputs other than the mask"""
    mask: torch.Tensor | None
    """int64[n, width]: 1 for tokens, 0 for padding; None without padding"""
    tokens: int
    """number of tokens, without padding"""
    query_tokens: int | None = None
    """number of tokens before the document, special ones included; None if it is not the same in all pairs"""
    reading: Reading = "all"
    """of the layer that reads the batch"""

    @property
    def counts(self) -> torch.Tensor | None:
        """int64[n, width]: 1 for tokens whose states the layer computes, 0 for others; None if it computes all."""
        return (~self._is_document).long().expand(len(self.rows), -1) if self.reading == "frozen" else self.mask

    @property
    def attention_mask(self) -> torch.Tensor | None:
        """float[n, 1, 1 or width, width]: added to the attention scores; None if all tokens read all."""
        mask = None if self.mask is None else (1 - self.mask[:, None, None, :]) * MASK_VALUE
        if self.reading != "apart":
            return mask
        other_text = (self._is_document[:, None] != self._is_document)[None, None] * MASK_VALUE
        return other_text if mask is None else torch.minimum(mask, other_text)

    @property
    def _is_document(self) -> torch.Tensor:
        """bool[width]: whether a token is the document's, or padding."""
        assert self.query_tokens is not None, "pairs of one query"
        ids = self.inputs["input_ids"]
        return torch.arange(ids.shape[1], device=ids.device) >= self.query_tokens


def padded_batches(
    checkpoint: Checkpoint, parts: Sequence[Encodings], device: torch.device, *, size: int = GROUP_SIZE
) -> list[PaddedBatch]:
    """Batches of at most `size` pairs, of all pairs of `parts`, numbered in order.

    Equal lengths share a batch, so that there is little padding.
    """
    rows = [part.row(number) for part in parts for number in range(len(part))]
    query_tokens = [int(tokens) for part in parts for tokens in part.query_tokens]
    order = sorted(range(len(rows)), key=lambda row: len(rows[row][0]))
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    batches = [_pad(checkpoint, rows, group, device) for group in groups]
    return [replace(batch, query_tokens=_shared([query_tokens[row] for row in batch.rows])) for batch in batches]


def _pad(
    checkpoint: Checkpoint, rows: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]], group: list[int], device: torch.device
) -> PaddedBatch:
    lengths = [len(rows[row][0]) for row in group]
    width = _width(max(lengths), positions_of(checkpoint.model))
    padding = getattr(checkpoint.model.config, "pad_token_id", None)
    columns = {
        "input_ids": np.full((len(group), width), padding or 0, np.int64),
        "token_type_ids": np.zeros((len(group), width), np.int64),
    }
    mask = np.zeros((len(group), width), np.int64)
    for index, (row, length) in enumerate(zip(group, lengths, strict=True)):
        columns["input_ids"][index, :length], columns["token_type_ids"][index, :length] = rows[row]
        mask[index, :length] = 1
    return PaddedBatch(
        rows=group,
        inputs={name: torch.from_numpy(columns[name]).to(device) for name in checkpoint.signature.inputs},
        mask=None if min(lengths) == width else torch.from_numpy(mask).to(device),
        tokens=sum(lengths),
    )


def _width(longest: int, positions: int) -> int:
    """The width of a batch. The documents of a split student stand at later positions than in a pair, for which room is left."""
    return max(longest, min(-(-longest // WIDTH_STEP) * WIDTH_STEP, positions - DOCUMENT_POSITION))


def _shared(counts: Sequence[int]) -> int | None:
    return counts[0] if len(set(counts)) == 1 else None
