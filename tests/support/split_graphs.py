"""A split graph that was never trained: two ONNX graphs of whole numbers, the same in numpy, and an artifact with them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from resift.artifact.signature import DOCUMENT_TOKENS, OUTPUT, QUERY_OF, STATES
from tests.conftest import rewrite

if TYPE_CHECKING:
    from pathlib import Path

    from resift.encoding.encodings import Encodings

VOCABULARY, SIZE, QUERY_TOKENS, MULTIPLE = 1200, 12, 24, 16
OPSETS = [helper.make_opsetid("", 20)]
TABLE = np.random.default_rng(5).integers(0, 256, (VOCABULARY, SIZE)).astype(np.uint8)
HOW = {
    "layers": 1,
    "query_tokens": QUERY_TOKENS,
    "document_tokens": 192 - QUERY_TOKENS,
    "multiple": MULTIPLE,
    "size": SIZE,
    "query_operations": 24_000,
    "reading_operations": 2_000,
}
"""`Split` in the manifest."""
OPERATIONS = 26_000
QUERY_FILE, DOCUMENT_FILE = "split-query.int8.onnx", "split-document.int8.onnx"


def states_of(ids: np.ndarray, segment_ids: np.ndarray) -> np.ndarray:
    """uint8[tokens, size]: each token's row of the table, and what is before it, and how many tokens follow."""
    before = np.cumsum(ids.astype(np.int64) + 3 * segment_ids)[:, None]
    return ((TABLE[ids].astype(np.int64) + before + 7 * len(ids)) % 256).astype(np.uint8)


def logits_of(query: np.ndarray, segment_ids: np.ndarray, states: np.ndarray, labels: int = 1) -> np.ndarray:
    """float32[labels]: products of what the query's tokens and the states, each by its place, add up to."""
    places = np.arange(1, len(query) + 1)[:, None]
    asked = ((TABLE[query].astype(np.int64) + segment_ids[:, None]) * places).sum(0) % 101
    read = (states.astype(np.int64) * np.arange(1, len(states) + 1)[:, None]).sum(0) + 5 * len(states)
    sums = (asked * (read % 97)) % 89
    return np.array([sums[label:].sum() for label in range(labels)], np.float32) / 64


def expected(encodings: Encodings, labels: int = 1, limit: int = HOW["document_tokens"]) -> np.ndarray:
    """float32[n, labels]: what the two graphs compute of each row."""
    rows = [logits_of(*encodings.query(row), states_of(*encodings.document(row, limit)), labels) for row in range(len(encodings))]
    return np.stack(rows)


def _constant(name: str, value: Any) -> TensorProto:
    return numpy_helper.from_array(np.array(value, np.int64), name)


def _nodes(*steps: str) -> list[Any]:
    """Nodes from lines such as "sum = Add a b", with attributes as JSON behind them."""
    nodes = []
    for step in steps:
        left, _, right = step.partition(" = ")
        words, _, attributes = right.partition(" {")
        operator, *inputs = words.split()
        nodes.append(helper.make_node(operator, inputs, [left], **(json.loads(f"{{{attributes}") if attributes else {})))
    return nodes


def _model(nodes: list[Any], inputs: list[Any], output: Any, constants: dict[str, Any]) -> bytes:
    table = numpy_helper.from_array(TABLE, "table")
    graph = helper.make_graph(nodes, "half", inputs, [output], [table, *(_constant(*each) for each in constants.items())])
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=10).SerializeToString()


def _tokens(batch: str, width: str) -> list[Any]:
    return [helper.make_tensor_value_info(name, TensorProto.INT64, [batch, width]) for name in ("input_ids", "token_type_ids")]


def document_half() -> bytes:
    """input_ids, token_type_ids int64[b, d] -> states uint8[b, d, size]."""
    nodes = _nodes(
        "rows = Gather table input_ids",
        'wide = Cast rows {"to": 7}',
        "weighed = Mul token_type_ids three",
        "both = Add input_ids weighed",
        "sums = CumSum both one",
        "before = Unsqueeze sums two",
        "shape = Shape input_ids",
        "width = Gather shape one",
        "after = Mul width seven",
        "first = Add wide before",
        "second = Add first after",
        "rest = Mod second bytes",
        'states = Cast rest {"to": 2}',
    )
    states = helper.make_tensor_value_info(STATES, TensorProto.UINT8, ["b", "d", SIZE])
    constants = {"one": 1, "two": [2], "three": 3, "seven": 7, "bytes": 256}
    return _model(nodes, _tokens("b", "d"), states, constants)


def query_half(labels: int = 1) -> bytes:
    """What a query half reads -> logits float32[b, labels]."""
    nodes = _nodes(
        "rows = Gather table input_ids",
        'wide = Cast rows {"to": 7}',
        "segments = Unsqueeze token_type_ids two",
        "both = Add wide segments",
        "query_shape = Shape input_ids",
        "query_width = Gather query_shape one",
        "query_end = Add query_width one",
        "query_range = Range one query_end one",
        "query_places = Unsqueeze query_range ends",
        "query_weighed = Mul both query_places",
        'query_sums = ReduceSum query_weighed ones {"keepdims": 0}',
        "asked = Mod query_sums hundred",
        "own = Gather asked query_of",
        'read = Cast states {"to": 7}',
        "shape = Shape states",
        "width = Gather shape one",
        "end = Add width one",
        "range = Range one end one",
        "places = Unsqueeze range ends",
        "lengths = Unsqueeze document_tokens ones",
        "is_token = LessOrEqual range lengths",
        'mask = Cast is_token {"to": 7}',
        "mask_column = Unsqueeze mask two",
        "weights = Mul places mask_column",
        "weighed = Mul read weights",
        'sums = ReduceSum weighed ones {"keepdims": 0}',
        "more = Mul lengths five",
        "total = Add sums more",
        "other = Mod total nineties",
        "products = Mul own other",
        "rest = Mod products eighties",
        'floats = Cast rest {"to": 1}',
        "scaled = MatMul floats labels",
        "logits = Div scaled scale",
    )
    further = [
        helper.make_tensor_value_info(QUERY_OF, TensorProto.INT64, ["b"]),
        helper.make_tensor_value_info(STATES, TensorProto.UINT8, ["b", "w", SIZE]),
        helper.make_tensor_value_info(DOCUMENT_TOKENS, TensorProto.INT64, ["b"]),
    ]
    logits = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["b", labels])
    constants = {"one": 1, "two": [2], "ends": [1], "ones": [1], "five": 5, "hundred": 101, "nineties": 97, "eighties": 89}
    content = _model(nodes, [*_tokens("n", "q"), *further], logits, constants)
    model = helper.ModelProto.FromString(content)
    columns = np.tri(SIZE, labels, dtype=np.float32)  # of label i the components from i on
    model.graph.initializer.extend(
        [numpy_helper.from_array(columns, "labels"), numpy_helper.from_array(np.array(64, np.float32), "scale")]
    )
    return bytes(model.SerializeToString())


def add_split_look(
    folder: Path, *, name: str = "first-look", labels: int = 1, operations: int = OPERATIONS, plan: str | None = None
) -> Path:
    """Adds the split graph, as a first look, to the artifact in `folder`, and returns it."""
    graph = {
        "name": name,
        "role": "first-look",
        "layers": 2,
        "operations": operations,
        "signature": {
            "inputs": {"input_ids": "int64", "token_type_ids": "int64"},
            "outputs": {"logits": "float32"},
            "labels": labels,
        },
        "relevance": "logit" if labels == 1 else "log-odds",
        "activation": "sigmoid",
        "variants": [{"file": QUERY_FILE, "precision": "int8", "instruction_sets": [], "document": {"file": DOCUMENT_FILE}}],
        "split": HOW,
    }
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["format"] = 4
    manifest["graphs"].append(graph)
    manifest["plan"] = plan
    path.write_text(json.dumps({key: value for key, value in manifest.items() if value is not None}))
    rewrite(folder, QUERY_FILE, query_half(labels))
    rewrite(folder, DOCUMENT_FILE, document_half())
    return folder
