"""JSON decoding, with error messages that are the same for every version of msgspec."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar, overload

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

Decoded = TypeVar("Decoded")
Container = dict[str, object] | list[object] | msgspec.Struct
NESTING_LIMIT = 100
"""Maximum number of levels of lists and objects (RFC 8259, section 9, allows a limit): any accepted value can be written again."""
TOO_DEEP = f"nested deeper than {NESTING_LIMIT} levels"
HIGH, LOW = rb"[dD][89abAB][0-9a-fA-F]{2}", rb"[dD][c-fC-F][0-9a-fA-F]{2}"
HALVES = re.compile(rb"\\u(?:%b(?!\\u%b)|(?<!\\u%b\\u)%b)" % (HIGH, LOW, HIGH, LOW))
"""The escapes of halves of surrogate pairs, high or low ones alone, in JSON without escaped backslashes."""
CONSTANT = re.compile(rb"(?:NaN|-?Infinity)(?=\s*(?:[,\]}]|\Z))")
"""A constant that Python's json and JavaScript have, but not JSON (RFC 8259, section 6)."""
PLACE = re.compile(r"\(byte (\d+)\)$")
"""Where msgspec's messages say that content stops to be JSON."""


@overload
def decode_json(content: bytes) -> Any: ...
@overload
def decode_json(content: bytes, kind: type[Decoded]) -> Decoded: ...
def decode_json(content: bytes, kind: Any = object) -> Any:
    """An object of type `kind` from JSON, read as by `decode_halves`. If a JSON object holds a name twice, the last value counts.

    Raises ValueError that says what is wrong if the content is not JSON in UTF-8, is nested too deeply, or is not a `kind`.
    """
    try:
        decoded = decode_halves(content, msgspec.json.Decoder(kind).decode)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # Invalid UTF-8 is a UnicodeDecodeError up to msgspec 0.22 and a DecodeError since; neither says at which byte.
        raise ValueError(json_fault(content, str(error)) or str(error)) from error
    if content.count(b"[") + content.count(b"{") > NESTING_LIMIT and _depth(decoded) > NESTING_LIMIT:
        raise ValueError(TOO_DEEP)
    return decoded


def decode_halves(content: bytes, decode: Callable[[bytes], Decoded]) -> Decoded:
    r"""`decode(content)`; msgspec refuses half of a surrogate pair, such as \ud83d alone, which is read here as U+FFFD."""
    try:
        return decode(content)
    except msgspec.DecodeError:
        mended = replace_halves(content)
        if mended == content:
            raise
        return decode(mended)


def replace_halves(content: bytes) -> bytes:
    r"""JSON with \ufffd for every half of a surrogate pair, which is as long."""
    if b"\0" in content:  # not JSON; below, NULs stand for an escaped backslash
        return content
    plain = content.replace(rb"\\", b"\0\0")
    mended = HALVES.sub(rb"\\ufffd", plain)
    return mended.replace(b"\0\0", rb"\\")


def json_fault(content: bytes, message: str) -> str | None:
    """The fault in content that is not JSON, where msgspec's `message` does not say it; None where it does."""
    if b"\0" in content:
        return f"a NUL at byte {content.index(0)} (for UTF-16: iconv -f UTF-16 -t UTF-8)"
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return f"byte {error.start} is not UTF-8"
    if place := PLACE.search(message):
        byte = int(place[1])
        if constant := CONSTANT.match(content, byte - (content[byte - 1 : byte] == b"-")):
            return f"{constant[0].decode()} at byte {constant.start()} (JSON has no such number: write null, or leave it out)"
    return None


def _depth(value: object) -> int:
    """Levels of lists and objects in decoded JSON."""
    depth = 0
    level = _containers([value])
    while level:
        depth += 1
        level = _containers(inner for item in level for inner in _items(item))
    return depth


def _containers(values: Iterable[object]) -> list[Container]:
    return [value for value in values if isinstance(value, dict | list | msgspec.Struct)]


def _items(container: Container) -> Iterable[object]:
    if isinstance(container, msgspec.Struct):
        return msgspec.structs.astuple(container)
    return container.values() if isinstance(container, dict) else container
