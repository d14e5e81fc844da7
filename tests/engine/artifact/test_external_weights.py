"""external_weights: weights that onnxruntime maps from the file of their graph."""

from __future__ import annotations

import os
import pickle
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from resift import Reranker
from resift.artifact import external_weights
from resift.artifact.external_weights import externalize_weights
from resift.artifact.folder import Artifact
from resift.artifact.graph_check import WeightsFile, check_graph
from resift.artifact.graph_on_disk import GraphOnDisk
from resift.artifact.protobuf import encode_field
from resift.errors import ArtifactError
from resift.runtime import providers
from tests.support import graphs

QUERY = "how do tides work"
DOCUMENTS = ["The moon's gravity pulls the sea.", "Bread rises when yeast makes gas.", ""]
LEAST = 64


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """Small tensors of small files count as large."""
    monkeypatch.setattr(external_weights, "SMALLEST", LEAST)
    monkeypatch.setattr("resift.artifact.folder.MAPPED_BYTES", 1)


def weights(name="table", length=40, **changes):
    tensor = onnx.numpy_helper.from_array(np.arange(length, dtype=np.float32), name)
    for field, value in changes.items():
        setattr(tensor, field, value)
    return tensor


def mapped(content: bytes) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(externalize_weights(memoryview(content), "model.onnx"))


def test_a_large_tensor_is_said_to_be_where_it_is_in_the_file():
    content = graphs.model(initializers=[weights(), weights("other", 50)]).SerializeToString()
    before = onnx.ModelProto.FromString(content)
    after = mapped(content)
    for inside, tensor in zip(before.graph.initializer, after.graph.initializer, strict=True):
        if len(inside.raw_data) < LEAST:
            assert tensor == inside
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        start, length = int(place["offset"]), int(place["length"])
        assert (place["location"], tensor.data_location, tensor.raw_data) == ("model.onnx", TensorProto.EXTERNAL, b"")
        assert content[start : start + length] == inside.raw_data
        tensor.raw_data = inside.raw_data
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    assert after == before
    check_graph(externalize_weights(memoryview(content), "model.onnx"), "model.onnx", WeightsFile("model.onnx", len(content)))


@pytest.mark.parametrize(
    "tensor", [weights(length=LEAST // 4 - 1), TensorProto(name="x", data_type=1, dims=[40], float_data=[0.5] * 40)]
)
def test_other_tensors_stay_as_they_are(tensor):
    content = graphs.model(initializers=[tensor]).SerializeToString()
    assert mapped(content) == onnx.ModelProto.FromString(content)


def test_a_tensor_with_its_bytes_twice_stays_as_it_is():
    twice = weights().SerializeToString() + encode_field(9, bytes(160))
    assert external_weights._tensor(memoryview(twice), 0, "model.onnx") == twice


def test_logits_are_the_same_to_the_bit(artifact, monkeypatch):
    with Reranker.load(artifact) as reranker:
        found = reranker.logits(QUERY, DOCUMENTS)
    monkeypatch.setattr("resift.artifact.folder.MAPPED_BYTES", 1 << 40)
    with Reranker.load(artifact) as reranker:
        assert reranker.logits(QUERY, DOCUMENTS).tobytes() == found.tobytes()


def test_its_weights_are_not_in_the_graph_that_is_given(artifact):
    opened = Artifact.open(artifact)
    variant = opened.manifest.full.variants[0]
    found = opened.read_graph(variant, can_map=True)
    assert isinstance(found, GraphOnDisk)
    assert found.content is not None
    assert len(found.content) < (artifact / variant.file).stat().st_size / 2
    assert isinstance(opened.read_graph(variant), bytes)


def test_an_onnxruntime_that_cannot_map_is_given_the_whole_graph(artifact, monkeypatch):
    monkeypatch.setattr(providers, "OLDEST_THAT_MAPS", "99.0.0")
    monkeypatch.setattr(Artifact, "_map", None)
    with Reranker.load(artifact) as reranker:
        assert len(reranker.logits(QUERY, DOCUMENTS)) == 3


def test_a_link_into_a_hub_cache_is_followed(artifact, tmp_path):
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    shutil.copytree(artifact, blobs)
    folder.mkdir(parents=True)
    for number, path in enumerate(sorted(blobs.iterdir())):
        path.rename(blobs / f"blob-{number}")
        (folder / path.name).symlink_to(os.path.relpath(blobs / f"blob-{number}", folder))
    with Reranker(Artifact.open(folder, links_into=tmp_path)) as linked, Reranker.load(artifact) as plain:
        assert linked.logits(QUERY, DOCUMENTS).tolist() == plain.logits(QUERY, DOCUMENTS).tolist()


@pytest.mark.skipif(not providers.can_map(), reason=f"needs onnxruntime {providers.OLDEST_THAT_MAPS}, which maps such weights")
def test_a_file_that_changes_while_it_is_loaded_is_refused(copy, monkeypatch):
    check = GraphOnDisk.check_unchanged

    def changed(found):
        content = found.path.read_bytes()
        found.path.unlink()
        found.path.write_bytes(content)
        check(found)

    monkeypatch.setattr(GraphOnDisk, "check_unchanged", changed)
    with pytest.raises(ArtifactError, match="were changed while they were being loaded; load the artifact again"):
        Reranker.load(copy)


def test_a_damaged_file_is_refused(copy):
    path = copy / "model.int8.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="SHA-256"):
        Reranker.load(copy)


def test_a_copy_made_by_pickle_maps_too(artifact):
    with Reranker.load(artifact) as reranker, pickle.loads(pickle.dumps(reranker)) as other:
        assert other.logits(QUERY, DOCUMENTS).tolist() == reranker.logits(QUERY, DOCUMENTS).tolist()
