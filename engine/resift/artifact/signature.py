"""Signature: what a graph reads and returns; and how a frozen graph and a split one read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeVar

import msgspec
import numpy as np

from resift.artifact.fields import Positive, Strict
from resift.settings import LARGEST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Tokens = TypeVar("Tokens", int, "NDArray[np.int32]")
Input = Literal["input_ids", "token_type_ids", "attention_mask", "updated_tokens", "query_of", "states", "document_tokens"]
Output = Literal["logits", "states"]
Type = Literal["int64", "uint8", "float32"]
INPUTS: tuple[Input, ...] = ("input_ids", "token_type_ids")
"""The inputs [b, width] that any graph may read: token ids, and segment ids, by which some models tell query and document apart."""
MASK: Literal["attention_mask"] = "attention_mask"
"""The further input [b, width] of a variant that is masked: 1 for a token, 0 for padding."""
UPDATED: Literal["updated_tokens"] = "updated_tokens"
"""The further input [1] of a frozen graph: how many tokens at the beginning of every row all its layers update."""
QUERY_OF: Literal["query_of"] = "query_of"
"""A further input [b] of a query half: which of its n queries reads each document."""
STATES: Literal["states"] = "states"
"""What a document half returns, uint8[b, d, size], and a query half reads, uint8[b, w, size], in the width of `Split.width_of`."""
DOCUMENT_TOKENS: Literal["document_tokens"] = "document_tokens"
"""A further input [b] of a query half: the tokens of each document, d; those of its states beyond them are ignored."""
HALVES_ONLY = frozenset({QUERY_OF, STATES, DOCUMENT_TOKENS})
"""Names that no manifest gives as a graph's input or output: those of a split graph's halves follow from it."""
OUTPUT: Literal["logits"] = "logits"
TYPES: dict[str, Type] = {STATES: "uint8", OUTPUT: "float32"}
"""The types of inputs and outputs other than int64."""

QUERY_SHARE = 1 / 8
"""The share of a pair's tokens that is taken to be before the document, where only the number of tokens is known."""


class Signature(Strict, frozen=True):
    """A graph's inputs and outputs: their names and types at export, at every run, and for the check when it is loaded."""

    inputs: dict[Input, Type]
    """the type of each input, int64[b, width], or int64[1] for the number of updated tokens"""
    outputs: dict[Output, Type]
    """the type of its one output, float32[b, labels]"""
    labels: Annotated[int, msgspec.Meta(ge=1, le=2)]

    def __post_init__(self) -> None:
        if "input_ids" not in self.inputs or len(self.outputs) != 1:
            raise ValueError(f"a graph reads {list(self.inputs)} and returns {list(self.outputs)}; expected input_ids and {OUTPUT}")
        if self.inputs != {name: TYPES.get(name, "int64") for name in self.inputs} or self.outputs != {
            name: TYPES[name] for name in self.outputs
        }:
            raise ValueError(f"a graph has the types {self.inputs} and {self.outputs}; expected int64, and float32 for {OUTPUT}")

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

    def document_half(self) -> Self:
        """The signature of a split graph's document half."""
        return msgspec.structs.replace(self, outputs={STATES: TYPES[STATES]})

    def query_half(self) -> Self:
        """The signature of a split graph's query half."""
        further: dict[Input, Type] = {QUERY_OF: "int64", STATES: TYPES[STATES], DOCUMENT_TOKENS: "int64"}
        return msgspec.structs.replace(self, inputs={**self.inputs, **further})


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


class Split(Strict, frozen=True):
    """How a split graph reads a pair: by two halves, of which the first reads the document alone.

    The document half computes the first layers of the document's tokens, whose states then stay as they are. The query half
    computes the first layers of the query's tokens, and in the others lets these read the document's states. So the states are a
    function of the document's tokens, and serve any query.
    """

    layers: Positive
    """the first layers, in which query and document do not read each other"""
    query_tokens: Annotated[int, msgspec.Meta(ge=1, le=LARGEST["max_length"])]
    """the position of a document's first token, and so the most tokens before it: those of the query, and special ones"""
    document_tokens: Annotated[int, msgspec.Meta(ge=1, le=LARGEST["max_length"])]
    """the most tokens of a document, the special one at its end included"""
    multiple: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    """the query half reads as many states of a document as it has tokens, rounded up to a multiple of this"""
    size: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    """components of a token's state, and so its bytes"""
    query_operations: Annotated[int, msgspec.Meta(ge=1, le=1 << 50)]
    """of the query half, per token of a query; counted like the graph's own, which are those of a token of a new document"""
    reading_operations: Annotated[int, msgspec.Meta(ge=1, le=1 << 50)]
    """of the query half, per token of a document that it reads"""

    @property
    def prepared_operations(self) -> int:
        """Of the query half, per token of a pair whose document is prepared; QUERY_SHARE of its tokens are the query's."""
        return round(QUERY_SHARE * self.query_operations + (1 - QUERY_SHARE) * self.reading_operations)

    def width_of(self, document_tokens: Tokens) -> Tokens:
        """The states that the query half reads of a document of so many tokens: it depends on the document alone."""
        return -(-document_tokens // self.multiple) * self.multiple
