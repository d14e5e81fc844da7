"""What runs here is chosen by the processor: of two int8 variants the first one that its instruction sets allow."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import onnx
import pytest

from resift import ProviderError, Reranker, Settings, machine
from resift.artifact.folder import Artifact
from resift.runtime.providers import POLICIES, runtime
from tests.conftest import edit
from tests.support import tiny

QUERY, DOCUMENTS = "how do tides work", tiny.texts()[1:12:2]
SHIFT = 3.0
AVX2, AVX512 = {"avx2"}, {"avx2", "avx512f"}
EIGHT_BITS, SEVEN_BITS = "model.int8-vnni.onnx", "model.int8.onnx"
SUMS_IN_32_BITS = ("avx512_vnni", "avx_vnni", "asimd")
"""What `resift export --vnni` asks of a processor."""


def write_shifted(folder, name):
    """Writes a graph whose logits lie SHIFT above those of the artifact's own, and returns its entry of the manifest."""
    model = onnx.load(folder / SEVEN_BITS)
    producer = next(node for node in model.graph.node if "logits" in node.output)
    producer.output[list(producer.output).index("logits")] = "before"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(SHIFT, np.float32), "shift"))
    model.graph.node.append(onnx.helper.make_node("Add", ["before", "shift"], ["logits"]))
    content = model.SerializeToString()
    (folder / name).write_bytes(content)
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.fixture
def two(artifact, tmp_path):
    """The tiny artifact with a second int8 variant ahead of its own, whose logits lie SHIFT higher."""
    folder = shutil.copytree(artifact, tmp_path / "two")
    entry = write_shifted(folder, EIGHT_BITS)

    def change(manifest):
        manifest["files"][EIGHT_BITS] = entry
        manifest["graphs"][0]["variants"][:0] = [
            {"file": EIGHT_BITS, "precision": "int8", "instruction_sets": [name]} for name in SUMS_IN_32_BITS
        ]

    edit(folder, change)
    return folder


def logits(folder, **settings):
    with Reranker.load(folder, settings=Settings(**settings)) as reranker:
        ranking = reranker.rerank(QUERY, DOCUMENTS)
        found = [result.logit for result in sorted(ranking, key=lambda result: result.index)]
        return reranker.variant.file, reranker.precision, np.array(found)


@pytest.mark.parametrize(
    ("instruction_sets", "file"),
    [
        (AVX512 | {"avx512_vnni", "avx_vnni"}, EIGHT_BITS),
        (AVX512 | {"avx512_vnni"}, EIGHT_BITS),
        (AVX2 | {"avx_vnni"}, EIGHT_BITS),
        ({"asimd", "asimddp"}, EIGHT_BITS),
        ({"asimd"}, EIGHT_BITS),
        (AVX512, SEVEN_BITS),
        (AVX2, SEVEN_BITS),
        (set(), SEVEN_BITS),
    ],
)
def test_the_variant_is_chosen_by_the_processor_and_is_what_runs(monkeypatch, artifact, two, instruction_sets, file):
    _, _, expected = logits(artifact)
    monkeypatch.setattr(machine, "instruction_sets", lambda: frozenset(instruction_sets))
    for settings in ({}, {"precision": "int8"}):
        chosen, precision, found = logits(two, **settings)
        assert (chosen, precision) == (file, "int8")
        np.testing.assert_allclose(found, expected + (SHIFT if file == EIGHT_BITS else 0), rtol=0, atol=1e-5)
    assert logits(two, precision="float32")[:2] == ("model.float32.onnx", "float32")


def test_an_artifact_for_other_processors_alone_says_so(monkeypatch, two):
    monkeypatch.setattr(machine, "instruction_sets", lambda: frozenset(AVX2))
    edit(two, lambda manifest: manifest["graphs"][0]["variants"].__delitem__(slice(2, None)))
    with pytest.raises(ProviderError, match="this artifact has no graph for this machine: export"):
        Reranker.load(two)


def test_what_this_machine_has_decides_where_nothing_is_pretended(two):
    capable = machine.instruction_sets() & set(SUMS_IN_32_BITS)
    assert logits(two)[0] == (EIGHT_BITS if capable else SEVEN_BITS)
    assert json.loads((two / "manifest.json").read_bytes())["graphs"][0]["variants"][0]["file"] == EIGHT_BITS


@pytest.fixture
def with_short(artifact, tmp_path):
    """The tiny artifact with a graph for pairs of up to LIMIT tokens, whose logits lie SHIFT higher."""
    folder = shutil.copytree(artifact, tmp_path / "short")
    entry = write_shifted(folder, SHORT)

    def change(manifest):
        manifest["format"] = 3
        manifest["files"][SHORT] = entry
        for variant in manifest["graphs"][0]["variants"]:
            if variant["file"] == SEVEN_BITS:
                variant["short"] = {"file": SHORT, "up_to": LIMIT}

    edit(folder, change)
    return folder


SHORT, LIMIT = "model.int8.short.onnx", 16


def test_short_pairs_are_scored_by_their_own_graph_alone_and_beside_others(artifact, with_short):
    documents = ["the " * count for count in range(14)]
    with Reranker.load(artifact) as reranker:
        expected = reranker.logits("tides", documents)
        lengths = reranker.tokenizer.encode("tides", documents).lengths
    assert lengths.min() < LIMIT < lengths.max()
    with Reranker.load(with_short) as reranker:
        found = reranker.logits("tides", documents)
        alone = [reranker.logits("tides", [document])[0] for document in documents]
        assert reranker.variant.file == SEVEN_BITS
    assert found.tolist() == alone
    np.testing.assert_allclose(found, expected + np.where(lengths <= LIMIT, SHIFT, 0), rtol=0, atol=1e-5)


def test_the_graph_for_short_pairs_is_loaded_when_the_first_of_them_comes(with_short, monkeypatch):
    files, read = [], Artifact.read_graph
    monkeypatch.setattr(
        Artifact, "read_graph", lambda self, variant, **how: files.append(variant.file) or read(self, variant, **how)
    )
    with Reranker.load(with_short) as reranker:
        reranker.logits(QUERY, ["the " * 60])
        assert files == [SEVEN_BITS]
        reranker.logits("tides", ["moon"])
        reranker.logits("tides", ["sea", "the " * 60])
    assert files == [SEVEN_BITS, SHORT]


@pytest.mark.skipif(not machine.instruction_sets() & set(SUMS_IN_32_BITS), reason="this processor gets no 8-bit weights")
@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_processor_that_gets_eight_bit_weights_sums_their_largest_products_exactly(rows, sign):
    """Sums of 16 bits, as those of AVX2, saturate at the second product."""
    inputs, columns = 384, 24
    value = onnx.helper.make_tensor_value_info
    arrays = {"weights": np.full((inputs, columns), sign * 127, np.int8), "scale": np.float32(1), "zero": np.uint8(0)}
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMulIntegerToFloat", ["x", "weights", "scale", "scale", "zero"], ["y"], domain="com.microsoft")],
        "product",
        [value("x", onnx.TensorProto.UINT8, [rows, inputs])],
        [value("y", onnx.TensorProto.FLOAT, [rows, columns])],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    content = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    session = runtime().InferenceSession(content, POLICIES["cpu"].options(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.full((rows, inputs), 255, np.uint8)})
    assert found.tolist() == [[sign * 127 * 255 * inputs] * columns] * rows
