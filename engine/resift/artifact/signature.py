"""Signature: what a graph reads and returns; and how a frozen graph reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

import msgspec
import numpy as np

from resift.artifact.fields import Positive, Strict
from resift.settings import LARGEST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Input = Literal["input_ids", "token_type_ids", "attention_mask", "updated_tokens"]
INPUTS: tuple[Input, ...] = ("input_ids", "token_type_ids")
"""The inputs [b, width] that any graph may read: token ids, and segment ids, by which some models tell query and document apart."""
MASK: Literal["attention_mask"] = "attention_mask"
"""The further input [b, width] of a variant that is masked: 1 for a token, 0 for padding."""
UPDATED: Literal["updated_tokens"] = "updated_tokens"
"""The further input [1] of a frozen graph: how many tokens at the beginning of every row all its layers update."""
OUTPUT: Literal["logits"] = "logits"


class Signature(Strict, frozen=True):
    """A graph's inputs and outputs: their names and types at export, at every run, and for the check when it is loaded."""

    inputs: dict[Input, Literal["int64"]]
    """the type of each input, [b, width], or [1] for the number of updated tokens"""
    outputs: dict[Literal["logits"], Literal["float32"]]
    """the type of its one output, [b, labels]"""
    labels: Annotated[int, msgspec.Meta(ge=1, le=2)]

    def __post_init__(self) -> None:
        if "input_ids" not in self.inputs or OUTPUT not in self.outputs:
            raise ValueError(f"a graph reads {list(self.inputs)} and returns {list(self.outputs)}; expected input_ids and {OUTPUT}")

    @classmethod
    def of(cls, *, labels: int, segment_ids: bool) -> Self:
        """The signature of a graph with `labels` labels. `segment_ids`: whether it reads segment ids."""
        names = INPUTS if segment_ids else INPUTS[:1]
        return cls(inputs=dict.fromkeys(names, "int64"), outputs={OUTPUT: "float32"}, labels=labels)

    @property
    def segment_ids(self) -> bool:
        """Whether the graph reads segment ids."""
        return "token_type_ids" in self.inputs

    def with_mask(self) -> Self:
        """The signature of a variant that is masked."""
        return msgspec.structs.replace(self, inputs={**self.inputs, MASK: "int64"})

    def feed(self, inputs: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
        """Those of the `inputs`, by name, that the graph reads."""
        return {name: inputs[name] for name in self.inputs}

    def frozen(self) -> Self:
        """The signature of the graph when it is frozen."""
        return msgspec.structs.replace(self, inputs={**self.inputs, UPDATED: "int64"})

    def unfrozen(self) -> Self:
        """The signature of a graph that updates all tokens in all layers, such as the one for short pairs."""
        return msgspec.structs.replace(self, inputs={name: kind for name, kind in self.inputs.items() if name != UPDATED})


class Frozen(Strict, frozen=True):
    """How a graph reads long documents: from some layer on, it no longer updates their tokens."""

    layers: Positive
    """the last layers, which update only the first tokens of a row; the others give keys and values from their state before them"""
    whole_up_to: Annotated[int, msgspec.Meta(ge=0, le=LARGEST["max_length"])]
    """tokens of the longest pair of which all layers update all tokens"""
    multiple: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    """the updated tokens number a multiple of this: [CLS], the query, its separator, and the first tokens of the document"""

    def updated_tokens(self, query_tokens: NDArray[np.int32], lengths: NDArray[np.int32]) -> NDArray[np.int32]:
        """int32[n]: how many tokens at the beginning of each row are updated in all layers; its length if all are.

        `query_tokens`, int32[n]: tokens before the document. The result depends on the pair alone, so that its logit does.
        """
        updated = -(-np.maximum(query_tokens, 1) // self.multiple) * self.multiple
        is_whole = (lengths <= self.whole_up_to) | (updated >= lengths)
        return np.where(is_whole, lengths, updated).astype(np.int32)
