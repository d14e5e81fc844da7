"""optimize: the same logits from fewer operations; lower_opset: the oldest opset with the same meaning."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import transformers

from resift_export.checkpoint import load as checkpoint
from resift_export.graph.edit import CONTRIB, LOW_OPSET, constant, lower_opset, serialize
from resift_export.graph.optimize import optimize
from resift_export.graph.trace import OPSET, trace
from tests.support import tiny

LAYERS = tiny.SIZE["num_hidden_layers"]


def run(model, feed, names=None):
    """The named values (default: the graph's outputs), by name."""
    observed = model.clone()
    if names is not None:
        values = {value.name: value for node in observed.graph for value in node.outputs}
        observed.graph.outputs[:] = [values[name] for name in names]
    session = onnxruntime.InferenceSession(serialize(observed), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def ops(model, op_type):
    return [node for node in model.graph if node.op_type == op_type]


def ancestors(node):
    """Every node that `node` depends on, including itself."""
    visited, pending = set(), [node]
    while pending:
        node = pending.pop()
        if node not in visited:
            visited.add(node)
            pending += [value.producer() for value in node.inputs if value is not None and value.producer() is not None]
    return visited


def bert_feed(batch, width, seed=0):
    random = np.random.default_rng(seed)
    segments = np.tile(np.arange(width) >= width // 2, (batch, 1))
    ids = random.integers(5, tiny.VOCABULARY, (batch, width))
    return {"input_ids": ids.astype(np.int64), "token_type_ids": segments.astype(np.int64)}


@pytest.fixture(scope="module")
def traced_model(checkpoint_of):
    return trace(checkpoint.load(str(checkpoint_of("bert"))))


@pytest.fixture(scope="module")
def optimized(traced_model):
    return optimize(traced_model.clone(), tiny.MAX_LENGTH)


@pytest.mark.parametrize(("batch", "width"), [(1, 1), (3, 1), (1, 2), (2, 8), (5, 33), (17, 64), (1, 192), (2, 192)])
def test_logits_stay(traced_model, optimized, batch, width):
    feed = bert_feed(batch, width)
    before, after = run(traced_model, feed)["logits"], run(optimized, feed)["logits"]
    assert after.shape == before.shape == (batch, 1)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)
    if batch > 1:
        assert np.ptp(before) > 1e-3


def test_caller_sees_the_same_inputs_and_outputs(traced_model, optimized):
    for model in (traced_model, optimized):
        assert [value.name for value in model.graph.inputs] == ["input_ids", "token_type_ids"]
        assert [value.name for value in model.graph.outputs] == ["logits"]


def test_operators_that_are_left(traced_model, optimized):
    assert ops(traced_model, "Gemm")
    assert len(ops(traced_model, "Attention")) == LAYERS
    assert not ops(optimized, "Gemm")
    assert not ops(optimized, "Attention")
    fused = ops(optimized, "MultiHeadAttention")
    assert [(node.domain, len(node.inputs), node.attributes.get_int("num_heads")) for node in fused] == [(CONTRIB, 3, 4)] * LAYERS
    assert not {"Transpose", "Reshape", "GreaterOrEqual", "Range", "Expand"} & {node.op_type for node in optimized.graph}


def test_every_node_that_is_left_is_needed(optimized):
    last = optimized.graph.outputs[0].producer()
    assert set(optimized.graph) == ancestors(last)


def test_last_layer_computes_one_token(optimized):
    last = ops(optimized, "MultiHeadAttention")[-1]
    query, keys, values = (value.producer() for value in last.inputs)
    above = [node for node in optimized.graph if last in ancestors(node)]
    names = {node.outputs[0].name for node in [*above, query, keys, values]}
    found = run(optimized, bert_feed(3, 12), [*names])
    products = [node.outputs[0].name for node in above if node.op_type == "MatMul" and found[node.outputs[0].name].ndim == 3]
    assert len(products) == 3
    assert {found[node.outputs[0].name].shape[1] for node in above if found[node.outputs[0].name].ndim == 3} == {1}
    assert found[query.outputs[0].name].shape[1] == 1
    assert {found[node.outputs[0].name].shape[1] for node in (keys, values)} == {12}


def test_last_layers_query_is_computed_for_one_token(optimized):
    # It is not computed for all tokens and cut afterwards.
    last = ops(optimized, "MultiHeadAttention")[-1]
    between = ancestors(last.inputs[0].producer()) - ancestors(ops(optimized, "LayerNormalization")[2])
    product = next(node for node in between if node.op_type == "MatMul")
    assert run(optimized, bert_feed(3, 12), [product.outputs[0].name])[product.outputs[0].name].shape[1] == 1


def test_first_layer_computes_every_token(optimized):
    first = ops(optimized, "MultiHeadAttention")[0].outputs[0].name
    assert run(optimized, bert_feed(3, 12), [first])[first].shape == (3, 12, 64)


def test_declared_shapes_are_those_at_run_time(optimized):
    # onnxruntime plans buffer reuse by the declared shapes.
    inputs = [dimension.value for dimension in optimized.graph.inputs[0].shape]
    dimensions = dict(zip(inputs, (3, 12), strict=True))
    declared_shapes = {}
    for node in optimized.graph:
        for value in node.outputs:
            if value.shape is not None:
                sizes = [size if isinstance(size, int) else dimensions.get(size.value) for size in value.shape]
                declared_shapes[value.name] = sizes
    values = run(optimized, bert_feed(3, 12), [*declared_shapes])
    wrong = {
        name: (sizes, values[name].shape)
        for name, sizes in declared_shapes.items()
        if [size for size, real in zip(sizes, values[name].shape, strict=True) if size not in (None, real)]
    }
    assert not wrong


def test_the_same_graph_is_optimized_to_the_same_graph(traced_model):
    hashes = {hashlib.sha256(serialize(optimize(traced_model.clone(), tiny.MAX_LENGTH))).hexdigest() for _ in range(12)}
    assert len(hashes) == 1


SMALL = """<ir_version: 10, opset_import: ["" : 23]>
small (int64[b, w] input_ids) => (float[b, 2] logits) {{
    hidden = Gather <axis = 0> (table, input_ids)
    query = MatMul (hidden, query_weights)
    key = MatMul (hidden, key_weights)
    value = MatMul (hidden, value_weights)
    heads = Constant <value_ints = [0, 0, 2, 4]> ()
    query_split = Reshape (query, heads)
    key_split = Reshape (key, heads)
    value_split = Reshape (value, heads)
    query_heads = Transpose <perm = [0, 2, 1, 3]> (query_split)
    key_heads = Transpose <perm = [0, 2, 1, 3]> (key_split)
    value_heads = Transpose <perm = [0, 2, 1, 3]> (value_split)
    shape = Shape <start = 1, end = 2> (input_ids)
    zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    width = Squeeze (shape)
    positions = Range (zero, width, one)
    axis = Constant <value_ints = [1]> ()
    column = Unsqueeze (positions, axis)
    distance = Sub (column, positions)
    absolute = Abs (distance)
    window = Constant <value_int = {window}> ()
    near = LessOrEqual (absolute, window)
    far = Greater (absolute, window)
    penalties = Cast <to = 1> (far)
    lowest = Constant <value_float = -10000.0> ()
    bias = Mul (penalties, lowest)
    after = GreaterOrEqual (distance, window)
    attended = Attention {attributes} (query_heads, key_heads, value_heads, {mask})
    together = Transpose <perm = [0, 2, 1, 3]> (attended)
    flat = Constant <value_ints = [0, 0, 8]> ()
    merged = Reshape (together, flat)
    mixed = MatMul (merged, out_weights)
    sum = Add (mixed, hidden)
    hot = Tanh (sum)
    {head}
    logits = MatMul (read, label_weights)
}}"""
FIRST = "read = Gather <axis = 1> (hot, zero)"
SECOND = "read = Gather <axis = 1> (hot, one)"
MEAN = "read = ReduceMean <keepdims = 0> (hot, axis)"
BOTH = "first = Gather <axis = 1> (hot, zero)\n second = Gather <axis = 1> (hot, one)\n read = Add (first, second)"


def small(mask="near", window=4, attributes="", head=FIRST):
    """One layer of attention over a table, with weights large enough that every token affects the logits."""
    random = np.random.default_rng(1)
    sizes = {"table": (32, 8), "label_weights": (8, 2), **{f"{name}_weights": (8, 8) for name in ("query", "key", "value", "out")}}
    text = SMALL.format(mask=mask or '""', window=window, attributes=attributes, head=head)
    if not mask:
        text = text.replace(', "")', ")")
    proto = onnx.parser.parse_model(text)
    for name, size in sizes.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(0, 0.8, size).astype(np.float32), name))
    onnx.checker.check_model(proto)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    for node in list(model.graph):
        for value in node.outputs:
            if node.op_type == "Constant":
                model.graph.register_initializer(
                    ir.Value(name=f"{value.name}_constant", const_value=constant_of(node), type=value.type, shape=value.shape)
                )
                value.replace_all_uses_with(model.graph.initializers[f"{value.name}_constant"])
    return model


def constant_of(node):
    attribute = next(iter(node.attributes.values()))
    kind = np.float32 if attribute.type in (ir.AttributeType.FLOAT, ir.AttributeType.FLOATS) else np.int64
    return ir.tensor(np.array(attribute.value, kind))


def small_feed(width, batch=3):
    return {"input_ids": np.random.default_rng(2).integers(0, 32, (batch, width))}


def assert_same_logits(before, after, widths):
    for width in widths:
        feed = small_feed(width)
        np.testing.assert_allclose(run(after, feed)["logits"], run(before, feed)["logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("mask", ["near", "bias"])
@pytest.mark.parametrize("max_length", [5, 6, 40])
def test_only_a_mask_that_masks_nothing_is_dropped(mask, max_length):
    model = small(mask, window=4)
    optimized = optimize(model.clone(), max_length)
    [fused] = ops(optimized, "MultiHeadAttention")
    idle = max_length <= 5
    assert not ops(optimized, "Attention")
    assert (len(fused.inputs) > 3) == (not idle)
    assert_same_logits(model, optimized, [2, 5, max_length])


@pytest.mark.parametrize("mask", ["penalties", "after", "near"])
def test_a_mask_that_is_neither_idle_nor_local_stays(mask):
    model = small(mask, window=0 if mask == "near" else 4)
    optimized = optimize(model.clone(), 40)
    assert [node.inputs[3] is not None for node in ops(optimized, "Attention")] == [True]
    assert_same_logits(model, optimized, [2, 5, 40])


def test_the_mask_of_that_graph_does_mask():
    feed = small_feed(40)
    assert np.abs(run(small(None), feed)["logits"] - run(small("near"), feed)["logits"]).max() > 0.01


@pytest.mark.parametrize("attributes", ["<is_causal = 1>", "<softcap = 0.5>"])
def test_attention_of_another_kind_is_not_fused(attributes):
    model = small(None, attributes=attributes, head=SECOND)
    optimized = optimize(model.clone(), 40)
    assert len(ops(optimized, "Attention")) == 1
    assert not ops(optimized, "MultiHeadAttention")
    assert_same_logits(model, optimized, [2, 7, 40])


@pytest.mark.parametrize("attributes", ["", "<scale = 0.9>"])
def test_scale_of_attention_is_kept(attributes):
    model = small(None, attributes=attributes)
    optimized = optimize(model.clone(), 40)
    fused = ops(optimized, "MultiHeadAttention")
    assert [node.attributes.get_float("scale") for node in fused] == pytest.approx([0.9 if attributes else 0.5])
    assert_same_logits(model, optimized, [1, 7, 40])


@pytest.mark.parametrize("mask", [None, "near"])
@pytest.mark.parametrize("head", [FIRST, SECOND, MEAN, BOTH], ids=["first", "second", "mean", "both"])
def test_only_a_head_that_reads_the_first_token_is_reduced(mask, head):
    model = small(mask, head=head)
    optimized = optimize(model.clone(), 40)
    assert_same_logits(model, optimized, [2, 7, 40])
    tanh = ops(optimized, "Tanh")[0].outputs[0].name
    assert run(optimized, small_feed(7), [tanh])[tanh].shape[1] == (1 if head == FIRST else 7)


def test_the_longest_distance_stays_in_its_bucket(checkpoint_of):
    loaded = checkpoint.load(str(checkpoint_of("deberta-v2")))
    elsewhere = trace(loaded)
    # The constant logarithm of the longest distance, one unit in the last place smaller, as another library's log may compute it.
    (ratio,) = [
        node
        for node in ops(elsewhere, "Div")
        if any(use.node.op_type == "Mul" for use in node.outputs[0].uses()) and node.inputs[0].producer().op_type == "Log"
    ]
    rounded = np.nextafter(ratio.inputs[1].const_value.numpy(), np.float32(0))
    ratio.replace_input_with(1, constant(elsewhere, "rounded", rounded))
    ids = np.random.default_rng(5).integers(5, tiny.VOCABULARY - 1, (2, tiny.MAX_LENGTH))
    with torch.inference_mode():
        expected = loaded.model(input_ids=torch.tensor(ids)).logits.numpy()
    assert np.abs(run(elsewhere, {"input_ids": ids})["logits"] - expected).max() > 1e-4
    settled = run(optimize(elsewhere, tiny.MAX_LENGTH), {"input_ids": ids})["logits"]
    np.testing.assert_allclose(settled, expected, rtol=0, atol=2e-5)


def test_lower_opset_where_nothing_needs_a_newer_one(optimized):
    lowered = lower_opset(optimized.clone())
    assert (optimized.opset_imports[""], lowered.opset_imports[""]) == (OPSET, LOW_OPSET) == (23, 20)
    onnx.checker.check_model(ir.to_proto(lowered))
    feed = bert_feed(3, 12)
    assert run(lowered, feed)["logits"].tolist() == run(optimized, feed)["logits"].tolist()


def test_attention_keeps_its_opset(traced_model):
    model = lower_opset(traced_model.clone())
    assert model.opset_imports[""] == 23
    assert run(model, bert_feed(2, 8))["logits"].tolist() == run(traced_model, bert_feed(2, 8))["logits"].tolist()


def test_an_older_opset_is_not_raised(optimized):
    model = optimized.clone()
    model.opset_imports[""] = 18
    assert lower_opset(model).opset_imports[""] == 18


def conditional(condition):
    """input_ids -> logits by an If: twice the sum of a row's ids if `condition`(width, 30) holds, otherwise the sum itself."""
    from tests.support import graphs

    def branch(name, factor):
        output = onnx.helper.make_tensor_value_info(f"{name}_sum", onnx.TensorProto.FLOAT, None)
        factors = onnx.helper.make_node("Constant", [], [f"{name}_factor"], value_float=factor)
        return onnx.helper.make_graph(
            [factors, onnx.helper.make_node("Mul", ["sum", f"{name}_factor"], [f"{name}_sum"])], name, [], [output]
        )

    nodes = [
        onnx.helper.make_node("Shape", ["input_ids"], ["width"], start=1),
        onnx.helper.make_node(condition, ["width", "other"], ["asked"]),
        onnx.helper.make_node("Cast", ["input_ids"], ["floats"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("ReduceSum", ["floats", "axis"], ["sum"], keepdims=1),
    ]
    answer = onnx.helper.make_node("If", ["asked"], ["logits"], then_branch=branch("then", 2.0), else_branch=branch("else", 1.0))
    return ir.from_proto(graphs.model(*nodes, answer=[answer], initializers=[graphs.constant("other", 30)]))


@pytest.mark.parametrize(("condition", "remaining"), [("Equal", 0), ("Less", 1)])
def test_an_if_becomes_the_branch_that_every_width_takes(condition, remaining):
    # None of the probed widths is 30; some are smaller.
    model = conditional(condition)
    feed = {"input_ids": np.array([[1, 2, 3], [4, 5, 6]])}
    expected = run(model, feed)["logits"]
    optimized = optimize(model, 128)
    assert len(ops(optimized, "If")) == remaining
    assert run(optimized, feed)["logits"].tolist() == expected.tolist()


def constant_only(model):
    """The types of the nodes that read nothing that depends on the graph's inputs."""
    op_types, constants = [], set()
    for node in model.graph:
        inputs = [value for value in node.inputs if value is not None]
        if inputs and all(value.const_value is not None or value in constants for value in inputs):
            constants.update(node.outputs)
            op_types.append(node.op_type)
    return op_types


def test_no_product_of_constants_is_left_for_every_batch(tmp_path):
    # 256 relative positions: more than the optimizer folds by its own limits, as in DeBERTa-v3 itself.
    configuration = tiny.config("deberta-v2")
    configuration.position_buckets = 128
    transformers.AutoModelForSequenceClassification.from_config(configuration).save_pretrained(tmp_path)
    tiny.tokenizer("deberta-v2").save_pretrained(tmp_path)
    model = trace(checkpoint.load(str(tmp_path)))
    assert ops(model, "MatMul")
    assert "MatMul" not in constant_only(model)
