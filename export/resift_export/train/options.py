"""TrainOptions of a training; together with the checkpoint and the data, they determine the weights."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from resift.errors import InputError

Dtype = Literal["float32", "bfloat16"]
Loss = Literal["bce", "infonce", "marginmse"]
PAIRS_AT_ONCE = 16
"""Pairs whose activations are in memory: those of 16 pairs of 192 tokens take some 3 GB in a MiniLM of 12 layers."""
MAX_LENGTH = 192
"""Default maximum number of tokens of a pair."""


class TrainOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options of a training. Raises InputError for a value out of range."""

    loss: Loss | Literal["auto"] = "auto"
    """auto: marginmse if a teacher scored every document and the checkpoint does not score them so already, otherwise bce"""
    epochs: int = 2
    """visits to each query"""
    batch: int = 4
    """queries in an optimizer step"""
    negatives: int = 7
    """maximum number of negatives of a query at each visit; drawn anew at the next"""
    lr: float = 2e-5
    """learning rate after the warm-up, from which it falls linearly to 0"""
    warmup: float = 0.1
    """share of the steps over which the learning rate rises from 0"""
    max_length: int = MAX_LENGTH
    """maximum number of tokens of a pair"""
    general: float = 0.25
    """share of the steps on general pairs, whose scores by the checkpoint are to stay"""
    development: float = 0.1
    """share of the queries on which the best weights are chosen"""
    held_out: float = 0.2
    """share of the queries on which the gain is measured"""
    evaluations: int = 6
    """number of times that the development queries are measured, and the state is saved, during the training"""
    seed: int = 0
    dtype: Dtype = "float32"
    """type of the matrix products; weights and optimizer are float32"""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "negatives", "max_length", "evaluations"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"{name} is {value}; expected 1 or more")
        for name, end in (("warmup", 1.0), ("general", 0.9)):
            if not 0 <= (value := getattr(self, name)) <= end:
                raise InputError(f"{name} is {value}; expected a share from 0 to {end:g}")
        for name in ("development", "held_out"):
            if not 0 < (value := getattr(self, name)) < 0.5:
                raise InputError(f"{name} is {value}; expected a share above 0 and below 0.5, such as 0.2")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise InputError(f"lr is {self.lr}; expected a positive learning rate, such as 0.00002")
        if self.loss not in ("auto", "bce", "infonce", "marginmse"):
            raise InputError(f"loss is {self.loss!r:.40}; expected auto, bce, infonce or marginmse")

    @property
    def queries_at_once(self) -> int:
        """Queries whose pairs are in memory at once: the gradients of a step are summed over `accumulation` such parts."""
        limit = PAIRS_AT_ONCE // (1 + self.negatives)
        return max(count for count in range(1, self.batch + 1) if self.batch % count == 0 and count <= max(1, limit))

    @property
    def pairs_at_once(self) -> int:
        """The pairs of these queries, if none has fewer negatives."""
        return self.queries_at_once * (1 + self.negatives)

    @property
    def accumulation(self) -> int:
        """Parts of an optimizer step."""
        return self.batch // self.queries_at_once
