"""Options of a distillation; together with the teacher and the data, they determine the student."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from resift.errors import InputError
from resift_export.checkpoint.split import SplitLayout

Dtype = Literal["float32", "bfloat16"]
DEFAULT_LAYERS = 6
DOCUMENT_POSITION = 32
"""Position of a document's first token in a split student: queries of more tokens, special ones included, are left to the teacher.
Of 31,184 queries of MS MARCO and Natural Questions, 16 are longer."""
WARMUP = 1_600
"""Pairs over which the learning rate rises from 0 at the start."""


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options of a distillation. Raises InputError for a value out of range."""

    keep: tuple[int, ...] = ()
    """the teacher's layers, numbered from 0 and rising, whose outputs the student's layers learn; empty: `layers` of them, evenly
    spaced"""
    layers: int | None = None
    """number of the student's layers, if `keep` is empty; None: as many as the student that training starts from has, all with a
    `width`, or 6"""
    width: float | None = None
    """share of its layers' operations that the student retains, or of their weights with a `split`: before the training, heads and
    inner units are chosen and their weights fitted; None: all"""
    split: int | None = None
    """number of the student's first layers in which query and document do not read each other; None: they do in all"""
    pairs: int = 100_000
    """total number of pairs to train on: the budget that determines the phases and the learning rate; with a `width`, 0 leaves the
    student as it was fitted"""
    batch: int = 32
    """minimum number of pairs of an optimizer step: a step takes whole draws"""
    candidates: int = 8
    """maximum number of candidates drawn from a pool at each visit"""
    local: float = 0.2
    """share of the budget in the first phase, layer by layer; 0 with a `split`"""
    decay: float = 0.2
    """share of the budget, at its end, over which the learning rate falls to 0"""
    lr: float = 3e-4
    """learning rate between the warm-up and the decay"""
    max_length: int = 128
    """maximum number of tokens of a pair"""
    development: float = 0.02
    """share of the queries that are never trained on"""
    development_pools: int = 64
    """maximum number of pools of that share on which the figures are measured"""
    evaluate: int = 10_000
    """pairs between two measurements"""
    seed: int = 0
    dtype: Dtype = "float32"
    """type of the matrix products; weights and optimizer are float32"""

    def __post_init__(self) -> None:
        for name in ("layers", "split", "pairs", "batch", "candidates", "max_length", "development_pools", "evaluate"):
            minimum = 0 if name == "pairs" and self.width else 1
            if (value := getattr(self, name)) is not None and value < minimum:
                raise InputError(f"{name} is {value}; expected {minimum} or more")
        for name in ("local", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected a share from 0 to 1")
        if self.width is not None and not 0 < self.width < 1:
            raise InputError(f"width is {self.width}; expected a share between 0 and 1, such as 0.5")
        if not 0 < self.development < 1:
            raise InputError(f"development is {self.development}; expected a share between 0 and 1, such as 0.02")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise InputError(f"lr is {self.lr}; expected a positive learning rate, such as 0.0003")
        if self.split is not None:
            self._check_split()
        if any(second <= first for first, second in zip((-1, *self.keep), self.keep, strict=False)):
            raise InputError(f"keep is {','.join(map(str, self.keep))}; expected rising numbers of layers, from 0: 1,3,5")

    def _check_split(self) -> None:
        if self.local > 0:
            raise InputError(f"local is {self.local}; expected 0 with a split, whose layers do not read what the teacher's do")
        if self.max_length <= DOCUMENT_POSITION:
            raise InputError(f"max_length is {self.max_length}; expected more than the {DOCUMENT_POSITION} of a split's query")

    @property
    def layout(self) -> SplitLayout | None:
        """How the student is split; None if it is not."""
        return None if self.split is None else SplitLayout(self.split, DOCUMENT_POSITION)

    def retained_layers(self, teacher_layers: int, start: tuple[int, ...] = ()) -> tuple[int, ...]:
        """The layers, of a teacher with `teacher_layers`, whose outputs the student learns. Raises InputError if it has too few.

        `start`: the layers learnt by the student that training starts from. Only a narrower or a split student may retain all.
        """
        is_cheaper = self.width is not None or self.split is not None or len(start) == teacher_layers
        keep = self.keep or (start if self.layers is None else ())
        if not keep and is_cheaper and self.layers in (None, teacher_layers):
            keep = tuple(range(teacher_layers))
        keep = keep or evenly_spaced(self.layers or DEFAULT_LAYERS, teacher_layers)
        if keep[-1] != teacher_layers - 1:
            raise InputError(
                f"keep ends with layer {keep[-1]}; expected the teacher's last, {teacher_layers - 1}, whose output its head reads"
            )
        if len(keep) == teacher_layers and not is_cheaper:
            raise InputError(f"keep names all {teacher_layers} layers of the teacher; expected fewer, or a width")
        if self.split is not None and self.split >= len(keep):
            raise InputError(
                f"split is {self.split}, but the student has {len(keep)} layers, and in one at least its query reads the document; "
                f"expected 1 to {len(keep) - 1}"
            )
        return keep

    def is_local(self, pairs: int) -> bool:
        """Whether a step after `pairs` pairs belongs to the first phase."""
        return pairs < self.local * self.pairs

    def rate(self, pairs: int) -> float:
        """The learning rate of a step after `pairs` pairs: a warm-up, a constant, a linear decay."""
        warmup = min(1.0, (pairs + self.batch) / WARMUP)
        decay = (self.pairs - pairs) / (self.decay * self.pairs) if self.decay else 1.0
        return self.lr * warmup * max(0.0, min(1.0, decay))


def evenly_spaced(layers: int, teacher_layers: int) -> tuple[int, ...]:
    """`layers` of a teacher's layers at even distances, the last one included. Raises InputError if it has too few."""
    if not 1 <= layers < teacher_layers:
        raise InputError(f"layers is {layers}, but the teacher has {teacher_layers}; expected 1 to {teacher_layers - 1}")
    return tuple((number + 1) * teacher_layers // layers - 1 for number in range(layers))
