"""Graph facts: what a graph's weights say of its precision, its vocabulary and its positions, to check the manifest by.

Read from a serialized ModelProto that `check_graph` accepts. Field numbers are those of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from resift.artifact.protobuf import LONGEST_VARINT, fields, varints
from resift.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resift.artifact.manifest import Pair
    from resift.settings import Precision

PRECISIONS = {2: "int8", 3: "int8", 10: "float16", 16: "bfloat16"}
"""By TensorProto.DataType, the precisions of weights other than float32; the least bits count."""
INT64, INT64_BYTES = 7, 8
PACKED_BYTES = 10 * LONGEST_VARINT
"""The longest packed field of dimensions or values that is read: ten of them, of any size."""
LONGEST_PATH = 20
"""Operators between the numbers of tokens and the table that they select from."""
SAME = frozenset({"Cast", "Expand", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""Operators whose output has the values of their first input."""


class _Node(NamedTuple):
    operator: str
    inputs: list[str]
    outputs: list[str]
    axis: int


class _Tensor(NamedTuple):
    dims: list[int]
    type: int
    value: int | None
    """of an int64 tensor with one element"""


class _Positions(NamedTuple):
    """A value that numbers the tokens of a row."""

    first: int
    """the number of the first token"""
    size: int | None = None
    """how many numbers there are; None: as many as tokens"""


@dataclass
class GraphFacts:
    """The facts of one graph."""

    precision: str = "float32"
    """that of the matrices with the fewest bits"""
    rows: dict[str, int] = field(default_factory=dict)
    """by input of the graph: rows of the smallest table that it selects from, such as the embeddings of token ids"""
    positions: int | None = None
    """the most tokens that the tables of positions have rows for; None: no such table was recognized"""

    @classmethod
    def of(cls, content: bytes | memoryview) -> GraphFacts:
        """The facts of a serialized model."""
        return _GraphReader(memoryview(content)).facts()


class _GraphReader:
    """The nodes and initializers of a model."""

    def __init__(self, model: memoryview) -> None:
        self._nodes: list[_Node] = []
        self._tensors: dict[str, _Tensor] = {}
        for graph in _messages(model, 7):
            self._nodes += map(_node, _messages(graph, 1))
            self._tensors.update(map(_tensor, _messages(graph, 5)))
        self._producers = {output: node for node in self._nodes for output in node.outputs}

    def facts(self) -> GraphFacts:
        weights = [tensor for tensor in self._tensors.values() if len(tensor.dims) > 1]  # others are constants, scales and biases
        found = {PRECISIONS[tensor.type] for tensor in weights if tensor.type in PRECISIONS}
        facts = GraphFacts(next((name for name in PRECISIONS.values() if name in found), "float32"))
        limits = []
        for node in self._nodes:
            table = self._tensors.get(node.inputs[0]) if node.operator == "Gather" and len(node.inputs) == 2 else None
            if table is None or len(table.dims) != 2 or node.axis != 0:
                continue
            ids, rows = node.inputs[1], table.dims[0]
            if ids not in self._producers and ids not in self._tensors:
                facts.rows[ids] = min(rows, facts.rows.get(ids, rows))
            elif positions := self._positions(ids):
                limits.append(rows - positions.first if positions.size is None else positions.size)
        facts.positions = min(limits, default=None)
        return facts

    def _positions(self, value: str, depth: int = 0) -> _Positions | None:
        """How a value numbers the tokens: as a range, as the sum of a mask, or as part of a stored range; None if it does not.

        The values of a stored range are not read: it may hold the segments of all positions.
        """
        node = self._producers.get(value)
        if node is None or not node.inputs or depth > LONGEST_PATH:
            return None
        stored, positions = self._tensors.get(node.inputs[0]), None
        if node.operator == "Range" and stored is not None and stored.value is not None:
            positions = _Positions(stored.value)
        elif node.operator == "CumSum":
            positions = _Positions(1)
        elif node.operator == "Slice" and stored is not None and stored.type == INT64 and stored.dims[:-1] == [1]:
            positions = _Positions(0, stored.dims[1])
        elif node.operator in SAME or (node.operator == "Mul" and node.inputs[-1] not in self._tensors):  # by a mask
            positions = self._positions(node.inputs[0], depth + 1)
        elif node.operator == "Add" and len(node.inputs) == 2:
            first, second = node.inputs
            positions = self._shifted(first, second, depth) or self._shifted(second, first, depth)
        return positions

    def _shifted(self, value: str, shift: str, depth: int) -> _Positions | None:
        """Positions to which a stored number is added."""
        tensor = self._tensors.get(shift)
        if tensor is None or tensor.value is None or (positions := self._positions(value, depth + 1)) is None:
            return None
        return positions._replace(first=positions.first + tensor.value)


def check_statements(content: bytes | memoryview, where: str, pair: Pair, precision: Precision) -> None:
    """Raises ArtifactError if the graph contradicts what the manifest says of its pairs and of its precision.

    `content` is a serialized model that `check_graph` accepts, and `where` names its file in messages.
    """
    facts = GraphFacts.of(content)
    segments = [int(segment) for _, _, segment in (token.rpartition(":") for token in pair.template) if segment.isdecimal()]
    statements = [
        ("the vocabulary", pair.vocabulary, "embeddings of token ids", facts.rows.get("input_ids")),
        ("max_length", pair.max_length, "positions", facts.positions),
        (
            "the number of segments in a pair's template",
            1 + max(segments, default=0),
            "embeddings of segments",
            facts.rows.get("token_type_ids"),
        ),
    ]
    if facts.precision != precision:
        raise ArtifactError(f"{where} has {facts.precision} weights, but its manifest says {precision}; export the artifact again")
    for statement, number, what, limit in statements:
        if limit is not None and number > limit:
            raise ArtifactError(
                f"{where} has {limit} {what}, but {statement} in its manifest is {number}; export the artifact again"
            )


def _node(message: memoryview) -> _Node:
    texts: dict[int, list[str]] = {1: [], 2: [], 4: []}
    axis = 0
    for item in fields(message):
        if item.number in texts and isinstance(item.value, memoryview):
            texts[item.number].append(bytes(item.value).decode(errors="replace"))
        elif item.number == 5 and isinstance(item.value, memoryview):
            attribute = {each.number: each.value for each in fields(item.value)}
            name, number = attribute.get(1), attribute.get(3)
            if isinstance(name, memoryview) and bytes(name) == b"axis" and isinstance(number, int):
                axis = number
    return _Node("".join(texts[4][-1:]), texts[1], texts[2], axis)


def _tensor(message: memoryview) -> tuple[str, _Tensor]:
    """A tensor by its name."""
    name, kind, raw = "", 0, b""
    numbers: dict[int, list[int]] = {1: [], 7: []}
    for item in fields(message):
        if item.number in numbers and isinstance(item.value, int):
            numbers[item.number].append(item.value)
        elif item.number in numbers and isinstance(item.value, memoryview) and len(item.value) <= PACKED_BYTES:
            numbers[item.number] += varints(item.value)
        elif item.number == 2 and isinstance(item.value, int):
            kind = item.value
        elif item.number == 8 and isinstance(item.value, memoryview):
            name = bytes(item.value).decode(errors="replace")
        elif item.number == 9 and isinstance(item.value, memoryview) and len(item.value) == INT64_BYTES:
            raw = bytes(item.value)
    dims, values = numbers[1], numbers[7] or ([int.from_bytes(raw, "little", signed=True)] if raw else [])
    return name, _Tensor(dims, kind, values[0] if kind == INT64 and len(values) == 1 else None)


def _messages(message: memoryview, number: int) -> Iterator[memoryview]:
    """The inner messages in the fields of that number."""
    return (item.value for item in fields(message) if item.number == number and isinstance(item.value, memoryview))
