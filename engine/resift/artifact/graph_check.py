"""Graph check: what a file with an ONNX graph may hold, checked before onnxruntime reads it.

The file is a serialized ModelProto. Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Where a
protobuf library would merge repeated parts of a message or take the last of several values, every part is checked; a structure
that no ONNX writer produces is refused rather than interpreted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from resift.artifact.protobuf import DamagedError, fields
from resift.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PLAIN_NUMBER = re.compile("[0-9]{1,18}")
FIELD_LIMIT = 200_000
"""Maximum number of fields read from one file, so that a hostile file is refused within a second. The embedded graph has 5,299."""
ONNX_DOMAINS = frozenset({"", "ai.onnx"})
CONTRIB = "com.microsoft"
CONTRIB_OPERATORS = frozenset({"MatMulIntegerToFloat", "MultiHeadAttention", "PackedMultiHeadAttention"})
"""Operators of that domain that `resift export` emits. Others hold graphs, name files of execution providers, or call Python."""

STRING = 8
"""TensorProto.DataType of strings, for which onnxruntime allocates memory by the declared shape, whatever the file holds."""
ORT_FORMAT = b"ORTM"
"""FlatBuffers file identifier at byte 4, the only mark by which onnxruntime tells its own format from ONNX."""


class WeightsFile(NamedTuple):
    """Another file, in the graph's folder, that may hold weights of it."""

    name: str
    size: int
    """bytes"""


def check_graph(content: bytes | memoryview, where: str, *weights: WeightsFile) -> None:
    """Raises ArtifactError unless `content` is an ONNX file whose graph is a plain sequence of operators with its weights inside.

    Initializers may be in the files of `weights`, too. Refused are tensors in other files, sparse tensors and string tensors (a
    few bytes can declare terabytes), subgraphs in nodes (Loop, If, Scan, SequenceMap), local functions, training graphs, operators
    outside the domains of ONNX and com.microsoft, those of com.microsoft that `resift export` does not emit, and onnxruntime's own
    file format. `where` names the file in messages.
    """
    walk = _Walk(where, weights)
    if bytes(content[4:8]) == ORT_FORMAT:
        walk.refuse("is in onnxruntime's own format, not ONNX")
    walk.model(memoryview(content))


class _Walk:
    """One walk over one file, with a method for each message type."""

    def __init__(self, where: str, weights: Sequence[WeightsFile]) -> None:
        self._where = where
        self._weights = {file.name: file.size for file in weights}
        self._remaining_fields = FIELD_LIMIT

    def refuse(self, problem: str) -> NoReturn:
        raise ArtifactError(
            f"{self._where} {problem}; expected a plain graph with its weights inside, as `resift export` writes it: "
            "export the checkpoint again"
        )

    def model(self, message: memoryview) -> None:
        for number, value in self._fields(message):
            if number == 7:
                self._graph(self._bytes(value))
            elif number == 20:
                self.refuse("holds a training graph")
            elif number == 25:
                self.refuse("defines functions of its own")

    def _graph(self, message: memoryview) -> None:
        for number, value in self._fields(message):
            if number == 1:
                self._node(self._bytes(value))
            elif number == 5:
                self._tensor(self._bytes(value), self._weights)
            elif number == 15:
                self.refuse("holds a sparse tensor")

    def _node(self, message: memoryview) -> None:
        operator = domain = ""
        for number, value in self._fields(message):
            if number == 4:
                operator = self._text(value)
            elif number == 7:
                domain = self._text(value)
            elif number == 5:
                self._attribute(self._bytes(value))
        if domain not in ONNX_DOMAINS and not (domain == CONTRIB and operator in CONTRIB_OPERATORS):
            self.refuse(f"has the operator {operator[:100]!r} of the domain {domain[:100]!r}, which resift does not run")

    def _attribute(self, message: memoryview) -> None:
        for number, value in self._fields(message):
            if number in {5, 10}:
                self._tensor(self._bytes(value))
            elif number in {6, 11}:
                self.refuse("has control flow: a node that holds a graph, such as Loop or If")
            elif number in {22, 23}:
                self.refuse("holds a sparse tensor")

    def _tensor(self, message: memoryview, weights: Mapping[str, int] | None = None) -> None:
        """`weights`: the files that may hold its bytes, with their sizes."""
        location: dict[str, str] = {}
        is_external = False
        for number, value in self._fields(message):
            if not weights and (number == 13 or (number == 14 and value != 0)):
                self.refuse("reads weights from another file")
            if number == 13:
                self._entry(self._bytes(value), location)
            if number == 14:
                is_external = value != 0
            # Protobuf libraries keep 32 bits of this number.
            if number == 2 and isinstance(value, int) and value % (1 << 32) == STRING:
                self.refuse("holds a string tensor")

        if weights and (location or is_external):
            self._check_location(location, weights)

    def _entry(self, message: memoryview, location: dict[str, str]) -> None:
        """Adds one key and value of a tensor's external data to `location`."""
        fields = [(number, self._text(value)) for number, value in self._fields(message)]
        if [number for number, _ in fields] != [1, 2] or fields[0][1] in location:
            self._refuse_encoding()
        location[fields[0][1]] = fields[1][1]

    def _check_location(self, location: dict[str, str], weights: Mapping[str, int]) -> None:
        """Raises ArtifactError unless a tensor is within one of the files `weights`, which onnxruntime may read it from."""
        if location.keys() != {"location", "offset", "length"}:
            self.refuse(f"locates weights by {', '.join(sorted(location))[:100]!r}, not by location, offset and length")
        name = location["location"]
        if name not in weights:
            self.refuse(f"reads weights from another file, {name[:100]!r}")
        numbers = location["offset"], location["length"]
        if not all(PLAIN_NUMBER.fullmatch(number) for number in numbers) or sum(map(int, numbers)) > weights[name]:
            self.refuse(f"reads weights outside the {weights[name]} bytes of {name}")

    def _fields(self, message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """Numbers and values of a message's fields: integers, or the bytes of a string or an inner message."""
        try:
            for field in fields(message):
                self._remaining_fields -= 1
                if self._remaining_fields < 0:
                    self.refuse(f"has more than {FIELD_LIMIT} fields")
                yield field.number, field.value
        except DamagedError:
            self._refuse_encoding()

    def _bytes(self, value: int | memoryview) -> memoryview:
        if isinstance(value, int):
            self._refuse_encoding()
        return value

    def _text(self, value: int | memoryview) -> str:
        return bytes(self._bytes(value)).decode(errors="replace")

    def _refuse_encoding(self) -> NoReturn:
        self.refuse("is not an ONNX file, or is damaged")
