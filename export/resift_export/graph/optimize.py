"""optimize: rewrites a traced graph to run faster with the same logits (attention, first token, plain products)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from resift_export.graph.attention import optimize_attention
from resift_export.graph.edit import array_of, constant, insert, replace, tidy
from resift_export.graph.probe import values_at_widths

ROWWISE = frozenset({"Add", "Sub", "Mul", "Div", "Gelu", "Tanh", "Relu", "Erf", "Sigmoid", "LayerNormalization", "Cast"})
"""Operators whose output at a token depends only on that token (LayerNormalization: over the last axis)."""
EDGE_MARGIN = 1e-4
"""Amount that is subtracted from a logarithm before it is rounded up. It is larger than the error of float32 and of any library's
log, and smaller than the 3e-3 between an edge and the nearest distance with 256 buckets and 512 positions, as in DeBERTa-v3."""


def optimize(model: ir.Model, max_length: int) -> ir.Model:
    """Rewrites `model` in place and returns it.

    The graph's inputs int64[b, width] are never padded, so a mask that is true everywhere at every width up to
    `max_length` has no effect and is dropped; see attention.py.
    """
    _resolve_branches(model, max_length)
    _split_gemm(model)
    _stabilize_buckets(model)
    optimize_attention(model, max_length)
    tidy(model)  # replaced nodes would still read every token
    _read_first_token_only(model)
    tidy(model)
    return model


def _resolve_branches(model: ir.Model, max_length: int) -> None:
    """Replaces an If by the branch that it takes, if evaluation shows that the condition is the same at every width.

    optimum's trace of DeBERTa-v2 tests whether there are as many queries as keys. The engine refuses a graph that contains an If.
    """
    for node in [node for node in model.graph if node.op_type == "If"]:
        condition = node.inputs[0]
        assert condition is not None
        answers = {bool(value.all()) for value in values_at_widths(model, condition, max_length) if value is not None}
        if len(answers) != 1:
            continue
        branch = node.attributes["then_branch" if True in answers else "else_branch"].as_graph()
        inner, outputs = list(branch), list(branch.outputs)
        branch.outputs.clear()
        branch.remove(inner)
        for value in list(branch.initializers.values()):
            model.graph.register_initializer(value)
        model.graph.insert_before(node, inner)
        for old, new in zip(node.outputs, outputs, strict=True):
            _replace_output(old, new)
        model.graph.remove(node, safe=True)


def _split_gemm(model: ir.Model) -> None:
    """Gemm(x, w, b) becomes MatMul and Add, so that later passes see only one kind of product."""
    for node in [node for node in model.graph if node.op_type == "Gemm"]:
        source, weight, *bias = node.inputs
        weights = array_of(weight)
        plain = all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
        if source is None or weights is None or not plain or node.attributes.get_int("transA", default=0) == 1:
            continue
        if node.attributes.get_int("transB", default=0) == 1:
            weights = np.ascontiguousarray(weights.T)
        out = node.outputs[0]
        product = insert(model, node, "MatMul", [source, constant(model, f"{out.name}_weight", weights)], f"{out.name}_product")
        product.shape, product.type = out.shape, out.type
        if bias and bias[0] is not None:
            product = insert(model, node, "Add", [product, bias[0]], f"{out.name}_sum")
        _replace_output(out, product)


def _replace_output(old: ir.Value, new: ir.Value) -> None:
    """Replaces `old` by `new`, which receives the name of `old` if that is an output of the graph."""
    name, is_output = old.name, old.is_graph_output()
    replace(old, new)
    if is_output:
        old.name = f"{name}_before"
        new.name = name


def _stabilize_buckets(model: ir.Model) -> None:
    """Ensures that a distance at the edge of a bucket stays in that bucket, however a machine rounds logarithms.

    DeBERTa sorts distances d into buckets by ceil(log(d / mid) / log(longest / mid) * (mid - 1)), an integer for the longest
    distance. With a log that is one unit in the last place larger than PyTorch's, that distance falls into the next bucket and
    pairs of full length get different logits (make_log_bucket_position in transformers' modeling_deberta_v2.py).
    """
    for node in [node for node in model.graph if node.op_type == "Ceil" and _comes_from(node, "Log")]:
        edge = constant(model, f"{node.outputs[0].name}_edge", np.array(EDGE_MARGIN, np.float32))
        node.replace_input_with(0, insert(model, node, "Sub", [node.inputs[0], edge], f"{node.outputs[0].name}_settled"))


def _comes_from(node: ir.Node, op_type: str) -> bool:
    """Whether `node` has an ancestor of that type."""
    visited: set[ir.Node] = set()
    pending = [node]
    while pending:
        for value in pending.pop().inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and producer not in visited:
                if producer.op_type == op_type:
                    return True
                visited.add(producer)
                pending.append(producer)
    return False


def _read_first_token_only(model: ir.Model) -> None:
    """Restricts the last layer to the first token if the head reads no other, which saves most of one layer.

    Keys and values of the last attention still come from every token.
    """
    heads = [node for node in model.graph if node.op_type == "Gather" and _selects_first_token(node)]
    if len(heads) != 1:
        return
    above = _region_above(model, heads[0])
    region = [node for node in model.graph if node in above]
    if not region:
        return
    edge = dict.fromkeys(value for node in region for value in _token_inputs(node) if value.producer() not in above)
    index = constant(model, "first_token", np.zeros(1, np.int64))
    for value in edge:
        first_token = insert(model, region[0], "Gather", [value, index], f"{value.name}_first", {"axis": 1})
        first_token.type = value.type
        for use in list(value.uses()):
            if use.node in above and value in _token_inputs(use.node) and not _is_whole_sequence(use.node, use.idx):
                use.node.replace_input_with(use.idx, first_token)
    for node in region:
        for value in node.outputs:
            if value.shape is not None:
                value.shape = ir.Shape([value.shape[0], 1, *value.shape[2:]])


def _selects_first_token(node: ir.Node) -> bool:
    source, index = node.inputs[0], array_of(node.inputs[1])
    is_hidden = source is not None and source.shape is not None and len(source.shape) == 3
    return (
        is_hidden
        and index is not None
        and index.size == 1
        and int(index.reshape(())) == 0
        and node.attributes.get_int("axis", default=0) == 1
    )


def _region_above(model: ir.Model, head: ir.Node) -> set[ir.Node]:
    """The nodes of which all readers need only one token, found by walking backwards from the head."""
    model.graph.sort()
    region: set[ir.Node] = set()
    for node in reversed(list(model.graph)):
        uses = [use for value in node.outputs for use in value.uses()]
        is_selected = all(use.node is head or (use.node in region and not _is_whole_sequence(use.node, use.idx)) for use in uses)
        if uses and is_selected and not any(value.is_graph_output() for value in node.outputs) and _is_rowwise(node):
            region.add(node)
    return region


def _is_rowwise(node: ir.Node) -> bool:
    if node.op_type == "MultiHeadAttention":
        return True
    if node.outputs[0].shape is None or len(node.outputs[0].shape) != 3:
        return False
    if node.op_type == "MatMul":
        weights = array_of(node.inputs[1])
        return weights is not None and weights.ndim == 2
    return node.op_type in ROWWISE


def _is_whole_sequence(node: ir.Node, index: int) -> bool:
    """Whether the input holds attention's keys or values, which are read at every token whatever the number of queries."""
    return node.op_type == "MultiHeadAttention" and index > 0


def _token_inputs(node: ir.Node) -> list[ir.Value]:
    """The inputs of a rowwise node that hold one vector per token."""
    return [
        value
        for index, value in enumerate(node.inputs)
        if value is not None and value.const_value is None and not _is_whole_sequence(node, index)
    ]
