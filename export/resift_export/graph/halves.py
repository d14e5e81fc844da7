"""halves: the two graphs of a split checkpoint.

    document half     input_ids, token_type_ids [b, d] -> states uint8[b, d, size]
    query half        input_ids, token_type_ids [n, q], query_of [b], states uint8[b, w, size], document_tokens [b]
                          -> logits [b, labels]

Both are traced and optimized in float32, with states in float32, and then given states in uint8, with one scale and zero point that
both hold. A document's states are padded to the width w; the query half ignores those from its document_tokens on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np
import onnx_ir as ir
import torch

from resift.artifact.signature import DOCUMENT_TOKENS, OUTPUT, QUERY_OF, STATES
from resift.errors import ExportError
from resift_export.checkpoint.halves import halves_of
from resift_export.graph.edit import CONTRIB, constant, insert, replace, tidy
from resift_export.graph.optimize import optimize
from resift_export.graph.trace import example_of, trace_network

if TYPE_CHECKING:
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.checkpoint.split import SplitLayout

EXAMPLE_QUERIES, EXAMPLE_DOCUMENTS = (2, 8), (3, 6)
"""Sizes [n, q] and [b, w] of the example that is traced: all differ, so that the tracer takes none for another."""
KEY, MASK_INPUT = 1, 4
"""Indices of inputs of MultiHeadAttention: the keys, and the mask of padding, int32[b, keys], 0 for keys that are ignored."""
EXACT = "exact_states"
"""The name of the float32 states: what the document half quantizes, and what the traced query half reads."""


T = TypeVar("T")


class Halves(NamedTuple, Generic[T]):
    """Something of each half, such as its graph."""

    document: T
    query: T


class StateLevels(NamedTuple):
    """How states are quantized: round(x * smoothing / scale) + zero_point."""

    scale: float
    zero_point: int
    smoothing: np.ndarray | None
    """float32[size]; None: no smoothing"""


def trace_halves(checkpoint: Checkpoint, split: SplitLayout) -> Halves[ir.Model]:
    """Traces and optimizes both halves, with states in float32 and without padding. Raises ExportError if they cannot be traced."""
    document, query = halves_of(checkpoint, split)
    what, longest = f"half of {checkpoint.architecture}", checkpoint.max_length
    states = torch.zeros(*EXAMPLE_DOCUMENTS, int(checkpoint.model.config.hidden_size))
    inputs = example_of(checkpoint, EXAMPLE_QUERIES) | {QUERY_OF: torch.tensor([0, 1, 0]), STATES: states}
    halves = Halves(
        optimize(trace_network(document, example_of(checkpoint, EXAMPLE_DOCUMENTS), STATES, f"the document {what}"), longest),
        optimize(trace_network(query, inputs, OUTPUT, f"the query {what}"), longest),
    )
    given = _input(halves.query, STATES)
    uses = list(given.uses())
    exact = insert(halves.query, next(iter(halves.query.graph)), "Identity", [given], EXACT)
    exact.type, exact.shape = given.type, given.shape
    for use in uses:
        use.node.replace_input_with(use.idx, exact)
    return halves


def ignore_padding(query: ir.Model, later_layers: int, what: str) -> None:
    """Gives the query half the input DOCUMENT_TOKENS, int64[b]: its last layers ignore states from that number on. In place.

    Raises ExportError, in which `what` names the model, unless all its later layers are MultiHeadAttention over joined keys.
    """
    query.graph.sort()
    reading = [node for node in query.graph if node.op_type == "MultiHeadAttention" and _joins(node.inputs[KEY])]
    if len(reading) != later_layers or any(node.op_type == "Attention" for node in query.graph):
        raise ExportError(
            f"{what} cannot be split: {len(reading)} of its {later_layers} later layers are attention that can ignore padding; "
            "expected all"
        )
    tokens = ir.Value(name=DOCUMENT_TOKENS, shape=ir.Shape([None]), type=ir.TensorType(ir.DataType.INT64))
    query.graph.inputs.append(tokens)
    mask = _mask(query, tokens)
    for node in reading:
        inputs = [*node.inputs, *[None] * (MASK_INPUT - len(node.inputs)), mask]
        attributes = {"num_heads": node.attributes.get_int("num_heads"), "scale": node.attributes.get_float("scale")}
        name = f"{node.outputs[0].name}_masked"
        replace(node.outputs[0], insert(query, node, node.op_type, inputs, name, attributes, CONTRIB))
    tidy(query)


def write_levels(document: ir.Model, states: StateLevels) -> None:
    """Makes the document half return its states in uint8, in place."""
    [exact] = document.graph.outputs
    exact.name = EXACT
    scale, zero_point = _scale(document, states)
    nodes, scaled = [], exact
    if states.smoothing is not None:
        nodes.append(ir.node("Mul", [exact, constant(document, f"{EXACT}_smoothing", states.smoothing)]))
        [scaled] = nodes[-1].outputs
        scaled.name = f"{EXACT}_smoothed"
    nodes.append(ir.node("QuantizeLinear", [scaled, scale, zero_point]))
    [levels] = nodes[-1].outputs
    levels.name, levels.shape, levels.type = STATES, exact.shape, ir.TensorType(ir.DataType.UINT8)
    document.graph.extend(nodes)
    document.graph.outputs[:] = [levels]


def read_levels(query: ir.Model, states: StateLevels) -> None:
    """Makes the query half, in float32 or quantized with that range of EXACT, read states in uint8, in place."""
    given = _input(query, STATES)
    levels = ir.Value(name=STATES, shape=given.shape, type=ir.TensorType(ir.DataType.UINT8))
    values = {value.name: value for node in query.graph for value in node.outputs}
    if quantized := values.get(f"{EXACT}_levels"):  # by int8.quantize
        quantized.replace_all_uses_with(levels)
    else:
        first = next(iter(query.graph))
        restored = insert(query, first, "DequantizeLinear", [levels, *_scale(query, states)], f"{EXACT}_restored")
        if states.smoothing is not None:
            factors = constant(query, f"{EXACT}_factors", 1 / states.smoothing)
            restored = insert(query, first, "Mul", [restored, factors], f"{EXACT}_unsmoothed")
        values[EXACT].replace_all_uses_with(restored)
    given.replace_all_uses_with(levels)
    query.graph.inputs[list(query.graph.inputs).index(given)] = levels
    tidy(query)


def _input(model: ir.Model, name: str) -> ir.Value:
    return next(value for value in model.graph.inputs if value.name == name)


def _joins(keys: ir.Value | None) -> bool:
    """Whether the keys are those of several states."""
    producer = None if keys is None else keys.producer()
    return producer is not None and producer.op_type == "Concat"


def _mask(model: ir.Model, tokens: ir.Value) -> ir.Value:
    """int32[b, q + w]: 1 for the query's tokens and the document's, 0 for padding.

    Keys are numbered from -q on, so that a document's first token has the number 0, and each is compared with the number of tokens.
    """
    first = next(iter(model.graph))
    one = constant(model, "padding_one", np.array(1))

    def width(name: str) -> ir.Value:
        shape = insert(model, first, "Shape", [_input(model, name)], f"padding_{name}_shape")
        return insert(model, first, "Gather", [shape, one], f"padding_{name}_width")

    start = insert(model, first, "Neg", [width("input_ids")], "padding_start")
    numbers = insert(model, first, "Range", [start, width(STATES), one], "padding_numbers")
    column = constant(model, "padding_axis", np.array([1]))
    counts = insert(model, first, "Unsqueeze", [tokens, column], "padding_tokens")
    is_read = insert(model, first, "Less", [numbers, counts], "padding_is_read")
    return insert(model, first, "Cast", [is_read], "padding_mask", {"to": int(ir.DataType.INT32)})


def _scale(model: ir.Model, states: StateLevels) -> tuple[ir.Value, ir.Value]:
    return (
        constant(model, f"{STATES}_scale", np.array(states.scale, np.float32)),
        constant(model, f"{STATES}_zero_point", np.array(states.zero_point, np.uint8)),
    )
