"""The check of a graph's file: what it refuses, and that no encoding hides it."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from resift import ArtifactError, Reranker
from resift.artifact.folder import Artifact, embedded
from resift.artifact.graph_check import CONTRIB_OPERATORS, FIELD_LIMIT, WeightsFile, check_graph
from tests.support import graphs

GRAPH = "model.int8.onnx"


def varint(value: int, length: int = 0) -> bytes:
    """At least `length` bytes, with idle ones where the value needs fewer."""
    parts = []
    while value > 0x7F or len(parts) < length - 1:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def with_tensor(tensor: bytes) -> bytes:
    """A model with that encoded initializer, after whose fields those of the message follow."""
    return field(7, graphs.model().graph.SerializeToString() + field(5, tensor))


def with_attribute(**attribute) -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["unread"])
    node.attribute.add(name="value", **attribute)
    return graphs.model(node)


def with_domain(domain: str, op_type: str = "Identity") -> onnx.ModelProto:
    return graphs.model(helper.make_node(op_type, ["input_ids"], ["unread"], domain=domain))


def with_training() -> onnx.ModelProto:
    built = graphs.model()
    built.training_info.add().algorithm.CopyFrom(built.graph)
    return built


def with_sparse_initializer() -> onnx.ModelProto:
    built = graphs.model()
    built.graph.sparse_initializer.append(graphs.sparse_tensor())
    return built


def located(location: int) -> TensorProto:
    tensor = graphs.constant("weights", 1.0)
    tensor.data_location = location
    return tensor


SUBGRAPH = graphs.model().graph
ELSEWHERE, FLOW, SPARSE = "reads weights from another file", "has control flow", "holds a sparse tensor"
TEXTS = TensorProto(name="texts", data_type=TensorProto.STRING, dims=[1 << 32])
REFUSED = {
    "external initializer": (graphs.model(initializers=[graphs.external_tensor()]), ELSEWHERE),
    "external by its location alone": (graphs.model(initializers=[located(TensorProto.EXTERNAL)]), ELSEWHERE),
    "external attribute": (with_attribute(t=graphs.external_tensor(), type=4), ELSEWHERE),
    "external among an attribute's tensors": (
        with_attribute(tensors=[graphs.constant("a", 1), graphs.external_tensor()], type=9),
        ELSEWHERE,
    ),
    "external attribute of another declared type": (with_attribute(t=graphs.external_tensor(), i=1, type=2), ELSEWHERE),
    "sparse initializer": (with_sparse_initializer(), SPARSE),
    "sparse attribute": (with_attribute(sparse_tensor=graphs.sparse_tensor(), type=11), SPARSE),
    "sparse attributes": (with_attribute(sparse_tensors=[graphs.sparse_tensor()], type=12), SPARSE),
    "texts": (graphs.model(initializers=[TEXTS]), "holds a string tensor"),
    "attribute of texts": (with_attribute(t=TEXTS, type=4), "holds a string tensor"),
    "Loop": (graphs.endless_loop(), FLOW),
    "graph in any attribute": (with_attribute(g=SUBGRAPH, type=5), FLOW),
    "graphs in any attribute": (with_attribute(graphs=[SUBGRAPH], type=10), FLOW),
    "local functions": (graphs.model(functions=graphs.billion_laughs().functions), "defines functions of its own"),
    "operator of a local function": (graphs.billion_laughs(), "the domain 'laughs'"),
    "training graph": (with_training(), "holds a training graph"),
    "operator of nobody": (with_domain("evil.domain"), "the domain 'evil.domain', which resift does not run"),
    "operator of machine learning": (with_domain("ai.onnx.ml", "Scaler"), "'Scaler' of the domain 'ai.onnx.ml'"),
    "operator that runs Python": (with_domain("com.microsoft", "PythonOp"), "'PythonOp' of the domain 'com.microsoft'"),
    "operator that names a file": (with_domain("com.microsoft", "EPContext"), "'EPContext' of the domain 'com.microsoft'"),
    "escapes in names": (with_domain("\x1b[2J"), r"the domain '\x1b[2J'"),
}


@pytest.mark.parametrize(("model", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_graph_must_not_hold_is_refused_by_name(model, message):
    with pytest.raises(ArtifactError) as caught:
        check_graph(model.SerializeToString(), "model.onnx")
    assert str(caught.value).startswith("model.onnx ")
    assert message in str(caught.value)
    assert "export the checkpoint again" in str(caught.value)


def beside(**entries) -> onnx.ModelProto:
    """A graph with weights in a file beside it, whose place `entries` change; None leaves one out."""
    tensor = graphs.external_tensor()
    del tensor.external_data[:]
    for key, value in ({"location": "model.onnx.data", "offset": "4096", "length": "16"} | entries).items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    return graphs.model(initializers=[tensor])


def twice(key: str, value: str) -> onnx.ModelProto:
    model = beside()
    next(tensor for tensor in model.graph.initializer if tensor.external_data).external_data.add(key=key, value=value)
    return model


WEIGHTS_FILE = WeightsFile("model.onnx.data", 4112)
OUTSIDE_OF_IT = "reads weights outside the 4112 bytes of model.onnx.data"
REFUSED_BESIDE = {
    "another file": (beside(location="../secret"), "reads weights from another file, '../secret'"),
    "the file by another path": (beside(location="./model.onnx.data"), "reads weights from another file, './model"),
    "beyond its end": (beside(length="17"), OUTSIDE_OF_IT),
    "before its beginning": (beside(offset="-1"), OUTSIDE_OF_IT),
    "a number in other digits": (beside(offset="٣"), OUTSIDE_OF_IT),
    "a number beyond 64 bits": (beside(offset="9" * 30), OUTSIDE_OF_IT),
    "no length": (beside(length=None), "locates weights by 'location, offset'"),
    "more than a place": (beside(checksum="0"), "locates weights by 'checksum, length, location, offset'"),
    "two places": (twice("location", "../secret"), "is not an ONNX file, or is damaged"),
    "no place": (graphs.model(initializers=[located(TensorProto.EXTERNAL)]), "locates weights by ''"),
    "in an attribute": (with_attribute(t=next(t for t in beside().graph.initializer if t.external_data), type=4), ELSEWHERE),
}


@pytest.mark.parametrize(("model", "message"), REFUSED_BESIDE.values(), ids=REFUSED_BESIDE)
def test_weights_may_be_in_the_file_beside_the_graph_alone(model, message):
    with pytest.raises(ArtifactError) as caught:
        check_graph(model.SerializeToString(), "model.onnx", WEIGHTS_FILE)
    assert message in str(caught.value)


def test_weights_in_the_file_beside_the_graph_are_accepted_where_there_is_one():
    check_graph(beside().SerializeToString(), "model.onnx", WEIGHTS_FILE)
    check_graph(graphs.model().SerializeToString(), "model.onnx", WEIGHTS_FILE)
    with pytest.raises(ArtifactError, match=ELSEWHERE):
        check_graph(beside().SerializeToString(), "model.onnx")


def test_weights_may_be_in_each_of_two_files():
    other = WeightsFile("other.onnx", 5000)
    check_graph(beside().SerializeToString(), "model.onnx", other, WEIGHTS_FILE)
    check_graph(beside(location="other.onnx", offset="4900").SerializeToString(), "model.onnx", WEIGHTS_FILE, other)
    with pytest.raises(ArtifactError, match=r"reads weights outside the 4112 bytes of model\.onnx\.data"):
        check_graph(beside(offset="4900").SerializeToString(), "model.onnx", WEIGHTS_FILE, other)


NAMED = helper.make_node("Identity", ["input_ids"], ["location"], name="allocation", doc_string="external_data Loop If Scan")
ACCEPTED = {
    "plain": graphs.model(),
    "named like the refused": graphs.model(NAMED, initializers=[graphs.constant("location", 1)]),
    "attribute tensor": with_attribute(t=graphs.constant("value", 1), type=4),
    "default location": graphs.model(initializers=[located(TensorProto.DEFAULT)]),
    "alias of ONNX's domain": with_domain("ai.onnx"),
    "every contrib operator of the exporter": graphs.model(
        *(helper.make_node(name, ["input_ids"], [name], domain="com.microsoft") for name in sorted(CONTRIB_OPERATORS))
    ),
    "notes": helper.make_model(graphs.model().graph, doc_string="location"),
}


@pytest.mark.parametrize("model", ACCEPTED.values(), ids=ACCEPTED)
def test_what_a_graph_may_hold_is_accepted(model):
    check_graph(model.SerializeToString(), "model.onnx")


@pytest.mark.parametrize("name", embedded())
def test_the_embedded_graph_is_accepted(name):
    artifact = Artifact.open(embedded()[name])
    variants = [variant for graph in artifact.manifest.graphs for variant in graph.variants]
    checked = [artifact.read_graph(each) for variant in variants for each in variant.graphs()]
    assert len(checked) == len([*embedded()[name].glob("*.onnx")])


def replace_graph(copy, content: bytes) -> None:
    """Puts a graph into an artifact and makes its manifest agree."""
    (copy / GRAPH).write_bytes(content)
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest["files"][GRAPH] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (copy / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("model", [graphs.endless_loop(), graphs.billion_laughs(12)], ids=["endless loop", "billion laughs"])
def test_an_artifact_whose_graph_would_not_end_is_refused(copy, model):
    replace_graph(copy, model.SerializeToString())
    with pytest.raises(ArtifactError, match=r"control flow|the domain 'laughs'"):
        Reranker.load(copy)


def test_an_artifact_whose_nodes_are_named_location_and_allocation_ranks(copy):
    with Reranker.load(copy) as reranker:
        expected = reranker.score("a", ["b", "c"]).tolist()
    built = onnx.load(copy / GRAPH)
    built.graph.node[0].name, built.graph.node[1].name = "location", "allocation"
    replace_graph(copy, built.SerializeToString())
    with Reranker.load(copy) as reranker:
        assert reranker.score("a", ["b", "c"]).tolist() == expected


def ort_format(tmp_path) -> bytes:
    """A graph in onnxruntime's own format."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(graphs.model().SerializeToString(), options, providers=["CPUExecutionProvider"])
    return (tmp_path / "model.ort").read_bytes()


def test_the_format_of_onnxruntime_is_refused_though_it_would_load(tmp_path):
    content = ort_format(tmp_path)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert session.run(None, {"input_ids": np.array([[1, 2]])})[0].tolist() == [[3]]
    with pytest.raises(ArtifactError, match="onnxruntime's own format"):
        check_graph(content, "model.onnx")


def test_onnxruntime_takes_a_file_that_begins_as_onnx_for_its_own_format():
    # The reason to look at these four bytes: as ONNX, this is a model whose producer is "..ORTM".
    content = field(2, b"..ORTM") + graphs.model().SerializeToString()
    with pytest.raises(ArtifactError, match="onnxruntime's own format"):
        check_graph(content, "model.onnx")
    assert onnx.load_from_string(content).graph.node
    with pytest.raises(Exception, match="ORT"):
        onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


PLAIN = graphs.model().SerializeToString()
WEIGHTS = graphs.constant("weights", 1.0).SerializeToString()
ENTRY = graphs.external_tensor().external_data[0].SerializeToString()
LOOP = graphs.endless_loop().graph.SerializeToString()
TENSOR_IN_PARTS = field(5, field(1, b"value") + field(5, WEIGHTS) + field(5, field(14, 1)))
HIDDEN = {
    "graph in two parts": PLAIN + field(7, LOOP),
    "graph in two parts, the other first": field(7, LOOP) + PLAIN,
    "external data taken back": with_tensor(WEIGHTS + field(14, 1) + field(14, 0)),
    "external data after a default": with_tensor(WEIGHTS + field(14, 0) + field(14, 1)),
    "location of more than 32 bits": with_tensor(WEIGHTS + field(14, (1 << 32) + 1)),
    "location in ten bytes": with_tensor(WEIGHTS + varint(14 << 3) + varint(1, length=10)),
    "tag in five bytes": with_tensor(WEIGHTS + varint(14 << 3, length=5) + b"\x01"),
    "tag of more than 32 bits": with_tensor(WEIGHTS + varint((1 << 32) + (14 << 3)) + b"\x01"),
    "an attribute's tensor in two parts": field(7, field(1, TENSOR_IN_PARTS)),
    "entry of a tensor in two parts": field(7, field(1, field(5, field(5, WEIGHTS) + field(5, field(13, ENTRY))))),
    "domain given twice": field(7, field(1, field(4, b"Identity") + field(7, b"") + field(7, b"evil.domain"))),
    "type given twice": field(7, field(1, field(7, b"com.microsoft") + field(4, b"MultiHeadAttention") + field(4, b"PythonOp"))),
    "domain that is not UTF-8": field(7, field(1, field(7, b"\xff"))),
    "domain of a number between": field(7, field(1, field(7, b"evil.domain") + field(7, 0))),
    "texts of more than 32 bits": with_tensor(field(2, (1 << 32) + 8)),
}


@pytest.mark.parametrize("content", HIDDEN.values(), ids=HIDDEN)
def test_no_encoding_hides_what_is_refused(content):
    with pytest.raises(ArtifactError):
        check_graph(content, "model.onnx")


DAMAGED = {
    "text": b"not onnx at all",
    "varint cut short": b"\x08\x80",
    "varint of eleven bytes": b"\x08" + b"\x80" * 10 + b"\x01",
    "length cut short": b"\x3a\xff",
    "length beyond the end": b"\x3a\x05\x0a\x00",
    "length of gigabytes": b"\x3a" + varint(1 << 40) + b"\x0a\x00",
    "length of 70 bits": b"\x3a" + varint((1 << 70) - 1),
    "fixed 64 cut short": b"\x09\x00\x00",
    "fixed 32 cut short": b"\x0d\x00",
    "group": b"\x1b\x1c",
    "end of a group": b"\x1c",
    "wire type 6": b"\x1e",
    "wire type 7": b"\x1f",
    "field number 0": b"\x00\x00",
    "graph of a number": b"\x38\x01",
    "graph of fixed 64": b"\x39" + b"\x00" * 8,
    "inner length beyond the graph's": field(7, b"\x0a\x05\x0a"),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_protobuf_message_is_refused(content):
    with pytest.raises(ArtifactError, match="is not an ONNX file, or is damaged"):
        check_graph(content, "model.onnx")


@pytest.mark.parametrize("unit", [field(1, b""), field(99, 0), field(1, field(5, b""))], ids=["nodes", "unknown", "attributes"])
def test_a_file_of_very_many_parts_is_refused(unit):
    check_graph(field(7, unit * 1000), "model.onnx")
    with pytest.raises(ArtifactError, match=f"has more than {FIELD_LIMIT} fields"):
        check_graph(field(7, unit * FIELD_LIMIT), "model.onnx")


def test_deeply_nested_messages_are_refused_without_deep_recursion():
    graph = b""
    for _ in range(5000):
        graph = field(1, field(5, field(6, graph)))
    with pytest.raises(ArtifactError, match="has control flow"):
        check_graph(field(7, graph), "model.onnx")


def refused_things(message) -> set[str]:
    """The same question asked of onnx, of every message in the model that it reads."""
    found = set()
    waiting = [message]
    while waiting:
        part = waiting.pop()
        kind = part.DESCRIPTOR.name
        tests = {
            "TensorProto": lambda tensor: tensor.external_data or tensor.data_location or tensor.data_type == TensorProto.STRING,
            "NodeProto": lambda node: node.domain not in {"", "ai.onnx"} and (node.domain, node.op_type) not in CONTRIB,
            "GraphProto": lambda graph: graph != message.graph,
            **dict.fromkeys(["SparseTensorProto", "FunctionProto", "TrainingInfoProto"], bool),
        }
        if kind in tests and tests[kind](part):
            found.add(kind)
        for descriptor, value in part.ListFields():
            if descriptor.message_type is not None:
                waiting.extend([value] if hasattr(value, "ListFields") else value)
    return found


CONTRIB = {("com.microsoft", name) for name in CONTRIB_OPERATORS}
PLAIN_SEEDS = [accepted.SerializeToString() for accepted in ACCEPTED.values()]
OTHER_SEEDS = [*(refused.SerializeToString() for refused, _ in REFUSED.values()), *HIDDEN.values()]
EDIT = st.tuples(st.integers(0, 1 << 14), st.integers(0, 40), st.integers(0, 40) | st.just(1 << 14), st.binary(max_size=6))


def edited(content: bytes, edits) -> bytes:
    """At some places: repeats what stands before, inserts bytes, and leaves out what stands behind."""
    for place, repeated, left_out, new in edits:
        at = place % (len(content) + 1)
        content = content[:at] + content[max(0, at - repeated) : at] + new + content[at + left_out :]
    return content


EDITED = st.builds(edited, st.sampled_from(PLAIN_SEEDS) | st.sampled_from(OTHER_SEEDS), st.lists(EDIT, min_size=1, max_size=4))


@given(content=EDITED | st.binary(max_size=40))
@example(content=b"")
def test_whatever_the_bytes_a_graph_is_refused_or_plain(content):
    try:
        check_graph(content, "model.onnx")
    except ArtifactError as error:
        assert str(error).startswith("model.onnx ")
        return
    try:
        read = onnx.load_from_string(content)
    except DecodeError:
        return
    assert refused_things(read) == set()


@pytest.mark.parametrize(("model", "message"), REFUSED.values(), ids=REFUSED)
def test_the_oracle_sees_what_is_refused(model, message):
    assert refused_things(onnx.load_from_string(model.SerializeToString()))
    assert not any(refused_things(accepted) for accepted in ACCEPTED.values())
