"""Packed rows: no padding is computed, and logits are those of the masked graph.

What only CUDA has, the operator of packed attention, is computed by numpy here, as its documentation says.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from resift.errors import ExportError
from resift_export.checkpoint import load as checkpoint
from resift_export.graph.edit import array_of, lower_opset
from resift_export.graph.half import to_float16
from resift_export.graph.mask import add_mask, check_mask
from resift_export.graph.optimize import optimize
from resift_export.graph.pack import pack, packed_attentions
from resift_export.graph.weights import map_weights, open_session, save
from tests.conftest import trace_once
from tests.export.graph.test_mask import HALF_BOUND, LENGTHS, PADDING_BOUND, apart, rows, run
from tests.support import tiny
from tests.support.attention import evaluate

PACKED_ATTENTIONS = {"albert": 2, "deberta-v2": 0, "modernbert": 0, "mpnet": 0}
"""By family, layers whose attention reads packed rows; in the others all but the last one, which reads one query a row."""


@pytest.fixture
def graphs_of(checkpoint_of, tmp_path, toolchain):
    """graphs_of(family, labels): the checkpoint, its float32 graph, and that graph masked."""

    def make(family, labels=1):
        loaded = checkpoint.load(str(checkpoint_of(family, labels)))
        exact = map_weights(optimize(trace_once(loaded), loaded.max_length), tmp_path)
        return loaded, exact, add_mask(exact.clone())

    return make


def saved(model, folder):
    path = folder / "graph.onnx"
    save(model, path)
    return path


def is_packed(node):
    return "tokens" in map(str, node.outputs[0].shape or ())


@pytest.mark.parametrize("family", tiny.quickly("bert", "modernbert"))
def test_packed_rows_get_the_logits_of_each_row_alone(graphs_of, tmp_path, family):
    loaded, exact, masked = graphs_of(family)
    plain = pack(masked.clone(), fuses=False)
    check_mask(plain, exact, loaded, tmp_path)
    texts = rows()
    expected = apart(open_session(exact, tmp_path), texts)
    session = open_session(plain, tmp_path)
    for order in (slice(None), slice(None, None, -1)):
        assert np.abs(run(session, texts[order]) - expected[order]).max() < PADDING_BOUND
    assert np.abs(run(session, texts[2:], width=tiny.MAX_LENGTH) - expected[2:]).max() < PADDING_BOUND, "the width of the batch"
    assert np.abs(run(session, texts[:1]) - expected[:1]).max() < PADDING_BOUND, "no padding"
    half = open_session(pack(lower_opset(to_float16(masked.clone())), fuses=False), tmp_path)
    assert np.abs(run(half, texts) - expected).max() < HALF_BOUND * np.ptp(expected)


@pytest.mark.parametrize("family", tiny.quickly("bert"))
def test_packed_attention_as_documented_gives_the_same_logits(graphs_of, tmp_path, family):
    loaded, exact, masked = graphs_of(family)
    texts = rows((61, 20, 64, 7, 3))
    expected = apart(open_session(exact, tmp_path), texts)
    for model, bound in ((masked.clone(), PADDING_BOUND), (lower_opset(to_float16(masked.clone())), HALF_BOUND * np.ptp(expected))):
        packed = pack(model, fuses=True)
        assert len(list(packed_attentions(packed))) == PACKED_ATTENTIONS.get(family, loaded.layers - 1)
        has_operator = PACKED_ATTENTIONS.get(family) != 0
        session = Evaluated(saved(packed, tmp_path)) if has_operator else open_session(packed, tmp_path)
        found = run(session, texts, width=80)
        assert np.abs(found - expected).max() < bound


class Evaluated:
    """A session of the reference evaluator."""

    def __init__(self, path):
        self._model = onnx.load(path)

    def get_inputs(self):
        return self._model.graph.input

    def run(self, _, inputs):
        return evaluate(self._model, inputs)


def test_two_labels_stay_two(graphs_of, tmp_path):
    _, exact, masked = graphs_of("bert", 2)
    texts = rows()
    expected = apart(open_session(exact, tmp_path), texts)
    found = run(open_session(pack(masked, fuses=False), tmp_path), texts)
    assert found.shape == (len(LENGTHS), 2)
    assert np.abs(found - expected).max() < PADDING_BOUND


@pytest.mark.parametrize("family", tiny.quickly("bert"))
def test_no_layer_computes_padding(graphs_of, tmp_path, family):
    _, _, masked = graphs_of(family)
    model = pack(masked, fuses=False)
    products = [node for node in model.graph if node.op_type == "MatMul" and array_of(node.inputs[1]) is not None]
    others = [node.outputs[0].shape for node in products if not is_packed(node)]
    assert len(products) > len(others)
    assert all(len(shape) == 2 or shape[1] == 1 for shape in others), "one vector a row, in the last layer and in the head"
    names = [node.outputs[0].name for node in model.graph if node.op_type in ("MatMul", "LayerNormalization") and is_packed(node)]
    session = open_session(model, tmp_path, names)
    texts = rows((61, 20, 7))
    inputs = {"input_ids": np.zeros((3, 80), np.int64), "attention_mask": np.zeros((3, 80), np.int64)}
    for at, ids in enumerate(texts):
        inputs["input_ids"][at, : len(ids)], inputs["attention_mask"][at, : len(ids)] = ids, 1
    inputs["token_type_ids"] = np.zeros((3, 80), np.int64)
    given = {item.name for item in session.get_inputs()}
    found = session.run(None, {name: array for name, array in inputs.items() if name in given})
    assert {array.shape[:2] for array in found} == {(1, 61 + 20 + 7)}


@pytest.mark.parametrize("family", tiny.quickly("bert"))
def test_onnxruntime_accepts_the_operator_and_lacks_it_on_the_cpu_only(graphs_of, tmp_path, family):
    *_, masked = graphs_of(family)
    model = pack(lower_opset(to_float16(masked)), fuses=True)
    path = saved(model, tmp_path)
    attentions = list(packed_attentions(model))
    if not attentions:
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return
    with pytest.raises(Exception, match=r"NOT_IMPLEMENTED.*PackedMultiHeadAttention"):
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wrong = next(value for value in attentions[0].inputs[4:5])
    wide = ir.node("Cast", [wrong], attributes={"to": int(ir.DataType.INT64)})
    model.graph.insert_before(attentions[0], wide)
    attentions[0].replace_input_with(4, wide.outputs[0])
    with pytest.raises(Exception, match=r"Type Error.*token_offset|Type Error.*PackedMultiHeadAttention"):
        onnxruntime.InferenceSession(saved(model, tmp_path), providers=["CPUExecutionProvider"])


def test_equal_graphs_are_equal_files(graphs_of, tmp_path):
    *_, masked = graphs_of("bert")
    first, second = (saved(pack(masked.clone(), fuses=True), tmp_path).read_bytes() for _ in range(2))
    assert first == second


def test_a_graph_without_layers_cannot_be_packed():
    ids = ir.Value(name="input_ids", shape=ir.Shape(["b", "w"]), type=ir.TensorType(ir.DataType.INT64))
    total = ir.node("ReduceSum", [ids])
    total.outputs[0].name = "logits"
    graph = ir.Graph([ids], total.outputs, nodes=[total], opset_imports={"": 20}, name="g")
    with pytest.raises(ExportError, match="rows can be packed; leave --packed out"):
        pack(add_mask(ir.Model(graph, ir_version=10)), fuses=True)
