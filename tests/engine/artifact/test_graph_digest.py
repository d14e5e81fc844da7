"""What a graph computes is told apart from anything else, and not by where its weights are."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from resift.artifact.graph_digest import digest_graph

TABLES = {"first": np.arange(48, dtype=np.int8).reshape(6, 8), "second": np.arange(12, dtype=np.float32).reshape(3, 4)}


def model(**tables) -> ModelProto:
    """A graph with those initializers inside, in their order."""
    values = [numpy_helper.from_array(table, name) for name, table in (TABLES | tables).items()]
    rows = helper.make_tensor_value_info("rows", TensorProto.INT8, ["n", 8])
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    graph = helper.make_graph([helper.make_node("Gather", ["first", "ids"], ["rows"])], "graph", [ids], [rows], values)
    return helper.make_model(graph)


def outside(given: ModelProto, places: dict[str, tuple[str, int]]) -> tuple[ModelProto, dict[str, bytearray]]:
    """The model with the initializers of `places` in those files, from those offsets on; the files' other bytes are ones."""
    moved, files = ModelProto.FromString(given.SerializeToString()), {}
    for tensor in moved.graph.initializer:
        if tensor.name in places:
            name, offset = places[tensor.name]
            content = files.setdefault(name, bytearray(b"\1" * 400))
            content[offset : offset + len(tensor.raw_data)] = tensor.raw_data
            for key, value in (("location", name), ("offset", offset), ("length", len(tensor.raw_data))):
                entry = tensor.external_data.add()
                entry.key, entry.value = key, str(value)
            tensor.data_location = TensorProto.EXTERNAL
            tensor.ClearField("raw_data")
    return moved, files


def digest(given: ModelProto, files: dict[str, bytearray] | None = None) -> str:
    views = {name: memoryview(bytes(content)) for name, content in (files or {}).items()}
    return digest_graph(memoryview(given.SerializeToString()), views)


@pytest.mark.parametrize(
    "places",
    [
        {"first": ("a.onnx", 0)},
        {"first": ("a.onnx", 7), "second": ("a.onnx", 200)},
        {"first": ("b.onnx", 300), "second": ("a.onnx", 1)},
    ],
)
def test_where_weights_are_makes_no_difference(places):
    assert digest(*outside(model(), places)) == digest(model())


def test_every_byte_that_is_read_makes_a_difference_and_no_other():
    moved, files = outside(model(), {"first": ("a.onnx", 100), "second": ("b.onnx", 30)})
    read = {"a.onnx": range(100, 148), "b.onnx": range(30, 78)}
    right = digest(moved, files)
    for name, content in files.items():
        for place in range(len(content)):
            content[place] ^= 0x80
            assert (digest(moved, files) != right) == (place in read[name])
            content[place] ^= 0x80


OTHERS = {
    "a value": model(second=np.arange(12, dtype=np.float32).reshape(3, 4) + 1),
    "a type": model(second=TABLES["second"].view(np.int32)),
    "a shape": model(second=TABLES["second"].reshape(4, 3)),
    "one more": model(third=np.zeros(1, np.int8)),
    "an exchange": model(first=TABLES["first"][::-1].copy()),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_another_graph_has_another_digest(other):
    assert digest(other) != digest(model())
    places = {"first": ("a.onnx", 0), "second": ("a.onnx", 100)}
    assert digest(*outside(other, places)) != digest(*outside(model(), places))


def test_another_operator_or_name_has_another_digest():
    for find, put in ((b"Gather", b"Gathen"), (b"second", b"secnnd")):
        content = model().SerializeToString()
        assert content.count(find) == 1
        assert digest_graph(memoryview(content.replace(find, put)), {}) != digest(model())


def test_weights_that_change_places_change_the_digest():
    """Both graphs have the same files, and read the same bytes in the same order, for other initializers."""
    like_first = model(second=TABLES["first"] + 1)
    moved, files = outside(like_first, {"first": ("a.onnx", 0), "second": ("a.onnx", 100)})
    exchanged, _ = outside(like_first, {"first": ("a.onnx", 100), "second": ("a.onnx", 0)})
    assert digest(exchanged, files) != digest(moved, files)
