"""Documents: text, or mappings with a text and other fields, of which a template says what the model reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from numbers import Integral, Number, Real
from string import Formatter
from typing import Any

from resift.errors import InputError

Document = str | Mapping[str, Any]
"""A text, or a mapping such as {"id": "d7", "title": "Tides", "text": "The moon's gravity ..."}."""
EXAMPLE = r'such as "{title}\n{text}"'
ALIASES = {"text": ("text", "content", "page_content")}
"""Fields by which a template's field is looked for, the first that is there: frameworks name the text differently."""
ID_FIELDS = ("id", "_id", "docid", "doc_id")
NESTED = ("meta", "metadata")
"""Fields with a mapping of further fields, as FlashRank, Haystack and LangChain nest them."""


@dataclass(frozen=True, slots=True)
class DocumentTemplate:
    r"""What the model reads of a document that is a mapping, such as "{title}\n{text}".

    A field is looked for in the document, then in its `meta` and its `metadata`; "{meta.title}" names a nested one. The field
    `text` stands for the first of `text`, `content` and `page_content`. A field that is missing or empty is left out, with what
    joins it to the next field of its line; a line whose fields are all left out is left out itself.

    >>> template = DocumentTemplate.parse("{title}, {year}")
    >>> template.text({"title": "Tides", "year": 1998}, "documents[0]")
    'Tides, 1998'
    >>> template.text({"title": "Tides"}, "documents[1]")
    'Tides'
    """

    source: str
    head: str
    """lines without a field, before the first that has one"""
    lines: tuple[tuple[_Line, str], ...]
    """the lines with fields, each with what joins it to the next one, lines without a field included"""

    @classmethod
    def parse(cls, text: str) -> DocumentTemplate:
        """A template from its text, in the syntax of str.format with names only; "{{" stands for a brace.

        Raises InputError if it is malformed or names no field.
        """
        lines = [_Line.parse(line, text) for line in text.split("\n")]
        with_fields = [number for number, line in enumerate(lines) if line.fields]
        if not with_fields:
            raise InputError(f"document template {text!r:.200} names no field; expected one or more, {EXAMPLE}")
        ends = [*with_fields[1:], len(lines)]
        joins = [
            "".join(f"\n{line.start}" for line in lines[number + 1 : end]) + "\n" * (end < len(lines))
            for number, end in zip(with_fields, ends, strict=True)
        ]
        head = "".join(f"{line.start}\n" for line in lines[: with_fields[0]])
        return cls(text, head, tuple(zip((lines[number] for number in with_fields), joins, strict=True)))

    def text(self, document: Document, name: str) -> str:
        """What the model reads of a document: a str as it is. `name`: what an error calls the document, such as "documents[3]".

        Numbers and dates are read as str() writes them; None, NaN and NaT count as missing. Raises TypeError for any other document
        or field, such as a list, and InputError for a mapping that has none of the template's fields.
        """
        if isinstance(document, str):
            return document
        if not isinstance(document, Mapping):
            raise TypeError(f'{name} is {type(document).__name__}; expected str, or a mapping such as {{"id": 1, "text": "..."}}')
        rows = [[(_value(document, field, name), join) for field, join in line.fields] for line, _ in self.lines]
        if all(value is None for row in rows for value, _ in row):
            raise InputError(self._missing(document, name))
        texts = [(text and line.start + text, after) for text, (line, after) in zip(map(_joined, rows), self.lines, strict=True)]
        return self.head + _joined(texts)

    def __str__(self) -> str:
        return self.source

    def _missing(self, document: Document, name: str) -> str:
        has = ", ".join(f"{field!s:.40}" for field in list(document)[:10]) or "none"
        wanted = ", ".join(" or ".join(ALIASES.get(field, (field,))) for line, _ in self.lines for field, _ in line.fields)
        return (
            f"{name} has the fields {has}, and no value in {wanted:.200}, which the document template {self.source!r:.200} reads: "
            f"name the fields to read in Settings.document_template, {EXAMPLE}"
        )


@dataclass(frozen=True, slots=True)
class _Line:
    start: str
    """before its first field"""
    fields: tuple[tuple[str, str], ...]
    """the name of each field, and what follows it in the line"""

    @classmethod
    def parse(cls, line: str, template: str) -> _Line:
        literals, names = [""], []
        try:
            for literal, name, form, conversion in Formatter().parse(line):
                literals[-1] += literal
                if name is not None:
                    names.append(_checked(name, form, conversion))
                    literals.append("")
        except ValueError as error:
            raise InputError(
                f"document template {template!r:.200} is malformed: {error!s:.100}; expected names in braces, {EXAMPLE}"
            ) from error
        return cls(literals[0], tuple(zip(names, literals[1:], strict=True)))


def _checked(name: str, form: str | None, conversion: str | None) -> str:
    """The name of a template's field. Raises ValueError for anything but names joined by dots."""
    if form or conversion or name.isdigit() or set(name) & set("[]{}") or not all(part.strip() for part in name.split(".")):
        raise ValueError(f"{{{name}}} does not only name a field")
    return name.strip()


DEFAULT = DocumentTemplate.parse("{text}")


def document_id(document: Document) -> str | int | None:
    """The id of a mapping: its first of `id`, `_id`, `docid` and `doc_id` that is there; None if there is none, and for a str.

    A whole number is an int, and anything else that is not a str is read as str() writes it.
    """
    if isinstance(document, str):
        return None
    found = next((value for field in ID_FIELDS if not _is_missing(value := document.get(field))), None)
    if isinstance(found, Real) and not isinstance(found, Integral) and float(found).is_integer():
        found = int(float(found))
    if isinstance(found, Integral):
        return int(found)
    return None if found is None else str(found)


def plain(value: object) -> Any:
    """A value of a document as JSON has it, the whole of a list or a mapping.

    NaN and infinity become None, half a surrogate pair U+FFFD, arrays lists, dates ISO 8601 text, and anything else its str().
    """
    match value:
        case _ if _is_missing(value):
            found: Any = None
        case bool():
            found = value
        case str():
            found = str.__str__(encodable(value))
        case Integral():
            found = int(value)
        case Real():
            found = float(value) if math.isfinite(value) else None
        case Mapping():
            found = {plain(str(key)): plain(inner) for key, inner in value.items()}
        case date():
            found = value.isoformat()
        case _ if hasattr(value, "tolist"):
            found = plain(value.tolist())
        case Iterable() if not isinstance(value, bytes | bytearray):
            found = [plain(inner) for inner in value]
        case _:
            found = plain(str(value))
    return found


def encodable(text: str) -> str:
    """The text with U+FFFD in place of each half of a surrogate pair, which has no UTF-8 form."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _joined(parts: Sequence[tuple[str | None, str]]) -> str:
    """The parts that are neither None nor empty, each with what joins it to the next; what follows the last one of all ends it."""
    present = [(number, text, join) for number, (text, join) in enumerate(parts) if text]
    if not present:
        return ""
    last, text, join = present[-1]
    return "".join(text + join for _, text, join in present[:-1]) + text + (join if last == len(parts) - 1 else "")


def _value(document: Mapping[str, Any], field: str, name: str) -> str | None:
    """The text of a field; None if it is missing."""
    found = None
    for place in (document, *(document.get(nested) for nested in NESTED)):
        if not isinstance(place, Mapping):
            continue
        for alias in ALIASES.get(field, (field,)):
            value = _look_up(place, alias)
            if _is_missing(value):
                continue
            if not isinstance(value, str | Number | date):
                raise TypeError(
                    f"{name} has {type(value).__name__} in its field {alias:.60}; expected text or a number: make it text, or "
                    "leave it out of the document template"
                )
            found = value if isinstance(value, str) else str(value)
            if found:
                return found
    return found


def _look_up(place: Mapping[str, Any], field: str) -> object:
    """The value of a field, which may be one of a nested mapping, such as meta.title; None if it is missing."""
    if field in place or "." not in field:
        return place.get(field)
    first, _, rest = field.partition(".")
    inner = place.get(first)
    return _look_up(inner, rest) if isinstance(inner, Mapping) else None


def _is_missing(value: object) -> bool:
    """Whether a value is None, NaN, or what pandas writes in their place."""
    if isinstance(value, Number):
        return bool(value != value)  # noqa: PLR0124 - as for NaN alone
    return value is None or type(value).__name__ in ("NAType", "NaTType")
