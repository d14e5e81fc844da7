"""graphfile: what a file with an ONNX graph may hold, checked before onnxruntime reads it.

The file is a serialized ModelProto. Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Where a
protobuf library would merge repeated parts of a message or take the last of several values, every part is checked; what no ONNX
writer produces is refused rather than interpreted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from resift.artifact.protobuf import DamagedError, fields
from resift.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAIN_NUMBER = re.compile("[0-9]{1,18}")
FIELD_LIMIT = 200_000
"""Most fields read from one file, so that a hostile file is refused within a second. The embedded graph has 5,299."""
ONNX_DOMAINS = frozenset({"", "ai.onnx"})
CONTRIB = "com.microsoft"
CONTRIB_OPERATORS = frozenset({"MatMulIntegerToFloat", "MultiHeadAttention"})
"""Those that `resift export` emits. Others in this domain hold graphs, name files of execution providers, or call Python."""

STRING = 8
"""TensorProto.DataType of strings, for which onnxruntime allocates memory by the declared shape, whatever the file holds."""
ORT_FORMAT = b"ORTM"
"""FlatBuffers file identifier at byte 4, the only mark by which onnxruntime tells its own format from ONNX."""


class Beside(NamedTuple):
    """The one file, in the graph's folder, that may hold weights."""

    name: str
    size: int
    """bytes"""


def check_graph(content: bytes | memoryview, where: str, beside: Beside | None = None) -> None:
    """Raises ArtifactError unless `content` is an ONNX file whose graph is a plain sequence of operators with its weights inside.

    With `beside`, its initializers may be in that file too. It refuses tensors in other files, sparse tensors and string tensors (a
    few bytes can declare terabytes), subgraphs in nodes (Loop, If, Scan, SequenceMap), local functions, training graphs, operators
    outside the domains of ONNX and com.microsoft, those of com.microsoft that `resift export` does not emit, and onnxruntime's own
    file format. `where` names the file in messages.
    """
    walk = _Walk(where, beside)
    if bytes(content[4:8]) == ORT_FORMAT:
        walk.refuse("is in onnxruntime's own format, not ONNX")
    walk.model(memoryview(content))


class _Walk:
    """One walk over one file, with a method for each message type."""

    def __init__(self, where: str, beside: Beside | None) -> None:
        self._where = where
        self._beside = beside
        self._fields_left = FIELD_LIMIT

    def refuse(self, found: str) -> NoReturn:
        raise ArtifactError(
            f"{self._where} {found}; expected a plain graph with its weights inside, as `resift export` writes it: "
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
                self._tensor(self._bytes(value), self._beside)
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

    def _tensor(self, message: memoryview, beside: Beside | None = None) -> None:
        """`beside`: the file that may hold it."""
        stored: dict[str, str] = {}
        is_outside = False
        for number, value in self._fields(message):
            if beside is None and (number == 13 or (number == 14 and value != 0)):
                self.refuse("reads weights from another file")
            if number == 13:
                self._entry(self._bytes(value), stored)
            if number == 14:
                is_outside = value != 0
            # Protobuf libraries keep 32 bits of this number.
            if number == 2 and isinstance(value, int) and value % (1 << 32) == STRING:
                self.refuse("holds a string tensor")

        if beside is not None and (stored or is_outside):
            self._check_place(stored, beside)

    def _entry(self, message: memoryview, found: dict[str, str]) -> None:
        """Adds one key and value, of those that say where a tensor is, to those `found`."""
        fields = [(number, self._text(value)) for number, value in self._fields(message)]
        if [number for number, _ in fields] != [1, 2] or fields[0][1] in found:
            self._refuse_encoding()
        found[fields[0][1]] = fields[1][1]

    def _check_place(self, stored: dict[str, str], beside: Beside) -> None:
        """Raises unless a tensor is within the file `beside`: onnxruntime looks there, and may look no further."""
        if stored.keys() != {"location", "offset", "length"}:
            self.refuse(f"says of weights {', '.join(sorted(stored))[:100]!r}")
        if stored["location"] != beside.name:
            self.refuse(f"reads weights from another file, {stored['location'][:100]!r}")
        numbers = stored["offset"], stored["length"]
        if not all(PLAIN_NUMBER.fullmatch(number) for number in numbers) or sum(map(int, numbers)) > beside.size:
            self.refuse(f"reads weights outside the {beside.size} bytes of {beside.name}")

    def _fields(self, message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """Numbers and values of a message's fields: integers, or the bytes of a string or an inner message."""
        try:
            for field in fields(message):
                self._fields_left -= 1
                if self._fields_left < 0:
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
