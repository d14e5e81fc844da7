"""Profiles of graphs: the kinds of their nodes, what each does a second, and that a profile is of the graph that runs."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import onnx
import pytest

from resift import Settings
from resift.artifact.folder import Artifact
from resift.runtime.providers import POLICIES, runtime
from tests.conftest import REPOSITORY


@pytest.fixture
def graph_profile(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    from benchmarks import graph_profile

    return graph_profile


@pytest.fixture
def peaks(graph_profile):
    return graph_profile.Peaks(int8=400e9, float32=100e9, cache=50e9, memory=10e9)


def event(op_type, index, start, micros, inputs, output, **sizes):
    facts = {"op_name": op_type, "node_index": str(index), "input_type_shape": inputs, "output_type_shape": [output]}
    facts |= {"activation_size": "0", "output_size": "0", **{name: str(size) for name, size in sizes.items()}}
    return {"cat": "Node", "name": f"n{index}_kernel_time", "ts": start, "dur": micros, "args": facts}


def run_of(start, product, attention):
    """A run with a product of those microseconds, and attention, and 10 microseconds that are neither's."""
    state = {"float": [2, 8, 64]}
    return [
        {"cat": "Session", "name": "model_run", "ts": start, "dur": 10 + product + attention, "args": {}},
        event("MatMulIntegerToFloat", 4, start + 5, product, [{"uint8": [2, 8, 32]}, {"float": []}], state),
        event("MultiHeadAttention", 5, start + 5 + product, attention, [state, state, state], state),
    ]


def test_a_nodes_time_is_that_of_its_fastest_run_after_the_warm_up(graph_profile, peaks):
    runs = [(1, 1), (1, 1), (30, 20), (20, 40), (25, 30)]  # the first two warm up
    events = [each for number, pair in enumerate(runs) for each in run_of(1000 * number, *pair)]
    nodes, between = graph_profile.read_profile(events[::-1])
    assert [(node.kind, round(1e6 * node.seconds)) for node in nodes] == [("products", 20), ("attention", 20)]
    assert between == pytest.approx(10e-6)

    found = graph_profile.Profile("full", "model.onnx", 2, 8, nodes, between)
    rows = {row["kind"]: row for row in found.kinds(peaks)}
    assert rows["products"]["ms"] == pytest.approx(0.02)
    assert rows["rest"]["ms"] == pytest.approx(0.01)
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1)
    operations = 2 * (2 * 8) * 32 * 64
    assert rows["products"]["rate"] == pytest.approx(operations / 20e-6 / 1e9)
    assert rows["products"]["of_peak"] == pytest.approx(operations / 20e-6 / 400e9)
    assert rows["attention"]["of_peak"] == pytest.approx(4 * 2 * 8 * 8 * 64 / 20e-6 / 100e9)


def test_kinds_and_operations_of_nodes(graph_profile):
    kind_of, operations_of = graph_profile.kind_of, graph_profile.operations_of
    packed, batched = [[2, 8, 32]], [[2, 4, 8, 16], [2, 4, 16, 8]]
    assert kind_of("MatMul", packed) == "products"  # onnxruntime leaves out the weights that it packed
    assert kind_of("MatMul", [*packed, [32, 64]]) == "products"
    assert kind_of("MatMul", batched) == "attention"
    assert kind_of("Gather", packed) == "rest"
    assert operations_of("MatMul", "attention", batched, [2, 4, 8, 8]) == 2 * (2 * 4 * 8 * 8) * 16
    # One query that reads 8 keys: the last layer's attention
    assert operations_of("MultiHeadAttention", "attention", [[2, 1, 32], [2, 8, 32], [2, 8, 32]], [2, 1, 32]) == 4 * 2 * 8 * 32
    assert operations_of("LayerNormalization", "normalization", packed, packed[0]) == 0


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_a_profile_holds_the_nodes_of_the_engines_graph(graph_profile, planned_artifact, peaks, precision):
    artifact = Artifact.open(planned_artifact)
    settings = Settings(provider="cpu", precision=precision)
    for graph in artifact.manifest.graphs:
        found = graph_profile.profile(artifact, settings, graph.name, tokens=24, rows=3)
        stored = onnx.load(planned_artifact / found.file, load_external_data=False)
        assert Counter(node.op_type for node in found.nodes) == Counter(node.op_type for node in stored.graph.node)
        is_int8 = {node.is_int8 for node in found.nodes if node.op_type == "MatMulIntegerToFloat"}
        assert is_int8 == ({True} if precision == "int8" else set())
        assert {row["kind"] for row in found.kinds(peaks) if row["ms"] > 0} >= {"products", "attention", "normalization", "rest"}


def test_the_command_writes_each_graph_at_each_length_that_the_model_takes(
    graph_profile, planned_artifact, peaks, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(graph_profile.Peaks, "measure", lambda: peaks)
    longest = Artifact.open(planned_artifact).manifest.pair.max_length
    monkeypatch.setattr("sys.argv", ["", str(planned_artifact), "--tokens", f"9,{longest},{longest + 1}", "--out", str(tmp_path)])
    graph_profile.main()
    batches = json.loads((tmp_path / "profile.json").read_text())["batches"]
    assert [(each["graph"], each["tokens"]) for each in batches] == [
        (graph, tokens) for graph in ("full", "first-look") for tokens in (9, longest)
    ]
    assert batches[0]["rows"] == POLICIES["cpu"].token_budget // 9
    assert all(each["ms"] == pytest.approx(sum(row["ms"] for row in each["kinds"])) for each in batches)
    assert capsys.readouterr().out.count("scaling and quantization") == len(batches)


def test_the_products_of_the_peaks_are_products(graph_profile):
    from benchmarks import peaks

    levels = np.random.default_rng(1).integers(0, 255, (5, 32)).astype(np.uint8)
    model = peaks._int8_product(32, 16)
    session = runtime().InferenceSession(model.SerializeToString(), POLICIES["cpu"].options(), providers=["CPUExecutionProvider"])
    weights = onnx.numpy_helper.to_array(next(each for each in model.graph.initializer if each.name == "weights"))
    expected = (levels.astype(np.int64) - 128) @ weights.astype(np.int64) * 0.01
    np.testing.assert_allclose(session.run(None, {"x": levels})[0], expected, rtol=1e-5, atol=1e-3)
    found = peaks.Peaks.measure(((8, 32, 32),), repeats=1)
    assert min(found.int8, found.float32, found.cache, found.memory) > 0
