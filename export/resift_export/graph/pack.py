"""pack: a masked graph that computes tokens only, and no padding.

Between the embeddings and the head, the tokens of all rows stand one after the other, [1, tokens, size] in place of
[b, width, size], wherever each token is computed from itself alone: in products with weights, normalization and activations. What
reads several tokens of a row, such as rotary embedding, local attention or the head, reads restored rows [b, width, size], in which
padding is a copy of the row's last token; no result depends on it, as the graph is masked. All of this is done by operators of
ONNX, which the CPU has, too:

    mask, by rows       1 1 0 0   1 1 1 1   1 0 0 0
    tokens              0 1 4 5 6 7 8                 where the mask is 1: the place of each packed token
    ends                0 2 6 7                       the running sum of the rows' lengths
    positions           0 1 1 1   2 3 4 5   6 6 6 6   the packed token of each place

Attention in which all tokens of a row read each other is PackedMultiHeadAttention of com.microsoft, which only CUDA has:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.PackedMultiHeadAttention
On the CPU, the same graph with `fuses` off shows what it computes: there, attention reads restored rows as in the masked graph.

RemovePadding and RestorePadding of com.microsoft are not used: RemovePadding finds the tokens in one thread of the GPU, for every
place of the batch in turn (onnxruntime/contrib_ops/cuda/bert/bert_padding.cu), and no CPU has either of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from resift.artifact.signature import MASK
from resift.errors import ExportError
from resift_export.graph.edit import CONTRIB, KEY_MASK_INPUT, Additions, array_of, insert, replace, tidy
from resift_export.graph.optimize import ROWWISE

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

PACKED_ATTENTION = "PackedMultiHeadAttention"
TOKENS = "tokens"
"""The name of the dimension of packed tokens."""
TOKEN_AXIS, LAST_AXIS = 1, 2
HEADS_BIAS_INPUT = 3
"""Index of the input of a MultiHeadAttention that is added to queries, keys and values."""


def pack(model: ir.Model, *, fuses: bool) -> ir.Model:
    """Packs the tokens of a masked graph, in float16 or float32, in place, and returns it.

    `fuses`: whether PackedMultiHeadAttention computes attention. Raises ExportError if no layer can be packed.
    """
    model.graph.sort()
    region = _region(model, fuses=fuses)
    if not region:
        raise ExportError("no product with weights was found whose rows can be packed; leave --packed out")
    packed = list(dict.fromkeys(value for node in region for value in node.outputs))
    packing = _Packing(model)
    for node in region:
        for index, value in enumerate(node.inputs):
            if value is not None and value.producer() not in region and _is_of_rows(value, model):
                node.replace_input_with(index, packing.pack(value))
    for value in packed:
        _restore_readers(value, region, packing)
    for value in packed:
        value.shape = ir.Shape([1, TOKENS, _size(value)])
    for node in [node for node in region if node.op_type == "MultiHeadAttention"]:
        _fuse(model, node, packing)
    tidy(model)
    return model


def _region(model: ir.Model, *, fuses: bool) -> dict[ir.Node, None]:
    """The nodes that compute packed tokens, in their order: from the first product with weights on, as far as they can."""
    region: dict[ir.Node, None] = {}
    reached: set[ir.Value] = set()
    for node in model.graph:
        if node.op_type == "MultiHeadAttention":
            is_in = fuses and _reads_whole_rows(node) and reached.issuperset(node.inputs[:3])
        else:
            is_in = _is_tokenwise(node, model) and (node.op_type == "MatMul" or not reached.isdisjoint(node.inputs))
        if is_in:
            region[node] = None
            reached.update(node.outputs)
    return region


def _is_of_rows(value: ir.Value | None, model: ir.Model) -> bool:
    """Whether the value has a vector for every place of the batch: its shape is [b, width, size]."""
    places = model.graph.inputs[0].shape
    if value is None or value.shape is None or places is None or value.const_value is not None:
        return False
    shape, known = tuple(value.shape), all(isinstance(side, int) or side.value is not None for side in places)
    return known and len(shape) == LAST_AXIS + 1 and shape[:LAST_AXIS] == tuple(places) and isinstance(shape[LAST_AXIS], int)


def _is_tokenwise(node: ir.Node, model: ir.Model) -> bool:
    """Whether the node reads and returns vectors of tokens and computes each of them from those of the same token."""
    if not node.inputs or not all(_is_of_rows(value, model) for value in node.outputs):
        return False
    first, *others = node.inputs
    match node.op_type:
        case "MatMul":
            weights = array_of(others[0])
            return _is_of_rows(first, model) and weights is not None and weights.ndim == 2
        case "Split":
            return _is_of_rows(first, model) and node.attributes.get_int("axis", default=0) in (-1, LAST_AXIS)
        case "Slice":
            axes = array_of(others[2]) if len(others) > 2 else None
            return _is_of_rows(first, model) and axes is not None and axes.tolist() in ([-1], [LAST_AXIS])
        case "LayerNormalization" if node.attributes.get_int("axis", default=-1) not in (-1, LAST_AXIS):
            return False
    return node.op_type in ROWWISE and all(value is None or _is_of_rows(value, model) or _is_vector(value) for value in node.inputs)


def _is_vector(value: ir.Value) -> bool:
    """Whether the value is a constant that is the same for every token."""
    array = array_of(value)
    return array is not None and array.ndim <= LAST_AXIS + 1 and set(array.shape[:-1]) <= {1}


def _reads_whole_rows(node: ir.Node) -> bool:
    """Whether a MultiHeadAttention reads all tokens of each row, as the lengths of its keys say, and nothing else."""
    values = dict(enumerate(node.inputs))
    others = (value for index, value in values.items() if index > KEY_MASK_INPUT or index == HEADS_BIAS_INPUT)
    return values.get(KEY_MASK_INPUT) is not None and all(value is None for value in others)


def _size(value: ir.Value) -> int:
    assert value.shape is not None
    size = value.shape[-1]
    assert isinstance(size, int)
    return size


def _restore_readers(value: ir.Value, region: Container[ir.Node], packing: _Packing) -> None:
    """Lets nodes outside the region read rows of the packed value: all their tokens, or those that they select."""
    for node, index in [(use.node, use.idx) for use in value.uses() if use.node not in region]:
        places = array_of(node.inputs[1]) if node.op_type == "Gather" and index == 0 else None
        selects = places is not None and places.ndim < LAST_AXIS and bool((places >= 0).all())
        if selects and node.attributes.get_int("axis", default=0) == TOKEN_AXIS:
            replace(node.outputs[0], packing.restore(value, node.inputs[1]))
        else:
            node.replace_input_with(index, packing.restore(value))


def _fuse(model: ir.Model, node: ir.Node, packing: _Packing) -> None:
    """Replaces a MultiHeadAttention, whose inputs and output are packed, by PackedMultiHeadAttention."""
    output = node.outputs[0]
    name = f"{output.name}_packed"
    inputs = [packing.flat(value) for value in node.inputs[:3] if value is not None]
    attributes = {"num_heads": node.attributes.get_int("num_heads"), "scale": node.attributes.get_float("scale")}
    fused = insert(model, node, PACKED_ATTENTION, [*inputs, None, packing.offsets(), packing.ends()], name, attributes, CONTRIB)
    fused.shape, fused.type = ir.Shape([TOKENS, _size(output)]), output.type
    replace(output, insert(model, node, "Unsqueeze", [fused, packing.integers(0)], f"{name}_rows"))


class _Packing(Additions):
    """The places of packed tokens, computed once in the graph, and what is moved by them, each value once."""

    def __init__(self, model: ir.Model) -> None:
        super().__init__(model, "packed")
        self._mask = next(value for value in model.graph.inputs if value.name == MASK)
        self._moved: dict[tuple[ir.Value, str], ir.Value] = {}

    def pack(self, value: ir.Value) -> ir.Value:
        """[1, tokens, size]: the tokens of [b, width, size]."""
        shape = (1, -1, _size(value))
        joined = self._move(value, "joined", "Reshape", value, self.integers(*shape))
        return self._move(value, "packed", "Gather", joined, self._tokens(), axis=TOKEN_AXIS)

    def restore(self, value: ir.Value, selected: ir.Value | None = None) -> ir.Value:
        """[b, width, size], or [b, size] or [b, n, size] at the `selected` positions of each row: from [1, tokens, size]."""
        positions, kind = self._positions(), "restored"
        if selected is not None:
            kind = f"selected_{selected.name}"
            positions = self._at(selected)
        gathered = self._move(value, f"{kind}_rows", "Gather", value, positions, axis=TOKEN_AXIS)
        restored = self._move(value, kind, "Squeeze", gathered, self.integers(0))
        if selected is None:
            restored.shape = value.shape
        return restored

    def flat(self, value: ir.Value) -> ir.Value:
        """[tokens, size] from [1, tokens, size]."""
        return self._move(value, "flat", "Squeeze", value, self.integers(0))

    def offsets(self) -> ir.Value:
        """int32[b, width]: the places of all tokens, then those of the padding, as PackedMultiHeadAttention reads them."""
        is_padding = self.op("is_padding", "Not", [self._is_token()])
        padding = self.op("padding", "Reshape", [self.op("padding_places", "NonZero", [is_padding]), self.integers(-1)])
        joined = self.op("all_places", "Concat", [self._tokens(), padding], {"axis": 0})
        narrow = self.op("all_places_narrow", "Cast", [joined], {"to": int(ir.DataType.INT32)})
        return self.op("offsets", "Reshape", [narrow, self._shape()])

    def ends(self) -> ir.Value:
        """int32[b + 1]: 0, then the number of tokens up to the end of each row."""
        joined = self.op("ends_wide", "Concat", [self.integers(0), self._ends_of_rows()], {"axis": 0})
        return self.op("ends", "Cast", [joined], {"to": int(ir.DataType.INT32)})

    def _is_token(self) -> ir.Value:
        """bool[b * width]."""
        flat = self.op("places", "Reshape", [self._mask, self.integers(-1)])
        return self.op("is_token", "Cast", [flat], {"to": int(ir.DataType.BOOL)})

    def _tokens(self) -> ir.Value:
        """int64[tokens]: the place of each token among all b * width."""
        return self.op("token_places", "Reshape", [self.op("nonzero", "NonZero", [self._is_token()]), self.integers(-1)])

    def _positions(self) -> ir.Value:
        """int64[b, width]: the packed token of each place; of padding, the last one of its row."""
        zero, one = (self.constant(np.array(number)) for number in (0, 1))
        width = self.op("width", "Gather", [self._shape(), one])
        within = self.op("numbers", "Range", [zero, width, one])
        ends, lengths = (
            self.op(f"{name}_column", "Unsqueeze", [value, self.integers(1)])
            for name, value in (("ends", self._ends_of_rows()), ("lengths", self._lengths()))
        )
        last = self.op("last", "Sub", [lengths, one])
        starts = self.op("starts", "Sub", [ends, lengths])
        return self.op("positions", "Add", [starts, self.op("numbers_in_rows", "Min", [within, last])])

    def _lengths(self) -> ir.Value:
        """int64[b]."""
        return self.op("lengths", "ReduceSum", [self._mask, self.integers(1)], {"keepdims": 0})

    def _ends_of_rows(self) -> ir.Value:
        """int64[b]: the number of tokens up to the end of each row."""
        return self.op("ends_of_rows", "CumSum", [self._lengths(), self.constant(np.array(0))])

    def _at(self, selected: ir.Value) -> ir.Value:
        """int64[b] or int64[b, n]: the packed tokens at the selected positions of each row."""
        return self.op(f"positions_{selected.name}", "Gather", [self._positions(), selected], {"axis": TOKEN_AXIS})

    def _shape(self) -> ir.Value:
        return self.op("shape", "Shape", [self._mask])

    def _move(self, key: ir.Value, name: str, op_type: str, *inputs: ir.Value, axis: int | None = None) -> ir.Value:
        """The output of a node that moves the numbers of `key`, which is added after it unless it is there."""
        if (key, name) not in self._moved:
            producer = key.producer()
            assert producer is not None
            attributes = {} if axis is None else {"axis": axis}
            moved = insert(self.model, producer, op_type, inputs, f"{key.name}_{name}", attributes)
            moved.type = key.type
            self._moved[key, name] = moved
        return self._moved[key, name]


def packed_attentions(model: ir.Model) -> Iterator[ir.Node]:
    """The nodes of the graph that compute attention over packed tokens."""
    return (node for node in model.graph if (node.domain, node.op_type) == (CONTRIB, PACKED_ATTENTION))
