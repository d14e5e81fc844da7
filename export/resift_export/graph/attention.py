"""attention: traced attention becomes com.microsoft's MultiHeadAttention, with as little of a mask as it needs.

https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MultiHeadAttention

Without a mask it keeps no weights of attention, so its memory grows with the width and not with its square. Local attention, by
which a token sees those at most `reach` before and after it (two of three layers of ModernBERT), is the same operator over blocks
of tokens, whose memory grows with the width too:

    tokens    0 ............................. width - 1
    queries   | size | size | size | size |              the last block may have some beyond the end
    keys    | reach + size + reach |                     of the first block; those beyond an end are masked
                   | reach + size + reach |              of the second

A width below FEWEST_BLOCKS x reach is one block that reads itself: more blocks would read more keys than there are.
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

FEWEST_BLOCKS = 4
"""Blocks of `reach` tokens read three times as many keys each: below four of them, all tokens read each other for less."""
MASKED = -1e9
"""Added to the weight of a key that is not seen, before the softmax; finite for the queries beyond the end, which see none."""
HIDDEN = -1e4
"""A mask that adds this or less to a weight hides the key: no model's weights differ by so much that the softmax keeps it."""
UNLIMITED = -1
"""The reach of attention that sees every token."""
HEADS_FIRST = (0, 2, 1, 3)
"""The transposition between [b, width, heads, size] and [b, heads, width, size]."""


def optimize_attention(model: ir.Model, max_length: int) -> None:
    """Drops masks without effect at every width up to `max_length`, and fuses attention that is unmasked or local, in place."""
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
    """How many tokens before and after it each token sees, by the masks [..., width, width] of several widths, the widest first.

    UNLIMITED if it sees all of them at each of the widths; None if the masks say anything else, or are not known.
    """
    reach: int | None = None
    for mask in masks:
        seen = None if mask is None else _seen(mask)
        if seen is None:
            return None
        if reach is None:
            reach = UNLIMITED if seen.all() else int(np.count_nonzero(seen.reshape(-1, seen.shape[-1])[0])) - 1
        if not _reaches(seen, reach):
            return None
    return reach


def _seen(mask: np.ndarray) -> np.ndarray | None:
    """The mask as bool of the same shape; None if it adds anything but nothing or HIDDEN to weights."""
    if mask.dtype == np.bool_:
        return mask
    seen: np.ndarray = mask == 0
    return seen if bool((seen | (mask <= HIDDEN)).all()) else None


def _reaches(seen: np.ndarray, reach: int) -> bool:
    """Whether each token sees those at most `reach` before and after it, by bool[..., width, width]."""
    if reach == UNLIMITED:
        return bool(seen.all())
    width = seen.shape[-1]
    if reach == 0 or seen.ndim < 2 or seen.shape[-2] != width:
        return False
    places = np.arange(width)
    rows = seen.reshape(-1, width, width)
    return all(bool((rows[:, place] == (np.abs(places - place) <= reach)).all()) for place in range(width))


@dataclass(frozen=True)
class _Heads:
    """The attention of a node between [b, width, count * size] and the same."""

    inputs: tuple[ir.Value, ir.Value, ir.Value]
    """queries, keys and values: float32[b, count, width, size]"""
    count: int
    size: int
    scale: float
    merged: ir.Node
    """the Reshape that gives [b, width, count * size]"""

    @classmethod
    def of(cls, node: ir.Node) -> _Heads | None:
        """None if the node does more, or its output is not merged so."""
        if any(value is not None for value in node.inputs[4:]) or node.attributes.get_int("is_causal", default=0) == 1:
            return None
        if node.attributes.get_float("softcap", 0.0):
            return None
        merge = _only_reader(_reshaped(node.outputs[0]), "Transpose")
        merged = _only_reader(merge.outputs[0], "Reshape") if merge is not None else None
        query, key, value = node.inputs[:3]
        if merge is None or merged is None or not _is_heads_first(merge) or query is None or key is None or value is None:
            return None
        if query.shape is None:
            return None
        count, size = query.shape[1], query.shape[3]
        if not isinstance(count, int) or not isinstance(size, int):
            return None
        return cls((query, key, value), count, size, node.attributes.get_float("scale", float(size) ** -0.5), merged)


def _fuse(model: ir.Model, node: ir.Node, heads: _Heads, blocks: _Blocks | None) -> None:
    """Replaces the node and the transpositions around it by one operator, over `blocks` if its attention is local."""
    name = heads.merged.outputs[0].name
    channels = heads.count * heads.size
    sources = [_tokens_first(model, node, heads, value) for value in heads.inputs]
    inputs = sources if blocks is None else blocks.inputs(sources, channels)
    attributes = {"num_heads": heads.count, "scale": heads.scale}
    fused = insert(model, heads.merged, "MultiHeadAttention", inputs, f"{name}_heads", attributes, CONTRIB)
    replace(heads.merged.outputs[0], fused if blocks is None else blocks.joined(fused, channels))


def _tokens_first(model: ir.Model, before: ir.Node, heads: _Heads, value: ir.Value) -> ir.Value:
    """`value`, [b, count, width, size], as [b, width, count * size]: what it was made of, if it was transposed from that."""
    transpose = value.producer()
    if transpose is not None and _is_heads_first(transpose) and transpose.inputs[0] is not None:
        apart = transpose.inputs[0]
        reshape = apart.producer()
        whole = reshape.inputs[0] if reshape is not None and reshape.op_type == "Reshape" else None
        if whole is not None and _is_merged(whole, heads):
            return whole
    else:
        apart = insert(model, before, "Transpose", [value], f"{value.name}_apart", {"perm": HEADS_FIRST})
    shape = constant(model, f"{value.name}_merged_shape", np.array([0, 0, heads.count * heads.size]))
    return insert(model, before, "Reshape", [apart, shape], f"{value.name}_merged")


def _is_merged(value: ir.Value, heads: _Heads) -> bool:
    """Whether it is [b, width, count * size], which it is taken for if its shape is not known."""
    return value.shape is None or (len(value.shape) == 3 and value.shape[2] == heads.count * heads.size)


def _is_heads_first(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and tuple(node.attributes.get_ints("perm")) == HEADS_FIRST


def _reshaped(value: ir.Value) -> ir.Value:
    """The value behind reshapes to the shape it has already: torch.onnx puts one after the attention of a single head."""
    while value.shape is not None and (reshape := _only_reader(value, "Reshape")) is not None:
        if reshape.outputs[0].shape != value.shape:
            break
        value = reshape.outputs[0]
    return value


def _only_reader(value: ir.Value, op_type: str) -> ir.Node | None:
    readers = [use.node for use in value.uses()]
    return readers[0] if len(readers) == 1 and readers[0].op_type == op_type else None


class _Blocks:
    """Blocks of tokens, computed once in the graph for all layers that see as far."""

    def __init__(self, model: ir.Model, reach: int) -> None:
        self._model = model
        self._op = op = ir.tape.Tape(model.graph).op
        shape = op("Shape", [model.graph.inputs[0]])
        self._batch, self._width = op("Gather", [shape, self._int(0)]), op("Gather", [shape, self._int(1)])
        zero, one, far = self._int(0), self._int(1), self._int(reach)

        is_wide = op("GreaterOrEqual", [self._width, self._int(FEWEST_BLOCKS * reach)])
        count = op("Where", [is_wide, op("Div", [self._width, far]), one])
        self._size = op("Div", [op("Sub", [op("Add", [self._width, count]), one]), count])  # width / count, rounded up
        beside = op("Where", [is_wide, far, zero])
        self._read = op("Add", [self._size, op("Add", [beside, beside])])

        starts = op("Unsqueeze", [op("Mul", [op("Range", [zero, count, one]), self._size]), one])  # [count, 1]
        places = op("Add", [starts, op("Range", [zero, self._size, one])])
        others = op("Add", [starts, op("Sub", [op("Range", [zero, self._read, one]), beside])])
        last = op("Sub", [self._width, one])
        self._queries = op("Min", [places, last])
        """int64[count, size]: the places of each block's tokens; the last place for those beyond the end"""
        self._keys = op("Max", [op("Min", [others, last]), zero])
        """int64[count, read]: the places of those that they read; the nearest place for those beyond an end"""

        distance = op("Sub", [op("Unsqueeze", [places, self._int(2)]), op("Unsqueeze", [others, one])])
        is_near = op("LessOrEqual", [op("Abs", [distance]), far])
        is_token = op("Unsqueeze", [op("Equal", [others, self._keys]), one])
        weights = op("Where", [op("And", [is_near, is_token]), self._float(0.0), self._float(MASKED)])  # [count, size, read]
        of_all = op("Expand", [op("Unsqueeze", [weights, one]), self._shape(self._batch, one, one, one, one)])
        self._bias = op("Reshape", [of_all, self._shape(-1, 1, self._size, self._read)])
        """float32[b * count, 1, size, read]: 0, or MASKED where a key is not seen"""

    def inputs(self, sources: Sequence[ir.Value], channels: int) -> list[ir.Value | None]:
        """Those of MultiHeadAttention over the blocks, for queries, keys and values float32[b, width, channels]."""
        query, key, value = sources
        queries = self._gathered(query, self._queries, self._size, channels)
        read = [self._gathered(source, self._keys, self._read, channels) for source in (key, value)]
        return [queries, *read, None, None, self._bias]

    def joined(self, attended: ir.Value, channels: int) -> ir.Value:
        """float32[b, width, channels] of what it gives, [b * count, size, channels]."""
        whole = self._op("Reshape", [attended, self._shape(self._batch, -1, channels)])
        return self._op("Slice", [whole, self._shape(0), self._shape(self._width), self._shape(1)])

    def _gathered(self, source: ir.Value, places: ir.Value, rows: ir.Value, channels: int) -> ir.Value:
        """float32[b * count, rows, channels] of [b, width, channels], at int64[count, rows]."""
        return self._op("Reshape", [self._op("Gather", [source, places], {"axis": 1}), self._shape(-1, rows, channels)])

    def _shape(self, *sizes: ir.Value | int) -> ir.Value:
        """int64[n] of n integers or int64 scalars."""
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
