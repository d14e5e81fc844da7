"""The matrix products of a graph that are worth quantizing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from resift_export.graph.edit import array_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import onnx_ir as ir

SMALLEST_SIDE = 16
"""A product whose weights have fewer rows or columns (such as the last one, with one column per label) stays in float32."""


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


def by_source(selected: Sequence[Product]) -> dict[ir.Value, list[Product]]:
    """The products that read each source."""
    by_value: dict[ir.Value, list[Product]] = {}
    for product in selected:
        by_value.setdefault(product.source, []).append(product)
    return by_value
