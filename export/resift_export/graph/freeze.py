"""freeze: rewrites a graph so that its last layers no longer update the document's tokens.

    tokens          0 ........ updated | updated ............ width
    layers before         updated      |       updated
    frozen layers         updated      |  keys and values from one state, the last before them, by a linear map a layer

In a frozen layer, the tokens that are still updated read the keys and values of all tokens. How many tokens at the beginning of a
row are updated, at least [CLS], the query and its separator, is an input of the graph, the same for all rows of a batch. With as
many as the width, the graph computes what it did before.

Works on float32 and on int8 graphs: a map is computed at the precision of the keys of the first frozen layer, from the same
quantized state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np
import onnx_ir as ir

from resift.artifact.signature import UPDATED
from resift.errors import ExportError
from resift_export.graph.edit import CONTRIB, array_of, constant, insert, tidy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Quantize = Callable[[NDArray[np.float32]], tuple[NDArray[np.int8], NDArray[np.float32]]]

QUERY, KEY, VALUE = 0, 1, 2
"""Inputs of MultiHeadAttention."""
PRODUCTS = frozenset({"MatMul", "MatMulIntegerToFloat"})
ROWWISE = PRODUCTS | {
    *("Add", "Sub", "Mul", "Div", "Gelu", "Tanh", "Relu", "Erf", "Sigmoid", "Softplus", "Pow", "Sqrt", "Cast"),
    *("LayerNormalization", "QuantizeLinear", "DequantizeLinear"),
}
"""Operators whose output at a token depends only on their inputs at that token; their other inputs are constant."""
END = np.iinfo(np.int64).max
DOCUMENT = "_document"
"""What the frozen part of a value gets in its name."""


class DocumentMap(NamedTuple):
    """A linear map from the frozen state of a document's token, as products read it, to its keys, or values, in one layer."""

    weights: NDArray[np.float32]
    """float32[inputs, outputs]"""
    bias: NDArray[np.float32]
    """float32[outputs]"""


class LayerMaps(NamedTuple):
    """The maps of one frozen layer."""

    keys: DocumentMap
    values: DocumentMap


class Attentions:
    """The attention of each layer of a graph, in their order."""

    def __init__(self, model: ir.Model, what: str) -> None:
        """`what` names the model in messages. Raises ExportError if its layers cannot be frozen."""
        self._what = what
        model.graph.sort()
        self.nodes = [node for node in model.graph if node.op_type == "MultiHeadAttention"]
        if any(node.op_type in ("Attention", "Softmax") for node in model.graph):
            self.refuse("its attention adds to its scores by position")
        if any(value is not None for node in self.nodes for value in node.inputs[3:]):
            self.refuse("in some layers a token sees only those near it")

    def refuse(self, reason: str) -> NoReturn:
        """Raises ExportError."""
        raise ExportError(f"the documents of {self._what} cannot be frozen: {reason}; leave --freeze out")

    def first_frozen(self, layers: int) -> ir.Node:
        """The attention of the first of that many last layers. Raises ExportError if there is no layer before it."""
        if not 0 < layers < len(self.nodes):
            self.refuse(f"it has {len(self.nodes)} layers, and {layers} are too many")
        return self.nodes[-layers]

    def projection(self, layers: int) -> ir.Node:
        """The product that gives the keys of the first of that many last layers. Raises ExportError if they are not linear."""
        product = product_of(self.first_frozen(layers).inputs[KEY])
        if product is None:
            self.refuse("its keys are more than a linear map of a token's state")
        return product


def product_of(value: ir.Value | None) -> ir.Node | None:
    """The product with constant weights that gives a value, perhaps with a bias; None if the value comes about in another way."""
    producer = None if value is None else value.producer()
    if producer is not None and producer.op_type == "Add":
        producer = next((each.producer() for each in producer.inputs if each is not None and array_of(each) is None), None)
    is_product = producer is not None and producer.op_type in PRODUCTS and array_of(producer.inputs[1]) is not None
    return producer if is_product else None


def freeze(model: ir.Model, maps: Sequence[LayerMaps], what: str, quantize: Quantize | None = None) -> ir.Model:
    """A copy of the graph whose last layers, one more than there are `maps`, update the first tokens of a row only.

    The first of them reads keys and values of the frozen state as they are; `maps` are those of the others. `what` names the model
    in messages. `quantize`: of an int8 graph, gives the levels and the scales of a map's matrix. The copy has the further input
    UPDATED, int64[1]. Raises ExportError if the layers cannot be frozen.
    """
    frozen = model.clone()
    rewrite = _Rewrite(frozen, Attentions(frozen, what), len(maps) + 1, quantize)
    rewrite.update_first_tokens()
    rewrite.add_documents(maps)
    tidy(frozen)
    for value in (value for node in frozen.graph for value in node.outputs if not value.is_graph_output()):
        value.type = value.shape = None  # onnxruntime infers them; those of fewer tokens differ
    return frozen


class _Rewrite:
    """A graph that is being frozen."""

    def __init__(self, model: ir.Model, attentions: Attentions, layers: int, quantize: Quantize | None) -> None:
        self._model, self._attentions, self._quantize = model, attentions, quantize
        self._first = attentions.first_frozen(layers)
        self._projection = attentions.projection(layers)
        self._updated = ir.Value(name=UPDATED, shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64))
        model.graph.inputs.append(self._updated)
        self._start = constant(model, "frozen_start", np.zeros(1, np.int64))
        self._end = constant(model, "frozen_end", np.array([END]))
        self._axis = constant(model, "frozen_axis", np.ones(1, np.int64))

    def update_first_tokens(self) -> None:
        """Leaves only the updated tokens in the queries of the first frozen layer and in all that follows from them."""
        nodes = list(self._model.graph)
        self._narrow_queries()
        narrow = set(self._first.outputs)
        for node in nodes:
            if not any(value in narrow for value in node.inputs):
                continue
            if node.op_type in ROWWISE:
                for index, value in enumerate(node.inputs):
                    if value is not None and value not in narrow and array_of(value) is None:
                        node.replace_input_with(index, self._first_tokens(node, value))
                narrow.update(node.outputs)
            elif node.op_type == "MultiHeadAttention":
                narrow.update(node.outputs if node.inputs[QUERY] in narrow else ())
            elif not _selects_first_token(node):
                self._attentions.refuse(f"its head reads other tokens than the first (by {node.op_type})")

    def add_documents(self, maps: Sequence[LayerMaps]) -> None:
        """Adds the keys and values of the document's tokens to those of the updated ones, in the last layers."""
        source = self._projection.inputs[0]
        assert source is not None
        rest = insert(
            self._model, self._projection, "Slice", [source, self._updated, self._end, self._axis], f"{source.name}{DOCUMENT}"
        )
        for node, layer in zip(self._attentions.nodes[-len(maps) :] if maps else (), maps, strict=True):
            for index, linear in ((KEY, layer.keys), (VALUE, layer.values)):
                own = node.inputs[index]
                assert own is not None
                document = self._map(node, rest, linear, f"{own.name}{DOCUMENT}")
                joined = insert(self._model, node, "Concat", [own, document], f"{own.name}_all", {"axis": 1})
                node.replace_input_with(index, joined)

    def _narrow_queries(self) -> None:
        """Reduces the queries of the first frozen layer to the updated tokens, if possible before the product that gives them."""
        queries = self._first.inputs[QUERY]
        product = product_of(queries)
        node, index = (self._first, QUERY) if product is None or len(list(product.outputs[0].uses())) > 1 else (product, 0)
        source = node.inputs[index]
        assert source is not None
        node.replace_input_with(index, self._first_tokens(node, source))

    def _first_tokens(self, before: ir.Node, value: ir.Value) -> ir.Value:
        """The updated tokens of a value [b, width, size]."""
        return insert(self._model, before, "Slice", [value, self._start, self._updated, self._axis], f"{value.name}_updated")

    def _map(self, before: ir.Node, state: ir.Value, linear: DocumentMap, name: str) -> ir.Value:
        """What the map gives for a state, at the precision of the product whose state it is."""
        bias = constant(self._model, f"{name}_bias", linear.bias)
        if self._projection.op_type == "MatMul":
            weights = constant(self._model, f"{name}_weights", linear.weights)
            product = insert(self._model, before, "MatMul", [state, weights], f"{name}_product")
            return insert(self._model, before, "Add", [product, bias], name)
        assert self._quantize is not None
        levels, scales = self._quantize(linear.weights)
        matrix, steps = constant(self._model, f"{name}_weights", levels), constant(self._model, f"{name}_scales", scales)
        scale, zero_point = self._projection.inputs[2], self._projection.inputs[4]
        inputs = [state, matrix, scale, steps, zero_point, None, bias]
        return insert(self._model, before, "MatMulIntegerToFloat", inputs, name, domain=CONTRIB)


def _selects_first_token(node: ir.Node) -> bool:
    index = array_of(node.inputs[1]) if node.op_type == "Gather" else None
    return index is not None and index.size == 1 and int(index.reshape(())) == 0 and node.attributes.get_int("axis", default=0) == 1
