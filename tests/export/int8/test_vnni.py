"""--vnni: 8-bit weights for processors that sum int8 products in 32 bits, in addition to the 7-bit ones."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from resift import Reranker
from resift.artifact.agreement import Bounds
from resift.artifact.certificate import Certificate
from resift.artifact.folder import Artifact
from resift.errors import ExportError
from resift.machine import instruction_sets
from resift_export.convert import convert
from resift_export.graph.edit import array_of
from resift_export.recipe import VNNI, VNNI_FILE, Recipe
from tests.support.jobs import files

ANYTHING = Bounds(overlap=0, tau=-1, worst_tau=-1, error=1e9)
FILES = {"manifest.json", "tokenizer.json", "certificate.json", "README.md", "model.int8.onnx"}


@pytest.mark.skipif(not instruction_sets() & set(VNNI), reason="needs a processor with VNNI")
def test_eight_bit_weights_beside_seven_bit_ones(cheap, source, home, small_gate):
    plain = files(convert(source, home / "plain", Recipe(gate=small_gate, bounds=ANYTHING)))
    out = convert(source, home / "out", Recipe(gate=small_gate, bounds=ANYTHING, vnni=True, precisions=("float32", "int8")))
    assert set(files(out)) == FILES | {VNNI_FILE, "model.float32.onnx"}
    assert files(out)["model.int8.onnx"] == plain["model.int8.onnx"]
    opened = Artifact.open(out)
    assert [(variant.file, variant.instruction_sets) for variant in opened.manifest.full.variants] == [
        (VNNI_FILE, ["avx512_vnni"]),
        (VNNI_FILE, ["avx_vnni"]),
        (VNNI_FILE, ["asimd"]),
        ("model.int8.onnx", []),
        ("model.float32.onnx", []),
    ]
    assert opened.manifest.recipe["vnni"] is True
    certificate = Certificate.read(opened)
    assert list(certificate.agreement) == [VNNI_FILE, "model.int8.onnx", "model.float32.onnx"]
    eight, seven = certificate.agreement[VNNI_FILE], certificate.agreement["model.int8.onnx"]
    assert 0 < eight.error < seven.error
    assert f"| {VNNI_FILE} | avx512_vnni or avx_vnni or asimd |" in files(out)["README.md"].decode()
    with Reranker.load(out) as reranker:
        assert reranker.variant.file == VNNI_FILE
        pool = certificate.pools[3]
        found = reranker.logits(pool.query, pool.documents)
        assert found.tolist() == np.array(pool.variants[VNNI_FILE], np.float32).tolist()


def largest_weight(model):
    weights = [array_of(node.inputs[1]) for node in model.graph if node.op_type == "MatMulIntegerToFloat"]
    return max(int(np.abs(array.astype(int)).max()) for array in weights)


def test_what_vnni_gets_has_eight_bits_and_the_safe_graph_seven(cheap, monkeypatch, source, home, small_gate):
    monkeypatch.setattr("resift.machine.instruction_sets", lambda: frozenset({"avx2", "avx512_vnni"}))
    monkeypatch.setattr("resift_export.build.gate.instruction_sets", lambda: frozenset({"avx2", "avx512_vnni"}))
    out = convert(source, home / "out", Recipe(gate=small_gate, bounds=ANYTHING, vnni=True))
    assert largest_weight(ir.load(out / VNNI_FILE)) == 127
    assert largest_weight(ir.load(out / "model.int8.onnx")) == 63


@pytest.mark.parametrize("features", [{"avx2", "avx512f"}, set()])
def test_vnni_is_refused_where_it_cannot_be_verified(monkeypatch, source, home, features):
    monkeypatch.setattr("resift_export.checkpoint.load.load", lambda *_, **__: pytest.fail("loaded the checkpoint"))
    monkeypatch.setattr("resift_export.build.gate.instruction_sets", lambda: frozenset(features))
    message = f"{', '.join(sorted(features)) or 'neither'}, so it cannot be verified here; export on a machine"
    with pytest.raises(
        ExportError, match=rf"{VNNI_FILE} needs a processor with avx512_vnni or avx_vnni or asimd, but this one has {message}"
    ):
        convert(source, home / "out", Recipe(vnni=True))
    assert list(home.iterdir()) == []
