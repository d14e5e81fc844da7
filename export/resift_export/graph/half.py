"""half: a float32 graph in float16, except where that costs accuracy.

What depends on the embeddings of tokens is computed in float16. The rest stays in float32:

- the head, which is everything after the tokens of a row have become one vector: it has one row per pair, so that it costs nothing;
- softmax and the sums of normalization; LayerNormalization itself computes in float32 what it reads and writes in float16;
- what depends on positions only, such as rotary angles, of which float16 could not tell the larger ones apart.

MultiHeadAttention has no float16 products before its softmax on a GPU: its kernel sums them in float32.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from resift_export.graph.attention import HIDING_VALUE
from resift_export.graph.edit import array_of, constant, tidy

COMPUTED = frozenset(
    {"Add", "Attention", "Div", "Erf", "Gelu", "LayerNormalization", "MatMul", "Mul", "MultiHeadAttention", "Neg", "Relu"}
    | {"Sigmoid", "Tanh"}
)
"""Operators that compute in float16 if one of their inputs is in float16."""
MOVED = frozenset(
    {"Concat", "Dropout", "Expand", "Flatten", "Gather", "GatherElements", "Identity", "Pad", "Reshape", "ScatterND", "Slice"}
    | {"Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"}
)
"""Operators that only move numbers: their output has the type of their inputs."""
WHOLE = frozenset({"And", "Equal", "Greater", "GreaterOrEqual", "IsNaN", "Less", "LessOrEqual", "Not", "Or", "Shape", "Size"})
"""Operators whose output is no floating-point number, whatever they read."""
POOLING = frozenset({"Attention", "Gather", "MultiHeadAttention", "ReduceMax", "ReduceMean", "ReduceSum", "Softmax"})
"""Operators that read several tokens, or one of several: on the way back from the logits, the first of them ends the head."""
NARROWEST = 16
"""Columns of the narrowest table, and rows and columns of the smallest matrix, whose numbers become float16."""
FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def to_float16(model: ir.Model) -> ir.Model:
    """Converts the graph in place and returns it: its inputs and its logits keep their types."""
    model.graph.sort()
    _Conversion(model).run()
    tidy(model)
    return model


class _Conversion:
    """One pass over the nodes, in their order, that knows the type of every number computed so far."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._types: dict[ir.Value, ir.DataType] = {}
        """of floating-point values, the type that they have now; other values are not in it"""
        self._converted: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self._head = _head(model)

    def run(self) -> None:
        """Converts every node."""
        for value in list(self._model.graph.initializers.values()):
            if value.const_value is not None and value.const_value.dtype == FLOAT:
                _bound(value)
                self._types[value] = FLOAT
        for node in list(self._model.graph):
            self._convert(node)
        for output in self._model.graph.outputs:
            assert self._types.get(output) == FLOAT, "the head is in float32"

    def _convert(self, node: ir.Node) -> None:
        if node.op_type == "Cast":
            to = ir.DataType(node.attributes.get_int("to", default=0))
            if to in (FLOAT, HALF):
                self._types[node.outputs[0]] = to
            return
        if node.op_type in ("Constant", "ConstantOfShape"):
            tensor = node.attributes.get_tensor("value", None)
            if tensor is not None and tensor.dtype == FLOAT:
                self._types[node.outputs[0]] = FLOAT
            return
        numbers = [index for index, value in enumerate(node.inputs) if value is not None and value in self._types]
        if not numbers or node.op_type in WHOLE:
            self._read(node, numbers, FLOAT)
            return
        kind = HALF if self._is_half(node, numbers) else FLOAT
        self._read(node, numbers, kind)
        for value in node.outputs:
            self._types[value] = kind
            value.type = ir.TensorType(kind)

    def _is_half(self, node: ir.Node, numbers: list[int]) -> bool:
        if node in self._head:
            return False
        if node.op_type == "Gather" and self._is_table(node):
            return True
        if node.op_type not in COMPUTED | MOVED:
            return False
        if any(self._types[value] == HALF for index in numbers if (value := node.inputs[index]) is not None):
            return True
        return node.op_type == "MatMul" and self._is_product(node)

    def _is_table(self, node: ir.Node) -> bool:
        """Whether the node looks rows up in a table of vectors, such as the embeddings of tokens, segments or positions."""
        sides = _sides(node.inputs[0])
        return len(sides) == 2 and sides[1] >= NARROWEST and array_of(node.inputs[1]) is None

    def _is_product(self, node: ir.Node) -> bool:
        """Whether the node multiplies activations, which normalization may have left in float32, by a matrix of weights."""
        sides = _sides(node.inputs[1])
        return len(sides) == 2 and min(sides) >= NARROWEST

    def _read(self, node: ir.Node, numbers: list[int], kind: ir.DataType) -> None:
        """Lets the node read its inputs of those indices as `kind`."""
        for index in numbers:
            value = node.inputs[index]
            assert value is not None
            if self._types[value] != kind:
                node.replace_input_with(index, self._as(value, kind))

    def _as(self, value: ir.Value, kind: ir.DataType) -> ir.Value:
        """The value as `kind`: a converted constant, or a Cast."""
        key = value, kind
        if key not in self._converted:
            name = f"{value.name}_{kind.name.lower()}"
            array = array_of(value)
            if array is not None:
                converted = constant(self._model, name, array.astype(np.float16 if kind == HALF else np.float32))
            else:
                producer = value.producer()
                assert producer is not None
                cast = ir.node("Cast", [value], attributes={"to": int(kind)})
                self._model.graph.insert_after(producer, cast)
                converted = cast.outputs[0]
                converted.name, converted.shape, converted.type = name, value.shape, ir.TensorType(kind)
            self._types[converted] = kind
            self._converted[key] = converted
        return self._converted[key]


def _sides(value: ir.Value | None) -> tuple[int, ...]:
    """The sizes of a constant; none of any other value."""
    array = array_of(value)
    return () if array is None else array.shape


def _head(model: ir.Model) -> set[ir.Node]:
    """The nodes between the pooling of the tokens and the logits, and the one that outputs the logits."""
    head: set[ir.Node] = set()
    pending = [node for value in model.graph.outputs if (node := value.producer()) is not None]
    while pending:
        node = pending.pop()
        head.add(node)
        sources = (value.producer() for value in node.inputs if value is not None)
        pending += [each for each in sources if each is not None and each not in head and each.op_type not in POOLING]
    return head


def _bound(value: ir.Value) -> None:
    """Replaces what hides a key, such as the lowest float32 or -inf, by a number that float16 has."""
    tensor = value.const_value
    assert tensor is not None
    if tensor.size == 1 and float(tensor.numpy().reshape(())) < HIDING_VALUE:
        value.const_value = ir.tensor(np.full(tensor.shape.numpy(), HIDING_VALUE, np.float32), name=value.name)
