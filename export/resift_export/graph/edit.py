"""Basic operations for editing ONNX graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from resift.artifact.external_weights import SMALLEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

CONTRIB = "com.microsoft"
"""Domain of onnxruntime's own operators."""
BIAS_INPUT = 5
"""Index of the input of a MultiHeadAttention that is added to its attention scores."""
KEY_MASK_INPUT = 4
"""Index of the input of a MultiHeadAttention with the lengths of the keys."""
LOW_OPSET = 20
"""The first opset with Gelu. Between it and 23 the operators used here only gained data types, so their meaning is the same."""
OLDEST_ONNXRUNTIME = "1.20.0"
"""The oldest version with which artifacts were tested."""
OLDEST_FOR_BIAS = "1.22.0"
"""The first version observed to add a MultiHeadAttention's bias that all heads share; 1.20 and 1.21 compute other logits."""
OLDEST_FOR_ATTENTION = "1.24.1"
"""The oldest version observed to run graphs newer than LOW_OPSET, which keep the Attention operator."""
SMALLEST_WEIGHTS = SMALLEST
"""Tensors of fewer bytes stay in the graph's file in any case, as in the engine."""


def lower_opset(model: ir.Model) -> ir.Model:
    """Declares LOW_OPSET, which older versions of onnxruntime can read, unless a node needs a newer opset."""
    traced_opset = model.opset_imports[""]
    if traced_opset <= LOW_OPSET:
        return model
    model.opset_imports[""] = LOW_OPSET
    try:
        onnx.checker.check_model(ir.to_proto(_without_weights(model)))
    except onnx.checker.ValidationError:
        model.opset_imports[""] = traced_opset
    return model


def oldest_onnxruntime(model: ir.Model) -> str:
    """The oldest version of onnxruntime that computes what the model says."""
    if model.opset_imports[""] > LOW_OPSET:
        return OLDEST_FOR_ATTENTION
    attention = (node for node in model.graph if (node.domain, node.op_type) == (CONTRIB, "MultiHeadAttention"))
    has_bias = any(len(node.inputs) > BIAS_INPUT and node.inputs[BIAS_INPUT] is not None for node in attention)
    return OLDEST_FOR_BIAS if has_bias else OLDEST_ONNXRUNTIME


def _without_weights(model: ir.Model) -> ir.Model:
    """A clone that reads its weights as inputs: a protobuf message cannot hold 2 GB of them."""
    bare = model.clone()
    for value in list(bare.graph.initializers.values()):
        if value.const_value is not None and value.const_value.nbytes >= SMALLEST_WEIGHTS:
            value.const_value = None
            del bare.graph.initializers[str(value.name)]
            bare.graph.inputs.append(value)
    return bare


def serialize(model: ir.Model) -> bytes:
    """The content of the model's ONNX file, without weights that are in a file of their own."""
    content: bytes = ir.to_proto(model).SerializeToString()
    return content


def tidy(model: ir.Model) -> None:
    """Sorts nodes, merges equal ones, and removes unused ones, unused opsets and the tracer's metadata."""
    model.graph.sort()
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    common.ClearMetadataAndDocStringPass()(model)
    for value in model.graph.initializers.values():
        value.metadata_props.clear()


def constant(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    """Adds a named constant to the graph and returns its value."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def insert(  # noqa: PLR0913 - a node has a position, type, inputs, output and attributes
    model: ir.Model,
    before: ir.Node,
    op_type: str,
    inputs: Iterable[ir.Value | None],
    output: str,
    attributes: Mapping[str, int | float | str | Sequence[int]] | None = None,
    domain: str = "",
) -> ir.Value:
    """Inserts a node with one output ahead of `before` and returns that output."""
    node = ir.node(op_type, list(inputs), attributes=attributes, domain=domain)
    node.outputs[0].name = output
    model.graph.insert_before(before, node)
    if domain:
        model.graph.opset_imports.setdefault(domain, 1)
    return node.outputs[0]


class Additions:
    """Nodes and constants that an edit adds to the graph, each once, ahead of all other nodes; their names begin with a prefix."""

    def __init__(self, model: ir.Model, prefix: str) -> None:
        self.model = model
        self._prefix, self._first = prefix, next(iter(model.graph))
        self._added: dict[str, ir.Value] = {}

    def op(
        self,
        name: str,
        op_type: str,
        inputs: Sequence[ir.Value],
        attributes: Mapping[str, int | float] | None = None,
    ) -> ir.Value:
        """The output of a node, which is added unless there is one of that name."""
        name = f"{self._prefix}_{name}"
        if name not in self._added:
            self._added[name] = insert(self.model, self._first, op_type, inputs, name, attributes)
        return self._added[name]

    def constant(self, array: np.ndarray) -> ir.Value:
        """A constant."""
        name = f"{self._prefix}_{array.dtype}_{array.tolist()}"
        return self.model.graph.initializers.get(name) or constant(self.model, name, array)

    def integers(self, *values: int) -> ir.Value:
        """int64[n]."""
        return self.constant(np.array(values))


def replace(old: ir.Value, new: ir.Value) -> None:
    """Replaces `old` by `new` wherever it is read, including the graph's outputs."""
    new.shape, new.type = new.shape or old.shape, new.type or old.type
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def array_of(value: ir.Value | None) -> np.ndarray | None:
    """The constant value, or None if it is not constant."""
    return None if value is None or value.const_value is None else value.const_value.numpy()
