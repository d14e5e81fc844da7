"""batches: encoded pairs as padded tensors, with pairs of similar length in one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from resift.encoding.encodings import Encodings
    from resift_export.checkpoint.load import Checkpoint

GROUP_SIZE = 16
"""Maximum number of pairs in a batch: more would need more padding, fewer would use wide processors less."""


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


def padded_batches(checkpoint: Checkpoint, parts: Sequence[Encodings], device: torch.device) -> list[PaddedBatch]:
    """Batches of all pairs of `parts`, numbered in order. Equal lengths share a batch, so that there is little padding."""
    rows = [part.row(number) for part in parts for number in range(len(part))]
    order = sorted(range(len(rows)), key=lambda row: len(rows[row][0]))
    groups = [order[start : start + GROUP_SIZE] for start in range(0, len(order), GROUP_SIZE)]
    return [_pad(checkpoint, rows, group, device) for group in groups]


def _pad(
    checkpoint: Checkpoint, rows: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]], group: list[int], device: torch.device
) -> PaddedBatch:
    lengths = [len(rows[row][0]) for row in group]
    width = max(lengths)
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
