"""batches: encoded pairs as padded tensors, those of similar length together."""

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

GROUP = 16
"""Most pairs that are padded to one length: more would pad more, fewer would use wide processors less."""


@dataclass(frozen=True)
class PaddedBatch:
    """n pairs of at most `width` tokens."""

    rows: list[int]
    """which of the encoded pairs they are, from 0"""
    inputs: dict[str, torch.Tensor]
    """int64[n, width] each: what the model reads besides the mask"""
    mask: torch.Tensor | None
    """int64[n, width]: 1 for tokens, 0 for padding; None without padding"""
    tokens: int
    """without padding"""


def padded(checkpoint: Checkpoint, parts: Sequence[Encodings], device: torch.device) -> list[PaddedBatch]:
    """Batches of all pairs of `parts`, numbered in order; equal lengths come together, so that little is padded."""
    rows = [part.row(number) for part in parts for number in range(len(part))]
    order = sorted(range(len(rows)), key=lambda row: len(rows[row][0]))
    groups = [order[start : start + GROUP] for start in range(0, len(order), GROUP)]
    return [_padded(checkpoint, rows, group, device) for group in groups]


def _padded(
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
    for place, (row, length) in enumerate(zip(group, lengths, strict=True)):
        columns["input_ids"][place, :length], columns["token_type_ids"][place, :length] = rows[row]
        mask[place, :length] = 1
    return PaddedBatch(
        rows=group,
        inputs={name: torch.from_numpy(columns[name]).to(device) for name in checkpoint.signature.inputs},
        mask=None if min(lengths) == width else torch.from_numpy(mask).to(device),
        tokens=sum(lengths),
    )
