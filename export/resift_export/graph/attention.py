"""attention: converts traced attention to com.microsoft's MultiHeadAttention, without a mask wherever possible.

https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MultiHeadAttention

Without a mask, the operator does not store attention weights, so its memory grows with the width and not with its square. In local
attention, a token sees the tokens at most `reach` before and after it (two of three layers of ModernBERT). It is computed by the
same operator over blocks of tokens, so that memory grows with the width there too:

    tokens    0 ............................. width - 1
    queries   | size | size | size | size |              the last block may extend beyond the last token
    keys    | reach + size + reach |                     of the first block; keys beyond either end are masked
                   | reach + size + reach |              of the second block

A width below MIN_BLOCKS x reach is one block that reads itself: more blocks would read more keys than there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from resift_export.graph.edit import CONTRIB, constant, insert, replace
from resift_export.graph.probe import values_at_widths

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MIN_BLOCKS = 4
"""A block of `reach` tokens reads three times as many keys: with fewer than four blocks, full attention is cheaper."""
MASK_VALUE = -1e9
"""Value added before the softmax to the score of a key that is not visible. It is finite because queries beyond the end see no
key."""
HIDING_VALUE = -1e4
"""A mask that adds this value or less to a key's score hides the key: no model's scores differ by so much that it would count."""
UNLIMITED = -1
"""The reach of attention that sees every token."""
HEADS_FIRST = (0, 2, 1, 3)
"""The transposition between [b, width, heads, size] and [b, heads, width, size]."""


def optimize_attention(model: ir.Model, max_length: int) -> None:
    """Drops masks that have no effect at any width up to `max_length`, and fuses attention that is unmasked or local, in place."""
    attentions = [node for node in model.graph if node.op_type == "Attention"]
    masks = {node: node.inputs[3] if len(node.inputs) > 3 else None for node in attentions}
    reaches = {
        mask: reach_of(values_at_widths(model, mask, max_length)) for mask in dict.fromkeys(masks.values()) if mask is not None
    }
    blocks: dict[int, _Blocks] = {}
    for node, mask in masks.items():
        reach = UNLIMITED if mask is None else reaches[mask]
        if mask is not None and reach == UNLIMITED:
            node.replace_input_with(3, None)
        if reach is not None and (heads := _Heads.of(node)) is not None:
            if reach != UNLIMITED and reach not in blocks:
                blocks[reach] = _Blocks(model, reach)
            _fuse(model, node, heads, blocks.get(reach))


def reach_of(masks: Iterable[np.ndarray | None]) -> int | None:
    """The number of tokens before and after it that each token sees.

    `masks`: arrays [..., width, width] of several widths, the widest first. Returns UNLIMITED if each token sees all tokens at each
    of the widths, and None if the masks have another pattern or are not known.
    """
    reach: int | None = None
    for mask in masks:
        visible = None if mask is None else _visibility(mask)
        if visible is None:
            return None
        if reach is None:
            reach = UNLIMITED if visible.all() else int(np.count_nonzero(visible.reshape(-1, visible.shape[-1])[0])) - 1
        if not _reaches(visible, reach):
            return None
    return reach


def _visibility(mask: np.ndarray) -> np.ndarray | None:
    """The mask as bool of the same shape; None if it adds a value other than 0 that is above HIDING_VALUE to a score."""
    if mask.dtype == np.bool_:
        return mask
    visible: np.ndarray = mask == 0
    return visible if bool((visible | (mask <= HIDING_VALUE)).all()) else None


def _reaches(visible: np.ndarray, reach: int) -> bool:
    """Whether each token sees exactly the tokens at most `reach` before and after it. `visible`: bool[..., width, width]."""
    if reach == UNLIMITED:
        return bool(visible.all())
    width = visible.shape[-1]
    if reach == 0 or visible.ndim < 2 or visible.shape[-2] != width:
        return False
    positions = np.arange(width)
    rows = visible.reshape(-1, width, width)
    return all(bool((rows[:, position] == (np.abs(positions - position) <= reach)).all()) for position in range(width))


@dataclass(frozen=True)
class _Heads:
    """The heads of an attention node whose inputs and output can be [b, width, count * size]."""

    inputs: tuple[ir.Value, ir.Value, ir.Value]
    """queries, keys and values: float32[b, count, width, size]"""
    count: int
    size: int
    scale: float
    merge_node: ir.Node
    """the Reshape that outputs [b, width, count * size]"""

    @classmethod
    def of(cls, node: ir.Node) -> _Heads | None:
        """The heads of the node; None if the operator cannot replace it, or its output is not merged to that shape."""
        if any(value is not None for value in node.inputs[4:]) or node.attributes.get_int("is_causal", default=0) == 1:
            return None
        if node.attributes.get_float("softcap", 0.0):
            return None
        transpose = _single_reader(_after_reshapes(node.outputs[0]), "Transpose")
        merge_node = _single_reader(transpose.outputs[0], "Reshape") if transpose is not None else None
        query, key, value = node.inputs[:3]
        if (
            transpose is None
            or merge_node is None
            or not _is_heads_first(transpose)
            or query is None
            or key is None
            or value is None
        ):
            return None
        if query.shape is None:
            return None
        count, size = query.shape[1], query.shape[3]
        if not isinstance(count, int) or not isinstance(size, int):
            return None
        return cls((query, key, value), count, size, node.attributes.get_float("scale", float(size) ** -0.5), merge_node)


def _fuse(model: ir.Model, node: ir.Node, heads: _Heads, blocks: _Blocks | None) -> None:
    """Replaces the node and the transpositions around it by one operator, over `blocks` if its attention is local."""
    name = heads.merge_node.outputs[0].name
    channels = heads.count * heads.size
    sources = [_tokens_first(model, node, heads, value) for value in heads.inputs]
    inputs = sources if blocks is None else blocks.inputs(sources, channels)
    attributes = {"num_heads": heads.count, "scale": heads.scale}
    fused = insert(model, heads.merge_node, "MultiHeadAttention", inputs, f"{name}_heads", attributes, CONTRIB)
    replace(heads.merge_node.outputs[0], fused if blocks is None else blocks.join(fused, channels))


def _tokens_first(model: ir.Model, before: ir.Node, heads: _Heads, value: ir.Value) -> ir.Value:
    """`value`, [b, count, width, size], as [b, width, count * size]: the value that it was transposed from, if there is one."""
    transpose = value.producer()
    if transpose is not None and _is_heads_first(transpose) and transpose.inputs[0] is not None:
        split = transpose.inputs[0]
        reshape = split.producer()
        merged = reshape.inputs[0] if reshape is not None and reshape.op_type == "Reshape" else None
        if merged is not None and _is_merged(merged, heads):
            return merged
    else:
        split = insert(model, before, "Transpose", [value], f"{value.name}_apart", {"perm": HEADS_FIRST})
    shape = constant(model, f"{value.name}_merged_shape", np.array([0, 0, heads.count * heads.size]))
    return insert(model, before, "Reshape", [split, shape], f"{value.name}_merged")


def _is_merged(value: ir.Value, heads: _Heads) -> bool:
    """Whether the value is [b, width, count * size]; this is assumed if its shape is not known."""
    return value.shape is None or (len(value.shape) == 3 and value.shape[2] == heads.count * heads.size)


def _is_heads_first(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and tuple(node.attributes.get_ints("perm")) == HEADS_FIRST


def _after_reshapes(value: ir.Value) -> ir.Value:
    """The value after reshapes that do not change its shape: torch.onnx adds one after the attention of a single head."""
    while value.shape is not None and (reshape := _single_reader(value, "Reshape")) is not None:
        if reshape.outputs[0].shape != value.shape:
            break
        value = reshape.outputs[0]
    return value


def _single_reader(value: ir.Value, op_type: str) -> ir.Node | None:
    readers = [use.node for use in value.uses()]
    return readers[0] if len(readers) == 1 and readers[0].op_type == op_type else None


class _Blocks:
    """Blocks of tokens, computed once in the graph for all layers of the same reach."""

    def __init__(self, model: ir.Model, reach: int) -> None:
        self._model = model
        self._op = op = ir.tape.Tape(model.graph).op
        shape = op("Shape", [model.graph.inputs[0]])
        self._batch, self._width = op("Gather", [shape, self._int(0)]), op("Gather", [shape, self._int(1)])
        zero, one, far = self._int(0), self._int(1), self._int(reach)

        is_wide = op("GreaterOrEqual", [self._width, self._int(MIN_BLOCKS * reach)])
        count = op("Where", [is_wide, op("Div", [self._width, far]), one])
        self._size = op("Div", [op("Sub", [op("Add", [self._width, count]), one]), count])  # width / count, rounded up
        margin = op("Where", [is_wide, far, zero])
        self._window = op("Add", [self._size, op("Add", [margin, margin])])

        starts = op("Unsqueeze", [op("Mul", [op("Range", [zero, count, one]), self._size]), one])  # [count, 1]
        positions = op("Add", [starts, op("Range", [zero, self._size, one])])
        key_positions = op("Add", [starts, op("Sub", [op("Range", [zero, self._window, one]), margin])])
        last = op("Sub", [self._width, one])
        self._queries = op("Min", [positions, last])
        """int64[count, size]: positions of each block's tokens, at most the last position"""
        self._keys = op("Max", [op("Min", [key_positions, last]), zero])
        """int64[count, window]: positions of the keys that each block reads, between the first position and the last"""

        distance = op("Sub", [op("Unsqueeze", [positions, self._int(2)]), op("Unsqueeze", [key_positions, one])])
        is_near = op("LessOrEqual", [op("Abs", [distance]), far])
        is_token = op("Unsqueeze", [op("Equal", [key_positions, self._keys]), one])
        weights = op("Where", [op("And", [is_near, is_token]), self._float(0.0), self._float(MASK_VALUE)])  # [count, size, window]
        expanded = op("Expand", [op("Unsqueeze", [weights, one]), self._shape(self._batch, one, one, one, one)])
        self._bias = op("Reshape", [expanded, self._shape(-1, 1, self._size, self._window)])
        """float32[b * count, 1, size, window]: 0, or MASK_VALUE for a key that is not visible"""

    def inputs(self, sources: Sequence[ir.Value], channels: int) -> list[ir.Value | None]:
        """The inputs of MultiHeadAttention over the blocks, from queries, keys and values float32[b, width, channels]."""
        query, key, value = sources
        queries = self._gather(query, self._queries, self._size, channels)
        windows = [self._gather(source, self._keys, self._window, channels) for source in (key, value)]
        return [queries, *windows, None, None, self._bias]

    def join(self, outputs: ir.Value, channels: int) -> ir.Value:
        """float32[b, width, channels] from the operator's outputs [b * count, size, channels]."""
        joined = self._op("Reshape", [outputs, self._shape(self._batch, -1, channels)])
        return self._op("Slice", [joined, self._shape(0), self._shape(self._width), self._shape(1)])

    def _gather(self, source: ir.Value, positions: ir.Value, rows: ir.Value, channels: int) -> ir.Value:
        """float32[b * count, rows, channels]: the tokens of [b, width, channels] at the positions int64[count, rows]."""
        return self._op("Reshape", [self._op("Gather", [source, positions], {"axis": 1}), self._shape(-1, rows, channels)])

    def _shape(self, *sizes: ir.Value | int) -> ir.Value:
        """int64[n] from n integers or int64 scalars."""
        if all(isinstance(size, int) for size in sizes):
            return self._constant(np.array(sizes))
        scalars = [self._int(size) if isinstance(size, int) else size for size in sizes]
        return self._op("Concat", [self._op("Unsqueeze", [scalar, self._int(0)]) for scalar in scalars], {"axis": 0})

    def _int(self, number: int) -> ir.Value:
        return self._constant(np.array(number))

    def _float(self, number: float) -> ir.Value:
        return self._constant(np.array(number, np.float32))

    def _constant(self, array: np.ndarray) -> ir.Value:
        name = f"local_{array.dtype}_{array.tolist()}"
        return self._model.graph.initializers.get(name) or constant(self._model, name, array)
