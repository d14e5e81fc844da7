"""Weights in files beside their graphs: such an artifact behaves like any other and is checked as strictly."""

from __future__ import annotations

import errno
import json
import shutil

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from resift import ArtifactError, Reranker, Settings
from resift.artifact.agreement import Bounds
from resift.artifact.folder import Artifact
from resift.artifact.graph_on_disk import GraphOnDisk
from resift.cli.main import main
from resift.errors import ExportError, InputError
from resift_export.convert import convert
from resift_export.graph import edit as graph
from resift_export.graph import weights
from resift_export.graph.edit import lower_opset
from resift_export.graph.optimize import optimize
from resift_export.graph.weights import map_weights, open_session
from resift_export.recipe import Recipe
from tests.conftest import cheapen
from tests.support import tiny
from tests.support.jobs import files

ANYTHING = Bounds(overlap=0, tau=-1, worst_tau=-1, error=1e9)
GRAPHS = {"model.int8.onnx", "model.float32.onnx"}
WEIGHT_FILES = {f"{name}.data" for name in GRAPHS}
QUERY, TEXTS = "how do tides work", tiny.texts()[1:30:2]


@pytest.fixture(scope="session")
def external_artifact(built, source, toolchain, small_gate):
    """An artifact with most weights in separate files, as for a checkpoint of more than 2 GB."""

    def make(folder):
        with pytest.MonkeyPatch.context() as patch:
            cheapen(patch)
            patch.setattr(weights, "MAX_INLINE_BYTES", 100_000)
            patch.setattr(weights, "SMALLEST_WEIGHTS", 1024)
            convert(source, folder, Recipe(gate=small_gate, precisions=("int8", "float32"), bounds=ANYTHING))

    return built("outside", make)


@pytest.fixture
def copied(external_artifact, tmp_path):
    return shutil.copytree(external_artifact, tmp_path / "copied")


def test_weights_are_beside_their_graphs_listed_and_hashed(external_artifact):
    assert set(files(external_artifact)) > GRAPHS | WEIGHT_FILES
    listed = json.loads((external_artifact / "manifest.json").read_text())["files"]
    for name in GRAPHS | WEIGHT_FILES:
        assert listed[name]["size"] == (external_artifact / name).stat().st_size
    for name in GRAPHS:
        loaded = onnx.load(external_artifact / name, load_external_data=False)
        stored = [tensor for tensor in loaded.graph.initializer if tensor.external_data]
        assert len(stored) > 13  # the products' at least
        assert max(len(tensor.raw_data) for tensor in loaded.graph.initializer) < 1024
        for tensor in stored:
            where = {entry.key: entry.value for entry in tensor.external_data}
            assert where["location"] == f"{name}.data"
            assert int(where["offset"]) % weights.ALIGNMENT == 0


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_it_ranks_as_with_its_weights_inside(cheap, external_artifact, source, home, small_gate, precision):
    inside = convert(source, home / "inside", Recipe(gate=small_gate, precisions=("int8", "float32"), bounds=ANYTHING))
    assert not WEIGHT_FILES & set(files(inside))
    found = []
    for folder in (inside, external_artifact):
        with Reranker.load(folder, settings=Settings(precision=precision)) as reranker:
            found.append(reranker.logits(QUERY, TEXTS).tolist())
    assert found[0] == found[1]
    assert (inside / "certificate.json").read_bytes() == (external_artifact / "certificate.json").read_bytes()


def test_it_is_verified_and_replaced_as_any_other(cheap, copied, source, small_gate, capsys):
    assert main(["verify", str(copied), "--accept-bounds"]) in (0, 3)
    assert "model.int8.onnx on 30 pools" in capsys.readouterr().out
    convert(source, copied, Recipe(gate=small_gate, precisions=("float32",)), overwrite=True)
    assert not WEIGHT_FILES & set(files(copied))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shorten(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (flip, r"int8\.onnx\.data has SHA-256 .* but its manifest says"),
        (shorten, r"int8\.onnx\.data has \d+ bytes, but its manifest says"),
        (lambda path: path.unlink(), r"int8\.onnx\.data is missing"),
    ],
    ids=["flipped", "short", "missing"],
)
def test_damaged_weights_are_refused(copied, spoil, message):
    spoil(copied / "model.int8.onnx.data")
    with pytest.raises(ArtifactError, match=message):
        Reranker.load(copied)


def test_weights_are_found_in_the_cache_of_a_hub(external_artifact, tmp_path):
    blobs, snapshot = tmp_path / "model" / "blobs", tmp_path / "model" / "snapshots" / "commit"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, (name, content) in enumerate(sorted(files(external_artifact).items())):
        (blobs / str(number)).write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    with Reranker.load(external_artifact) as plain, Reranker(Artifact.open(snapshot, links_into=tmp_path / "model")) as linked:
        assert linked.logits(QUERY, TEXTS).tolist() == plain.logits(QUERY, TEXTS).tolist()


def test_weights_outside_the_folder_are_refused(copied, tmp_path):
    data = copied / "model.int8.onnx.data"
    data.rename(tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="leads outside the artifact's folder"):
        Reranker.load(copied)


def test_weights_that_the_manifest_does_not_list_are_refused(copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    del manifest["files"]["model.int8.onnx.data"]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    (copied / "model.int8.onnx.data").unlink()
    with pytest.raises(ArtifactError, match="reads weights from another file"):
        Reranker.load(copied)


@pytest.mark.parametrize("name", ["model.int8.onnx", "model.int8.onnx.data"])
def test_files_that_change_while_they_are_loaded_are_refused(copied, monkeypatch, name):
    check = GraphOnDisk.check_unchanged

    def changed(graph):
        content = (copied / name).read_bytes()
        (copied / name).unlink()
        (copied / name).write_bytes(content)
        check(graph)

    monkeypatch.setattr(GraphOnDisk, "check_unchanged", changed)
    with pytest.raises(ArtifactError, match="were changed while they were being loaded; load the artifact again"):
        Reranker.load(copied)


def test_the_engine_maps_weights_instead_of_reading_them(external_artifact):
    artifact = Artifact.open(external_artifact)
    found = artifact.read_graph(artifact.manifest.full.variants[0])
    assert isinstance(found, GraphOnDisk)
    assert found.path == external_artifact / "model.int8.onnx"


@pytest.mark.parametrize("name", ["model.int8.onnx.data", "model.onnx"])
def test_attached_files_cannot_pass_for_weights(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match="cannot attach"):
        Recipe(attached=[tmp_path / name]).attached_files()


@pytest.mark.parametrize("limit", [0, 1 << 40], ids=["written beside", "written inside"])
def test_sessions_see_the_same_values_wherever_weights_are(trace_of_source, tmp_path, monkeypatch, limit):
    model = optimize(trace_of_source.clone(), tiny.MAX_LENGTH)
    monkeypatch.setattr(weights, "MAX_INLINE_BYTES", limit)
    monkeypatch.setattr(weights, "SMALLEST_WEIGHTS", 1024)
    mapped = map_weights(model, tmp_path)
    large = [value.const_value for value in mapped.graph.initializers.values() if value.const_value.nbytes >= 1024]
    assert large
    assert all(isinstance(tensor, ir.ExternalTensor) for tensor in large)
    feed = {"input_ids": np.full((2, 7), 5), "token_type_ids": np.zeros((2, 7), np.int64)}
    names = [node.outputs[0].name for node in model.graph if node.op_type == "MatMul"][:3]
    answers = [open_session(each, tmp_path, names).run(None, feed) for each in (model, mapped)]
    for first, second in zip(*answers, strict=True):
        assert first.tolist() == second.tolist()


def test_weights_in_use_are_written_inside(trace_of_source, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "SMALLEST_WEIGHTS", 1024)
    mapped = map_weights(optimize(trace_of_source.clone(), tiny.MAX_LENGTH), tmp_path)
    arrays = {name: value.const_value.numpy() for name, value in mapped.graph.initializers.items()}
    assert weights.save(mapped, tmp_path / "whole.onnx") == [tmp_path / "whole.onnx"]
    whole = onnx.load(tmp_path / "whole.onnx", load_external_data=False)
    assert not any(tensor.external_data for tensor in whole.graph.initializer)
    for tensor in whole.graph.initializer:
        assert onnx.numpy_helper.to_array(tensor).tobytes() == arrays[tensor.name].tobytes()


def test_a_full_disk_is_one_clear_error(trace_of_source, tmp_path, monkeypatch):
    def full(*_, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ir, "save", full)
    with pytest.raises(ExportError, match=r"cannot write the float32 weights .*: No space left on device"):
        map_weights(trace_of_source.clone(), tmp_path)


def test_opset_is_lowered_without_a_look_at_weights(trace_of_source, monkeypatch):
    checked = []
    monkeypatch.setattr(graph, "SMALLEST_WEIGHTS", 1024)
    monkeypatch.setattr(onnx.checker, "check_model", lambda proto: checked.append(proto.ByteSize()))
    model = lower_opset(optimize(trace_of_source.clone(), tiny.MAX_LENGTH))
    assert model.opset_imports[""] == 20
    assert sum(value.const_value.nbytes for value in model.graph.initializers.values()) > 10 * checked[0]
