"""What a manifest says of its graphs is compared with their weights when they are loaded."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from resift import ArtifactError, Reranker, Settings
from resift.artifact.folder import Artifact, embedded
from resift.artifact.graph_facts import GraphFacts
from resift.artifact.protobuf import encode_field
from tests.conftest import edit, rewrite
from tests.support import graphs, tiny

WITHOUT_TABLE = ("deberta-v2", "modernbert")
"""Families whose positions are relative or angles."""


def facts_of(folder):
    artifact = Artifact.open(folder)
    variants = [variant for graph in artifact.manifest.graphs for variant in graph.variants]
    return [(artifact.manifest.pair, variant, GraphFacts.of((folder / variant.file).read_bytes())) for variant in variants]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_facts_of_every_family(artifact_of, family):
    for pair, variant, facts in facts_of(artifact_of(family)):
        assert facts.precision == variant.precision
        assert facts.rows["input_ids"] == pair.vocabulary == tiny.VOCABULARY
        assert facts.positions == (None if family in WITHOUT_TABLE else tiny.MAX_LENGTH)


def test_the_facts_of_the_embedded_model():
    for pair, variant, facts in facts_of(embedded()["ms-marco-minilm-l12"]):
        assert (facts.precision, facts.positions) == (variant.precision, pair.max_length)
        assert facts.rows == {"input_ids": pair.vocabulary, "token_type_ids": 2}


def pair(**changes):
    return lambda manifest: manifest["pair"].update(changes)


def swapped(manifest):
    """Calls each variant what the other one is."""
    for variant in manifest["graphs"][0]["variants"]:
        variant["precision"] = {"int8": "float32", "float32": "int8"}[variant["precision"]]


def of_segments(manifest):
    manifest["pair"]["template"] = [token.replace(":1", ":2") for token in manifest["pair"]["template"]]


CONTRADICTIONS = {
    "a larger vocabulary": (
        pair(vocabulary=1201),
        r"int8\.onnx has 1200 embeddings of token ids, but the vocabulary in .* is 1201",
    ),
    "a vocabulary of 2**31": (
        pair(vocabulary=1 << 31),
        "has 1200 embeddings of token ids, but the vocabulary in its manifest is 2147483648",
    ),
    "a longer pair": (pair(max_length=193), "has 192 positions, but max_length in its manifest is 193"),
    "an int8 file called float32": (swapped, r"int8\.onnx has int8 weights, but its manifest says float32"),
}


@pytest.mark.parametrize(("change", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_manifest_that_contradicts_its_graph_does_not_load(copy, change, message):
    edit(copy, change)
    precision = "float32" if change is swapped else "int8"
    with pytest.raises(ArtifactError, match=f"{message}; export the artifact again$"):
        Reranker.load(copy, settings=Settings(precision=precision))


def test_a_float32_file_called_int8_does_not_load(copy):
    edit(copy, swapped)
    with pytest.raises(ArtifactError, match=r"float32\.onnx has float32 weights, but its manifest says int8; export"):
        Reranker.load(copy, settings=Settings(precision="int8"))


@pytest.mark.parametrize("family", ["roberta", "mpnet"])
def test_positions_that_follow_the_padding_index_are_counted_from_there(artifact_of, tmp_path, family):
    copy = shutil.copytree(artifact_of(family), tmp_path / "copy")
    edit(copy, pair(max_length=193))
    with pytest.raises(ArtifactError, match="has 192 positions, but max_length in its manifest is 193"):
        Reranker.load(copy)


def test_a_pair_of_more_segments_than_the_graph_knows_does_not_load(copy):
    tokenizer = (copy / "tokenizer.json").read_text()
    rewrite(copy, "tokenizer.json", tokenizer.replace('"type_id":1', '"type_id":2').encode())
    edit(copy, of_segments)
    with pytest.raises(ArtifactError, match=r"has 2 embeddings of segments, but the number of segments in .* is 3"):
        Reranker.load(copy)


def test_a_manifest_may_state_no_longer_pairs_than_settings():
    folder = embedded()["ms-marco-minilm-l12"]
    manifest = (folder / "manifest.json").read_bytes().replace(b'"max_length": 512', b'"max_length": 2147483648')
    from resift.artifact.manifest import decode_manifest

    with pytest.raises(ArtifactError, match=r"pair\.max_length"):
        decode_manifest(manifest)


def table(name, rows):
    return numpy_helper.from_array(np.zeros((rows, 4), np.float32), name)


def chosen(*nodes, rows=7, axis=0, initializers=()):
    """A graph that selects from a table of `rows` by what the nodes make, which is named numbers."""
    node = helper.make_node("Gather", ["table", "numbers"], ["unread"], axis=axis)
    return graphs.model(*nodes, node, initializers=[table("table", rows), *initializers]).SerializeToString()


START = [graphs.scalar("zero", 0), graphs.scalar("two", 2), graphs.constant("axis of sum", 1)]
RANGE = helper.make_node("Range", ["zero", "width", "two"], ["numbers"])
SUM = helper.make_node("CumSum", ["input_ids", "zero"], ["sum"])
STORED = numpy_helper.from_array(np.zeros((1, 5), np.int64), "stored")


@pytest.mark.parametrize(
    ("content", "positions"),
    [
        (chosen(RANGE, initializers=START), 7),
        (chosen(SUM, helper.make_node("Add", ["two", "sum"], ["numbers"]), initializers=START), 4),
        (chosen(SUM, helper.make_node("Add", ["sum", "unknown"], ["numbers"]), initializers=START), None),
        (chosen(SUM, helper.make_node("Mul", ["sum", "mask"], ["numbers"]), initializers=START), 6),
        (chosen(SUM, helper.make_node("Mul", ["sum", "two"], ["numbers"]), initializers=START), None),
        (chosen(RANGE, axis=1, initializers=START), None),
        (chosen(helper.make_node("Slice", ["stored", "zero", "end"], ["numbers"]), initializers=[*START, STORED]), 5),
        (chosen(helper.make_node("Neg", ["input_ids"], ["numbers"])), None),
        (chosen(helper.make_node("Identity", ["numbers"], ["numbers"])), None),
        (chosen(helper.make_node("Add", ["numbers"], ["numbers"])), None),
    ],
    ids=[
        *("a range", "a sum from 2", "a sum from an unknown number", "a sum by a mask", "a sum by a number", "columns by a range"),
        *("a stored range", "other numbers", "a cycle", "too few inputs"),
    ],
)
def test_how_positions_are_recognized(content, positions):
    assert GraphFacts.of(content).positions == positions


def test_dimensions_may_be_packed():
    model = onnx.load_from_string(chosen(RANGE, initializers=START))
    tensor = model.graph.initializer[1]
    encoded = tensor.SerializeToString()
    plain, packed = b"\x08\x07\x08\x04", b"\x0a\x02\x07\x04"
    assert tensor.name == "table"
    assert plain in encoded
    content = model.SerializeToString()
    repacked = content.replace(plain, packed)
    assert GraphFacts.of(repacked) == GraphFacts.of(content)
    assert GraphFacts.of(content).positions == 7


def weights(kind, *shape):
    return onnx.TensorProto(name=f"{kind} {shape}", data_type=kind, dims=shape)


INT8, UINT8, HALF, BRAIN = (onnx.TensorProto.DataType.Value(name) for name in ("INT8", "UINT8", "FLOAT16", "BFLOAT16"))


@pytest.mark.parametrize(
    ("initializers", "precision"),
    [
        ([weights(INT8, 3, 4), weights(HALF, 3, 4), weights(BRAIN, 3, 4)], "int8"),
        ([weights(UINT8, 3, 4), weights(HALF, 3, 4)], "int8"),
        ([weights(BRAIN, 3, 4), weights(HALF, 3, 4)], "float16"),
        ([weights(BRAIN, 3, 4)], "bfloat16"),
        ([weights(INT8), weights(UINT8, 2), weights(HALF, 4)], "float32"),
    ],
    ids=["int8 among others", "uint8", "float16 among others", "bfloat16", "constants that are no matrices"],
)
def test_the_precision_is_that_of_the_matrices_with_the_fewest_bits(initializers, precision):
    content = graphs.model(initializers=[table("table", 7), *initializers]).SerializeToString()
    assert GraphFacts.of(content).precision == precision


@pytest.mark.parametrize("number", [1, 7], ids=["dimensions", "values"])
def test_long_lists_of_numbers_are_not_unpacked(number):
    """Reading megabytes of them takes seconds, and no fact is in them. These would be damaged if they were read."""
    tensor = encode_field(number, b"\x80" * 4000) + encode_field(8, b"long")
    assert GraphFacts.of(encode_field(7, encode_field(5, tensor))) == GraphFacts()
