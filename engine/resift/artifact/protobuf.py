"""protobuf: decodes the fields of a serialized message, and encodes a field.

https://protobuf.dev/programming-guides/encoding/. An encoding that no writer produces is refused rather than interpreted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FIXED_SIZES = {FIXED64: 8, FIXED32: 4}
LONGEST_VARINT = 10


class DamagedError(ValueError):
    """The bytes are not a message, or not one that a writer produces."""


class Field(NamedTuple):
    """One field of a message."""

    number: int
    value: int | memoryview
    """an integer, or the bytes of a string or an inner message"""
    start: int
    """where it begins in the message"""
    end: int
    """where it ends, and so does its value"""


def fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message, in its order. Raises DamagedError at bytes that are not a field."""
    at, end = 0, len(message)
    while at < end:
        start = at
        tag, at = _varint(message, at)
        wire_type = tag & 7
        value: int | memoryview
        if wire_type == VARINT:
            value, at = _varint(message, at)
        elif wire_type == BYTES:
            length, begin = _varint(message, at)
            at = begin + length
            value = message[begin:at]
        elif wire_type in FIXED_SIZES:
            begin, at = at, at + FIXED_SIZES[wire_type]
            value = int.from_bytes(message[begin:at], "little")
        else:
            raise DamagedError(f"wire type {wire_type}")
        # Protobuf libraries keep 32 bits of a tag: they would read a longer one as another field.
        if at > end or not 8 <= tag < 1 << 32:
            raise DamagedError(f"tag {tag}, or a field that ends beyond its message")
        yield Field(tag >> 3, value, start, at)


def varints(message: memoryview) -> Iterator[int]:
    """The integers of a packed field. Raises DamagedError at bytes that are none."""
    at = 0
    while at < len(message):
        value, at = _varint(message, at)
        yield value


def encode_field(number: int, content: bytes | int) -> bytes:
    """A serialized field: `content` is an integer, or the bytes of a string or an inner message."""
    if isinstance(content, int):
        return _as_varint(number << 3 | VARINT) + _as_varint(content)
    return _as_varint(number << 3 | BYTES) + _as_varint(len(content)) + content


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The varint that starts at `at`, and where it ends."""
    if at < len(message) and (byte := message[at]) < 0x80:  # as most are: the loop below takes longer
        return byte, at + 1
    value = shift = 0
    for byte in message[at : at + LONGEST_VARINT]:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    else:
        raise DamagedError("a varint that does not end")
    return value, at + shift // 7


def _as_varint(value: int) -> bytes:
    groups = [value >> shift & 0x7F for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])
