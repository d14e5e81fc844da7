"""quantize: int8 products and tables, whose scales are fixed at export so that a pair's logits do not depend on its batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from resift_export.graph.edit import CONTRIB, array_of, constant, insert, replace, tidy
from resift_export.int8.levels import TABLE_LEVELS, WEIGHT_LEVELS, at_least_tiny, quantize_weights
from resift_export.int8.products import SMALLEST_SIDE, by_source, products
from resift_export.progress import no_report, track

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from resift_export.int8.products import Product
    from resift_export.int8.ranges import Range
    from resift_export.progress import Report

ROWS_AT_ONCE = 1 << 14
"""Rows of an embedding table that are quantized at once: a vocabulary of 250,000 would otherwise need 2 GB for a moment."""


def quantize(  # noqa: PLR0913 - a graph, how it is quantized, and how progress is reported
    model: ir.Model,
    ranges: Mapping[str, Range],
    *,
    levels: int = WEIGHT_LEVELS,
    exclude: AbstractSet[str] = frozenset(),
    step: str = "quantize",
    report: Report = no_report,
) -> ir.Model:
    """Rewrites the float32 `model` in place to int8, with weights of magnitude at most `levels`, and returns it.

    `ranges` holds the range of the source of each of the `products(model)`, by the source's name. The products whose names are in
    `exclude` stay in float32.
    """
    grouped = list(by_source([product for product in products(model) if product.name not in exclude]).items())
    for source, readers in track(step, grouped, report):
        _quantize_products(model, source, readers, ranges[str(source.name)], levels)
    _quantize_tables(model)
    tidy(model)
    return model


def _quantize_products(model: ir.Model, source: ir.Value, readers: Sequence[Product], activation_range: Range, levels: int) -> None:
    """Quantizes `source` once for all its products; a bias added after a product is merged into it."""
    first = min((product.node for product in readers), key=list(model.graph).index)
    name = source.name
    scale = constant(model, f"{name}_scale", np.array(activation_range.scale, np.float32))
    zero_point = constant(model, f"{name}_zero_point", np.array(activation_range.zero_point, np.uint8))
    activation = source
    if activation_range.smoothing is not None:
        activation = insert(
            model, first, "Mul", [source, constant(model, f"{name}_smoothing", activation_range.smoothing)], f"{name}_smoothed"
        )
    activation = insert(model, first, "QuantizeLinear", [activation, scale, zero_point], f"{name}_levels")
    for product in readers:
        folded = product.weights if activation_range.smoothing is None else product.weights / activation_range.smoothing[:, None]
        weights, scales = quantize_weights(folded, levels)
        out = product.node.outputs[0]
        bias = _bias_of(out)
        inputs = [
            activation,
            constant(model, f"{out.name}_weights", weights),
            scale,
            constant(model, f"{out.name}_scales", scales),
            zero_point,
            None,
            None if bias is None else bias[1],
        ]
        output = out if bias is None else bias[0]
        new = insert(model, product.node, "MatMulIntegerToFloat", inputs, f"{out.name}_int8", domain=CONTRIB)
        replace(output, new)


def _bias_of(product: ir.Value) -> tuple[ir.Value, ir.Value] | None:
    """The sum and the vector, if the product is read only to add a constant vector; otherwise None."""
    uses = list(product.uses())
    if len(uses) != 1 or uses[0].node.op_type != "Add" or product.is_graph_output():
        return None
    other = uses[0].node.inputs[1 - uses[0].idx]
    bias = array_of(other)
    return (uses[0].node.outputs[0], other) if other is not None and bias is not None and bias.ndim == 1 else None


def _quantize_tables(model: ir.Model) -> None:
    """Replaces Gather from a large float32 table by Gather from int8 rows, times Gather from one scale per row."""
    for node in [node for node in model.graph if node.op_type == "Gather"]:
        table = array_of(node.inputs[0])
        if table is None or table.ndim != 2 or table.dtype != np.float32 or len(table) < 2 * SMALLEST_SIDE:
            continue
        if node.attributes.get_int("axis", default=0) != 0:
            continue
        out, ids = node.outputs[0], node.inputs[1]
        scales, levels = _quantize_rows(table)
        rows = constant(model, f"{out.name}_rows", levels)
        row_levels = insert(model, node, "Gather", [rows, ids], f"{out.name}_levels")
        row_scales = insert(model, node, "Gather", [constant(model, f"{out.name}_scales", scales), ids], f"{out.name}_scale")
        row_values = insert(model, node, "Cast", [row_levels], f"{out.name}_float", {"to": int(ir.DataType.FLOAT)})
        replace(out, insert(model, node, "Mul", [row_values, row_scales], f"{out.name}_row"))


def _quantize_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scales float32[rows, 1], one per row, and the levels int8[rows, size]."""
    scales, levels = np.empty((len(table), 1), np.float32), np.empty(table.shape, np.int8)
    for start in range(0, len(table), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        scales[part] = at_least_tiny(np.abs(table[part]).max(axis=1, keepdims=True) / TABLE_LEVELS)
        levels[part] = np.rint(table[part] / scales[part])
    return scales, levels
