"""Values of options, for argparse's `type`: each function raises ArgumentTypeError, which says what was expected and found."""

from __future__ import annotations

import math
import sys
from argparse import ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from resift.documents import DocumentTemplate
from resift.errors import InputError
from resift.files.names import is_file_name
from resift.plans import Plan
from resift.settings import GPU, LARGEST, PROVIDERS, SMALLEST

if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST_COUNT = sys.maxsize
"""What Python can count."""


class Providers(list[str]):
    """auto and the providers, among which cuda:N is found, too, the GPU of that number."""

    def __init__(self) -> None:
        super().__init__(["auto", *PROVIDERS])

    def __contains__(self, text: object) -> bool:
        return super().__contains__(text) or (isinstance(text, str) and GPU.fullmatch(text) is not None)


def whole(minimum: int = 1, maximum: int = LARGEST_COUNT) -> Callable[[str], int]:
    """The type of whole numbers from `minimum` to `maximum`."""

    def convert(found: str) -> int:
        try:
            value = int(found)
        except ValueError:
            value = minimum - 1
        if not minimum <= value <= maximum:
            is_open = maximum == LARGEST_COUNT and value < minimum
            raise _unsuitable(f"a whole number {f'of {minimum} or more' if is_open else f'from {minimum} to {maximum}'}", found)
        return value

    return convert


def whole_or_auto(minimum: int) -> Callable[[str], int | Literal["auto"]]:
    """The type of whole numbers from `minimum`, and of auto."""

    def convert(found: str) -> int | Literal["auto"]:
        try:
            return "auto" if found == "auto" else whole(minimum)(found)
        except ArgumentTypeError:
            raise _unsuitable(f"auto, or a whole number of {minimum} or more", found) from None

    return convert


def setting(name: str) -> Callable[[str], int]:
    """The type of the field of Settings of that name."""
    return whole(SMALLEST.get(name, 1), LARGEST[name])


def number(expected: str, is_suitable: Callable[[float], bool]) -> Callable[[str], float]:
    """The type of the numbers that are suitable; `expected` describes them."""

    def convert(found: str) -> float:
        try:
            value = float(found)
        except ValueError:
            value = math.nan
        if not is_suitable(value):
            raise _unsuitable(expected, found)
        return value

    return convert


positive = number("a number above 0", lambda value: 0 < value < math.inf)
share = number("a share from 0 to 1", lambda value: 0 <= value <= 1)
part = number("a share between 0 and 1, such as 0.5", lambda value: 0 < value < 1)
seed = whole(-(1 << 63), (1 << 63) - 1)
"""The type of seeds, signed numbers of 64 bits."""


def plan(found: str) -> str:
    """The type of plans, which stay text."""
    if found != "auto":
        try:
            Plan.parse(found)
        except InputError as error:
            raise ArgumentTypeError(str(error)) from error
    return found


def template(found: str) -> str:
    r"""The type of document templates, which stay text; \n stands for a line break."""
    template = text(found).replace(r"\n", "\n")
    if template != "auto":
        try:
            DocumentTemplate.parse(template)
        except InputError as error:
            raise ArgumentTypeError(str(error)) from error
    return template


def part_of(found: str) -> tuple[int, int]:
    """The type of parts of a whole, such as 2/3, the second of three."""
    number, slash, parts = found.partition("/")
    if not (slash and number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise _unsuitable("a part such as 2/3, the second of three", found)
    return int(number), int(parts)


def text(found: str) -> str:
    """The type of texts, which are UTF-8 in any locale: Python passes bytes on that it cannot decode as lone surrogates.

    It is not for names of files, whose bytes must stay as they are.
    """
    try:
        return found.encode("utf-8", "surrogateescape").decode()
    except UnicodeError as error:
        raise ArgumentTypeError(f"expected text in UTF-8; found {found!r:.80}") from error


def file_name(found: str) -> str:
    """The type of names of files and of models."""
    if not is_file_name(found):
        raise _unsuitable("a name", found)
    return found


def path(found: str) -> Path:
    """The type of names of files, as a Path."""
    return Path(file_name(found))


def _unsuitable(expected: str, found: str) -> ArgumentTypeError:
    return ArgumentTypeError(f"expected {expected}; found {found!r:.80}")
