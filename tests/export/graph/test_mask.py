"""Masked graphs and float16: what is padded changes nothing, and float16 little."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from resift.errors import ExportError
from resift_export.checkpoint import load as checkpoint
from resift_export.graph.edit import lower_opset
from resift_export.graph.half import to_float16
from resift_export.graph.mask import add_mask, check_mask
from resift_export.graph.optimize import optimize
from resift_export.graph.weights import map_weights, open_session
from tests.conftest import trace_once
from tests.support import tiny

LENGTHS = (tiny.MAX_LENGTH, 150, 61, 20, 7, 3)
HALF_BOUND = 0.01
"""What float16 and padding may change of a logit, as a share of the range of the logits."""
PADDING_BOUND = 1e-4


@pytest.fixture
def graphs_of(checkpoint_of, tmp_path, toolchain):
    """graphs_of(family, labels): the checkpoint, and its graph in float32, masked, and in float16."""

    def make(family, labels=1):
        loaded = checkpoint.load(str(checkpoint_of(family, labels)))
        exact = map_weights(optimize(trace_once(loaded), loaded.max_length), tmp_path)
        masked = add_mask(exact.clone())
        return loaded, exact, masked, lower_opset(to_float16(masked.clone()))

    return make


def rows(lengths=LENGTHS):
    random = np.random.default_rng(5)
    return [random.integers(5, tiny.VOCABULARY, size=length) for length in lengths]


def run(session, texts, width=None, filler=0):
    """Logits of rows of token ids, padded to `width` with `filler`."""
    width = width or max(map(len, texts))
    inputs = {name: np.full((len(texts), width), filler, np.int64) for name in ("input_ids", "token_type_ids")}
    inputs["attention_mask"] = np.zeros((len(texts), width), np.int64)
    for at, ids in enumerate(texts):
        inputs["input_ids"][at, : len(ids)] = ids
        inputs["token_type_ids"][at, : len(ids)] = np.arange(len(ids)) > len(ids) // 2
        inputs["attention_mask"][at, : len(ids)] = 1
    names = [item.name for item in session.get_inputs()]
    if "token_type_ids" not in names:
        inputs["token_type_ids"][:] = 0
    return session.run(None, {name: inputs[name] for name in names})[0]


def apart(session, texts):
    return np.concatenate([run(session, [ids]) for ids in texts])


@pytest.mark.parametrize("family", tiny.quickly("bert"))
def test_padding_changes_nothing_and_float16_little(graphs_of, tmp_path, family):
    loaded, exact, masked, half = graphs_of(family)
    check_mask(masked, exact, loaded, tmp_path)
    texts = rows()
    expected = apart(open_session(exact, tmp_path), texts)
    session = open_session(masked, tmp_path)
    assert np.abs(run(session, texts) - expected).max() < PADDING_BOUND
    texts_of_segment = run(session, texts[2:], width=tiny.MAX_LENGTH)
    assert np.abs(texts_of_segment - expected[2:]).max() < PADDING_BOUND, "the width of the batch"
    session = open_session(half, tmp_path)
    span = np.ptp(expected)
    assert np.abs(run(session, texts) - expected).max() < HALF_BOUND * span
    assert np.abs(run(session, texts) - apart(session, texts)).max() < HALF_BOUND * span
    weights = [value.const_value for value in half.graph.initializers.values()]
    large = [tensor.dtype for tensor in weights if tensor.size > 64 * 64]
    assert large
    assert set(large) == {ir.DataType.FLOAT16}


def test_two_labels_stay_two(graphs_of, tmp_path):
    _, exact, _, half = graphs_of("bert", 2)
    texts = rows()
    expected, found = apart(open_session(exact, tmp_path), texts), run(open_session(half, tmp_path), texts)
    assert expected.shape == found.shape == (len(LENGTHS), 2)
    assert np.abs(found - expected).max() < HALF_BOUND * np.ptp(expected[:, 1] - expected[:, 0])


def test_a_mask_that_attention_does_not_read_is_noticed(graphs_of, tmp_path):
    loaded, exact, masked, _ = graphs_of("bert")
    heads = [node for node in masked.graph if node.op_type == "MultiHeadAttention"]
    assert len(heads) == 2
    heads[0].replace_input_with(4, None)
    with pytest.raises(ExportError, match=r"^with padding, logits of Bert\w+ change by .*leave float16 out of --precision$"):
        check_mask(masked, exact, loaded, tmp_path)


POOLINGS = {
    "mean": ("ReduceMean", [1], {"keepdims": 0}),
    "mean, kept": ("ReduceMean", [1], {"keepdims": 1}),
    "sum": ("ReduceSum", [1], {"keepdims": 0}),
    "max": ("ReduceMax", [1], {"keepdims": 0}),
    "last": ("Gather", -1, {"axis": 1}),
    "first": ("Gather", 0, {"axis": 1}),
}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_reads_tokens_only(tmp_path, pooling):
    op_type, argument, attributes = POOLINGS[pooling]
    ids = ir.Value(name="input_ids", shape=ir.Shape(["b", "w"]), type=ir.TensorType(ir.DataType.INT64))
    table = ir.tensor(np.random.default_rng(1).normal(size=(tiny.VOCABULARY, 16)).astype(np.float32), name="table")
    constants = [ir.Value(name="table", const_value=table, shape=table.shape, type=ir.TensorType(table.dtype))]
    argument = ir.tensor(np.array(argument), name="argument")
    constants.append(ir.Value(name="argument", const_value=argument, shape=argument.shape, type=ir.TensorType(argument.dtype)))
    axes = ir.tensor(np.array([-1]), name="axes")
    constants.append(ir.Value(name="axes", const_value=axes, shape=axes.shape, type=ir.TensorType(axes.dtype)))
    tokens = ir.node("Gather", [constants[0], ids])
    tokens.outputs[0].shape = ir.Shape(["b", "w", 16])
    pooled = ir.node(op_type, [tokens.outputs[0], constants[1]], attributes=attributes)
    logits = ir.node("ReduceMax", [pooled.outputs[0], constants[2]], attributes={"keepdims": 1})
    for number, node in enumerate((tokens, pooled, logits)):
        node.outputs[0].name, node.outputs[0].type = f"value_{number}", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [ids], logits.outputs, nodes=[tokens, pooled, logits], initializers=constants, opset_imports={"": 20}, name="g"
    )
    plain = ir.Model(graph, ir_version=10)
    texts = rows((9, 4, 1))
    expected = apart(open_session(plain, tmp_path), texts).reshape(3, -1)
    for model, bound in ((masked := add_mask(plain.clone()), 1e-6), (to_float16(masked.clone()), 0.01)):
        found = run(open_session(model, tmp_path), texts, width=12, filler=7).reshape(3, -1)
        assert np.abs(found - expected).max() < bound
