"""mask: lets a graph read rows of several lengths in one batch, each padded at its end.

A graph is traced without a mask. Here it gets the input attention_mask, int64[b, width]: 1 for a token and 0 for padding. It is
read wherever a token reads other tokens: in attention, and where the tokens of a row become one vector. Padding itself is computed
like tokens, and nothing reads it.

MultiHeadAttention reads the lengths of keys in the layout [3 * b + 2]: the lengths of all rows, then where each row's queries begin
and where the last one's end, then the same of the keys. Of the layouts, it is the only one for which onnxruntime's memory-efficient
kernel runs on every GPU; its kernel for the CPU reads the lengths and ignores the rest.
https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/contrib_ops/cuda/bert/multihead_attention.cc
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from resift.artifact.signature import MASK
from resift.errors import ExportError
from resift_export.graph.attention import HIDING_VALUE
from resift_export.graph.edit import BIAS_INPUT, KEY_MASK_INPUT, Additions, array_of, constant, insert, replace, tidy
from resift_export.graph.weights import open_session

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from resift_export.checkpoint.load import Checkpoint

MASK_INPUT = 3
"""Index of the mask among the inputs of an Attention."""
REACH_OF_PRODUCT = 3
"""Nodes between a Softmax and the product that it weights, at most; a Softmax without such a product is no attention."""
LONG, SHORT = 300, 20
"""Tokens of the rows by which `check_mask` tests a graph: the long one has several blocks of ModernBERT's local attention."""
HIDING = "mask_hiding_value"
TOLERANCE = 1e-3
"""Largest difference of a logit that padding may make in float32, relative to the largest logit, or to 1 if that is smaller."""
SEED = 11


def add_mask(model: ir.Model) -> ir.Model:
    """Gives the graph the input attention_mask, in place, and returns it; see `check_mask` for whether that was enough."""
    mask = _Mask(model)
    for node in list(model.graph):
        if node.op_type == "MultiHeadAttention":
            _mask_heads(node, mask)
        elif node.op_type == "Attention":
            _mask_attention(node, mask)
        elif node.op_type == "Softmax" and _weights_a_product(node):
            _hide(model, node, mask.over_keys(), 0)
        elif node.op_type in ("ReduceMean", "ReduceSum", "ReduceMax") and _axes(node) == [1]:
            _mask_pooling(node, mask)
        elif node.op_type == "Gather" and _selects_last_token(node):
            _select_last(node, mask)
    tidy(model)
    return model


def check_mask(
    masked: ir.Model, exact: ir.Model, checkpoint: Checkpoint, scratch: Path, *, mend: str = "leave float16 out of --precision"
) -> None:
    """Raises ExportError unless the logits of padded rows in `masked` are those that the graph `exact` gives for each row alone.

    Both are graphs of the `checkpoint`; sessions are written to the folder `scratch`. `mend`: what to do otherwise.
    """
    max_length, vocabulary = checkpoint.max_length, checkpoint.vocabulary
    random = np.random.default_rng(SEED)
    lengths = [min(LONG, max_length), max(1, min(SHORT, max_length - 1)), max(1, max_length // 2)]
    rows = [random.integers(min(5, vocabulary - 1), vocabulary, size=length) for length in lengths]
    single = open_session(exact, scratch)
    expected = np.concatenate([_run(single, [row], len(row)) for row in rows])
    del single
    together = open_session(masked, scratch)
    width = max(lengths)
    difference = float(np.abs(_run(together, rows, width) - expected).max())
    limit = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if not difference <= limit:
        raise ExportError(
            f"with padding, logits of {checkpoint.architecture} change by {difference:.2g}; expected at most {limit:.2g}: it reads "
            f"padding in a way that resift cannot mask, so {mend}"
        )


def _run(session: object, rows: Sequence[np.ndarray], width: int) -> np.ndarray:
    """Logits float32[b, labels] of rows of token ids, padded with 0 to the width, as the engine pads them."""
    inputs = {name: np.zeros((len(rows), width), np.int64) for name in ("input_ids", "token_type_ids", MASK)}
    for position, row in enumerate(rows):
        inputs["input_ids"][position, : len(row)] = row
        inputs[MASK][position, : len(row)] = 1
    names = [item.name for item in session.get_inputs()]  # type: ignore[attr-defined]
    logits: np.ndarray = session.run(None, {name: inputs[name] for name in names})[0]  # type: ignore[attr-defined]
    return logits


class _Mask(Additions):
    """The mask in the forms that operators read, each computed once in the graph."""

    def __init__(self, model: ir.Model) -> None:
        super().__init__(model, "mask")
        ids = model.graph.inputs[0]
        self._input = ir.Value(name=MASK, shape=ids.shape, type=ir.TensorType(ir.DataType.INT64))
        model.graph.inputs.append(self._input)

    def tokens(self, *axes: int) -> ir.Value:
        """bool[b, width], with further axes of size 1 at the places `axes`: whether it is a token."""
        if not axes:
            return self.op("is_token", "Cast", [self._input], {"to": int(ir.DataType.BOOL)})
        name = f"is_token_{'_'.join(map(str, axes))}"
        return self.op(name, "Unsqueeze", [self.tokens(), self.integers(*axes)])

    def over_keys(self) -> ir.Value:
        """bool[b, 1, 1, width]."""
        return self.tokens(1, 2)

    def lengths(self) -> ir.Value:
        """int64[b]."""
        return self.op("lengths", "ReduceSum", [self._input, self.integers(1)], {"keepdims": 0})

    def key_lengths(self, *, queries: int | None) -> ir.Value:
        """int32[3 * b + 2], MultiHeadAttention's lengths of keys; `queries` of each row, None: as many as keys."""
        shape = self.op("shape", "Shape", [self._input])
        batch, width = (
            self.op(name, "Gather", [shape, self.constant(np.array(axis))]) for axis, name in enumerate(("batch", "width"))
        )
        one = self.constant(np.array(1))
        end = self.op("batch_end", "Add", [batch, one])
        numbers = self.op("row_numbers", "Range", [self.constant(np.array(0)), end, one])
        keys = self.op("key_starts", "Mul", [numbers, width])
        starts = keys if queries is None else self.op(f"starts_{queries}", "Mul", [numbers, self.constant(np.array(queries))])
        joined = self.op(f"key_lengths_{queries}_wide", "Concat", [self.lengths(), starts, keys], {"axis": 0})
        return self.op(f"key_lengths_{queries}", "Cast", [joined], {"to": int(ir.DataType.INT32)})

    def over_blocks(self, positions: ir.Value) -> ir.Value:
        """bool[b * count, 1, 1, window] for the positions int64[count, window] that blocks of local attention read."""
        gathered = self.op(f"of_{positions.name}", "Gather", [self.tokens(), positions], {"axis": 1})
        joined = self.op(f"joined_{positions.name}", "Flatten", [gathered], {"axis": 2})
        return self.op(f"over_{positions.name}", "Unsqueeze", [joined, self.integers(1, 2)])

    def last(self) -> ir.Value:
        """bool[b, width, 1]: whether it is the row's last token."""
        shape = self.op("shape", "Shape", [self._input])
        width = self.op("width", "Gather", [shape, self.constant(np.array(1))])
        one = self.constant(np.array(1))
        positions = self.op("positions", "Range", [self.constant(np.array(0)), width, one])
        last = self.op("last", "Unsqueeze", [self.op("last_flat", "Sub", [self.lengths(), one]), self.integers(1)])
        is_last = self.op("is_last_flat", "Equal", [positions, last])
        return self.op("is_last", "Unsqueeze", [is_last, self.integers(2)])

    def counts(self, *axes: int) -> ir.Value:
        """float32[b, 1], with further axes of size 1 at the places `axes`: the number of tokens."""
        flat = self.op("counts", "Cast", [self.lengths()], {"to": int(ir.DataType.FLOAT)})
        return self.op(f"counts_{len(axes)}", "Unsqueeze", [flat, self.integers(1, *(axis + 1 for axis in axes))])

    def number(self, value: float) -> ir.Value:
        """A float32 scalar."""
        return self.constant(np.array(value, np.float32))


def _mask_heads(node: ir.Node, mask: _Mask) -> None:
    """Masks a MultiHeadAttention: by the lengths of keys or, where it reads blocks, in the bias that says which keys are near."""
    query, keys = node.inputs[:2]
    bias = node.inputs[BIAS_INPUT] if len(node.inputs) > BIAS_INPUT else None
    if bias is None:
        queries = None if query is None or query.shape is None else query.shape[1]
        node.resize_inputs(max(len(node.inputs), KEY_MASK_INPUT + 1))
        node.replace_input_with(KEY_MASK_INPUT, mask.key_lengths(queries=queries if isinstance(queries, int) else None))
        return
    gather = _producer(_producer(keys).inputs[0])  # as attention._Blocks builds them
    positions = gather.inputs[1]
    assert gather.op_type == "Gather"
    assert positions is not None
    _hide(mask.model, node, mask.over_blocks(positions), BIAS_INPUT)


def _mask_attention(node: ir.Node, mask: _Mask) -> None:
    """Masks an Attention that was not fused, whose own mask says more than which keys are tokens, such as how far they are."""
    query = node.inputs[0]
    assert query is not None
    present = node.inputs[MASK_INPUT] if len(node.inputs) > MASK_INPUT else None
    node.resize_inputs(max(len(node.inputs), MASK_INPUT + 1))
    if present is None:
        node.replace_input_with(MASK_INPUT, mask.over_keys())
    elif present.dtype == ir.DataType.BOOL:
        both = insert(mask.model, node, "And", [present, mask.over_keys()], f"{node.outputs[0].name}_mask")
        node.replace_input_with(MASK_INPUT, both)
    else:
        _hide(mask.model, node, mask.over_keys(), MASK_INPUT)


def _hide(model: ir.Model, node: ir.Node, visible: ir.Value, index: int) -> None:
    """Puts HIDING_VALUE into the node's input of that index, wherever it is not visible."""
    name = f"{node.outputs[0].name}_hidden"
    hiding = model.graph.initializers.get(HIDING) or constant(model, HIDING, np.array(HIDING_VALUE, np.float32))
    scores = node.inputs[index]
    assert scores is not None
    hidden = insert(model, node, "Where", [visible, scores, hiding], name)
    hidden.type = scores.type
    node.replace_input_with(index, hidden)


def _mask_pooling(node: ir.Node, mask: _Mask) -> None:
    """Leaves padding out of a reduction over the tokens of [b, width] or [b, width, size]."""
    source = node.inputs[0]
    assert source is not None
    tokens = mask.tokens() if source.shape is not None and len(source.shape) == 2 else mask.tokens(2)
    neutral = HIDING_VALUE if node.op_type == "ReduceMax" else 0.0
    name = node.outputs[0].name
    inputs = [insert(mask.model, node, "Where", [tokens, source, mask.number(neutral)], f"{name}_tokens"), *node.inputs[1:]]
    if node.op_type != "ReduceMean":
        node.replace_input_with(0, inputs[0])
        return
    keeps = node.attributes.get_int("keepdims", default=1)
    total = insert(mask.model, node, "ReduceSum", inputs, f"{name}_sum", {"keepdims": keeps})
    replace(node.outputs[0], insert(mask.model, node, "Div", [total, mask.counts(*([1] if keeps else []))], f"{name}_mean"))


def _select_last(node: ir.Node, mask: _Mask) -> None:
    """Selects the last token of each row, and not the last of the padding."""
    source, index = node.inputs[:2]
    assert source is not None
    name = node.outputs[0].name
    tokens = insert(mask.model, node, "Where", [mask.last(), source, mask.number(0.0)], f"{name}_tokens")
    keeps = len(index.shape) if index is not None and index.shape is not None else 0
    axes = mask.integers(1)
    replace(node.outputs[0], insert(mask.model, node, "ReduceSum", [tokens, axes], f"{name}_last", {"keepdims": keeps}))


def _producer(value: ir.Value | None) -> ir.Node:
    assert value is not None
    node = value.producer()
    assert node is not None
    return node


def _axes(node: ir.Node) -> list[int]:
    """The axes of a reduction, which older opsets have as an attribute."""
    axes = array_of(node.inputs[1]) if len(node.inputs) > 1 else None
    return list(node.attributes.get_ints("axes", default=())) if axes is None else axes.reshape(-1).tolist()


def _selects_last_token(node: ir.Node) -> bool:
    source, index = node.inputs[0], array_of(node.inputs[1])
    is_hidden = source is not None and source.shape is not None and len(source.shape) == 3
    return is_hidden and index is not None and index.size == 1 and int(index.reshape(())) == -1 and _axis(node) == 1


def _axis(node: ir.Node) -> int:
    return node.attributes.get_int("axis", default=0)


def _weights_a_product(node: ir.Node) -> bool:
    """Whether the node's output becomes the first factor of a product, as weights of attention do."""
    reached = [node]
    for _ in range(REACH_OF_PRODUCT):
        reached = [use.node for each in reached for value in each.outputs for use in value.uses()]
        if any(each.op_type == "MatMul" for each in reached):
            return True
    return False
