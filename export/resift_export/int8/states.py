"""states: gives both halves of a split graph their states in uint8, with one scale and zero point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from resift.artifact.signature import STATES
from resift_export.graph.edit import constant, insert, tidy
from resift_export.graph.halves import EXACT, input_of

if TYPE_CHECKING:
    from resift_export.int8.ranges import Range


def write_levels(document: ir.Model, states: Range) -> None:
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


def read_levels(query: ir.Model, states: Range) -> None:
    """Makes the query half, in float32 or quantized with that range of EXACT, read states in uint8, in place."""
    given = input_of(query, STATES)
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


def _scale(model: ir.Model, states: Range) -> tuple[ir.Value, ir.Value]:
    return (
        constant(model, f"{STATES}_scale", np.array(states.scale, np.float32)),
        constant(model, f"{STATES}_zero_point", np.array(states.zero_point, np.uint8)),
    )
