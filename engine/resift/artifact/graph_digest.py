"""Graph digest: what tells a graph from all others that compute anything else, wherever its weights are kept.

Graphs of an artifact share weights, so that one of them may be moved, or stored with another graph, without a change of what this
graph computes. Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from resift.artifact.external_weights import DATA_LOCATION, EXTERNAL_DATA, GRAPH, INITIALIZER, RAW_DATA
from resift.artifact.protobuf import encode_field, fields

if TYPE_CHECKING:
    from collections.abc import Mapping


def digest_graph(content: memoryview, weights: Mapping[str, memoryview]) -> str:
    """A SHA-256, in hexadecimal digits, of a serialized model with the bytes of its initializers, in place of where they are.

    It is the same whether an initializer is in the model or in another file, and at whatever offset. `content`: a model that
    `check_graph` accepts. `weights`: the contents of the other files that it reads, by name; bytes that it does not read are not in
    the digest.
    """
    return _digest(content, (GRAPH, INITIALIZER), weights).hex()


def _digest(message: memoryview, path: tuple[int, ...], weights: Mapping[str, memoryview]) -> bytes:
    """The digest of a message in which the initializers are at the `path` of field numbers."""
    if not path:
        return _digest_tensor(message, weights)
    found = hashlib.sha256()
    for field in fields(message):
        if field.number == path[0] and isinstance(field.value, memoryview):
            found.update(encode_field(field.number, _digest(field.value, path[1:], weights)))
        else:
            found.update(message[field.start : field.end])
    return found.digest()


def _digest_tensor(message: memoryview, weights: Mapping[str, memoryview]) -> bytes:
    """The digest of a tensor: its name, type and shape, and its bytes."""
    found, parts, location = hashlib.sha256(), list[memoryview](), dict[str, str]()
    for field in fields(message):
        if isinstance(field.value, memoryview) and field.number == RAW_DATA:
            parts.append(field.value)
        elif isinstance(field.value, memoryview) and field.number == EXTERNAL_DATA:
            key, value = (bytes(entry.value).decode() for entry in fields(field.value) if isinstance(entry.value, memoryview))
            location[key] = value
        elif field.number != DATA_LOCATION:
            found.update(message[field.start : field.end])
    if location:
        begin = int(location["offset"])
        parts.append(weights[location["location"]][begin : begin + int(location["length"])])
    for part in parts:
        found.update(encode_field(RAW_DATA, hashlib.sha256(part).digest()))
    return found.digest()
