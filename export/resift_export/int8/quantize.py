"""quantize: int8 products and tables with scales fixed at export, so that a pair's logits do not depend on its batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from resift_export.graph.edit import CONTRIB, array_of, constant, insert, replace, tidy
from resift_export.progress import reported, unreported

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from resift_export.int8.ranges import Range
    from resift_export.progress import Report

WEIGHT_LEVELS = 63
"""Largest magnitude of a weight: 7 bits. Two products u8 x s8 then sum to at most 255 * 63 * 2 = 32130 < 2**15, the limit
of the 16-bit sums of AVX2 and of AVX-512 without VNNI (https://github.com/microsoft/onnxruntime/issues/6004)."""
VNNI_LEVELS = 127
"""Largest magnitude of a weight if products are summed in 32 bits: 8 bits."""
TABLE_LEVELS = 127
"""Largest magnitude in an embedding table, which is looked up and never multiplied."""
SMALLEST_SIDE = 16
"""A product whose weights have fewer rows or columns (such as the last, with one column per label) stays in float32."""
TINY = float(np.finfo(np.float32).tiny)
ROWS_AT_ONCE = 1 << 14
"""Rows of an embedding table that are quantized at once: a vocabulary of 250,000 would otherwise need 2 GB for a moment."""


@dataclass(frozen=True)
class Product:
    """A matrix product of activations and constant weights."""

    node: ir.Node
    weights: np.ndarray
    """float32[inputs, outputs]"""

    @property
    def source(self) -> ir.Value:
        """The activations: float32[..., inputs]."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def name(self) -> str:
        """The name of its output, which is the same in every clone of the graph."""
        return str(self.node.outputs[0].name)


def products(model: ir.Model) -> list[Product]:
    """The products worth quantizing, in the graph's order."""
    found = []
    for node in model.graph:
        weights = array_of(node.inputs[1]) if node.op_type == "MatMul" else None
        if weights is not None and weights.ndim == 2 and min(weights.shape) >= SMALLEST_SIDE and array_of(node.inputs[0]) is None:
            found.append(Product(node, weights))
    return found


def quantize(  # noqa: PLR0913 - a graph, how it is quantized, and to whom that is told
    model: ir.Model,
    ranges: Mapping[str, Range],
    *,
    levels: int = WEIGHT_LEVELS,
    left: AbstractSet[str] = frozenset(),
    step: str = "quantize",
    report: Report = unreported,
) -> ir.Model:
    """Rewrites the float32 `model` in place to int8, with weights of magnitude at most `levels`, and returns it.

    `ranges` holds that of the source of every one of `products(model)`, by its name. The products named in `left` stay in float32.
    """
    grouped = list(by_source([product for product in products(model) if product.name not in left]).items())
    for source, readers in reported(step, grouped, report):
        _quantize_products(model, source, readers, ranges[str(source.name)], levels)
    _quantize_tables(model)
    tidy(model)
    return model


def noise(product: Product, activations: np.ndarray, chosen: Range, levels: int = WEIGHT_LEVELS) -> float:
    """The mean squared error of the int8 product over its variance, both over the sampled `activations`, float32[rows, inputs]."""
    exact = activations @ product.weights
    folded = product.weights if chosen.smoothing is None else product.weights / chosen.smoothing[:, None]
    weights, scales = quantize_weights(folded, levels)
    found = (chosen.quantize(activations) - chosen.zero_point) * chosen.scale @ (weights * scales)
    return float(np.square(found - exact).mean()) / max(float(exact.var(axis=0).mean()), TINY)


def quantize_weights(weights: np.ndarray, levels: int = WEIGHT_LEVELS) -> tuple[np.ndarray, np.ndarray]:
    """int8[inputs, outputs] of magnitude at most `levels`, and float32[outputs]: symmetric, with one scale per column."""
    scales = at_least_tiny(np.abs(weights).max(axis=0) / levels)
    return np.rint(weights / scales).astype(np.int8), scales


def at_least_tiny(array: np.ndarray) -> np.ndarray:
    """Its values, float32, none so small that a division by it overflows."""
    return np.asarray(np.maximum(array, 1e-8), np.float32)


def by_source(found: Sequence[Product]) -> dict[ir.Value, list[Product]]:
    """The products that read each source."""
    grouped: dict[ir.Value, list[Product]] = {}
    for product in found:
        grouped.setdefault(product.source, []).append(product)
    return grouped


def _quantize_products(model: ir.Model, source: ir.Value, readers: Sequence[Product], chosen: Range, levels: int) -> None:
    """Quantizes `source` once for all its products; a bias added after a product is merged into it."""
    first = min((product.node for product in readers), key=list(model.graph).index)
    name = source.name
    scale = constant(model, f"{name}_scale", np.array(chosen.scale, np.float32))
    zero_point = constant(model, f"{name}_zero_point", np.array(chosen.zero_point, np.uint8))
    activation = source
    if chosen.smoothing is not None:
        activation = insert(
            model, first, "Mul", [source, constant(model, f"{name}_smoothing", chosen.smoothing)], f"{name}_smoothed"
        )
    activation = insert(model, first, "QuantizeLinear", [activation, scale, zero_point], f"{name}_levels")
    for product in readers:
        folded = product.weights if chosen.smoothing is None else product.weights / chosen.smoothing[:, None]
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
        done = out if bias is None else bias[0]
        new = insert(model, product.node, "MatMulIntegerToFloat", inputs, f"{out.name}_int8", domain=CONTRIB)
        replace(done, new)


def _bias_of(product: ir.Value) -> tuple[ir.Value, ir.Value] | None:
    """If a product is read only to add a constant vector: that sum, and the vector."""
    uses = list(product.uses())
    if len(uses) != 1 or uses[0].node.op_type != "Add" or product.is_graph_output():
        return None
    other = uses[0].node.inputs[1 - uses[0].idx]
    bias = array_of(other)
    return (uses[0].node.outputs[0], other) if other is not None and bias is not None and bias.ndim == 1 else None


def _quantize_tables(model: ir.Model) -> None:
    """Gather from a large float32 table becomes Gather from int8 rows, times Gather from one scale per row."""
    for node in [node for node in model.graph if node.op_type == "Gather"]:
        table = array_of(node.inputs[0])
        if table is None or table.ndim != 2 or table.dtype != np.float32 or len(table) < 2 * SMALLEST_SIDE:
            continue
        if node.attributes.get_int("axis", default=0) != 0:
            continue
        out, ids = node.outputs[0], node.inputs[1]
        scales, levels = _quantize_rows(table)
        rows = constant(model, f"{out.name}_rows", levels)
        picked = insert(model, node, "Gather", [rows, ids], f"{out.name}_levels")
        picked_scales = insert(model, node, "Gather", [constant(model, f"{out.name}_scales", scales), ids], f"{out.name}_scale")
        lifted = insert(model, node, "Cast", [picked], f"{out.name}_float", {"to": int(ir.DataType.FLOAT)})
        replace(out, insert(model, node, "Mul", [lifted, picked_scales], f"{out.name}_row"))


def _quantize_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32[rows, 1] and int8[rows, size]: one scale per row."""
    scales, levels = np.empty((len(table), 1), np.float32), np.empty(table.shape, np.int8)
    for start in range(0, len(table), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        scales[part] = at_least_tiny(np.abs(table[part]).max(axis=1, keepdims=True) / TABLE_LEVELS)
        levels[part] = np.rint(table[part] / scales[part])
    return scales, levels
