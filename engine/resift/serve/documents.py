"""Documents of a body: JSON of which only what the model reads is decoded. The rest is not built, and comes back as it was sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from resift.errors import InputError
from resift.serve.request import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from resift.documents import DocumentTemplate

FIELDS_LIMIT = 1000
"""Fields of a document."""
JSON_DOCUMENT = msgspec.Meta(extra_json_schema={"anyOf": [{"type": "string"}, {"type": "object", "maxProperties": FIELDS_LIMIT}]})
"""What a document may be, for OpenAPI."""
Fields = dict[str, msgspec.Raw]
_document = msgspec.json.Decoder(str | Fields)


class JsonObject(Mapping[str, Any]):
    """A JSON object whose fields are decoded when they are read. A list is read as an empty one: no model reads it."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._decoded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """Raises KeyError, and msgspec.ValidationError for a number out of range."""
        if name not in self._decoded:
            self._decoded[name] = _decode(bytes(self._fields[name]))
        return self._decoded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


def texts_of(documents: Sequence[msgspec.Raw], template: DocumentTemplate) -> list[str]:
    """What the model reads of each document. Raises Refusal that names the first one of which nothing can be read."""
    return _read(documents, template.text)


def joined_fields(documents: Sequence[msgspec.Raw], names: Sequence[str]) -> list[str]:
    """The texts of the named fields of each document, joined by line breaks, in the order of the names. Raises Refusal."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise Refusal("invalid", f"rank_fields names {twice!r:.60} more than once; expected each field once")

    def joined(document: str | JsonObject, name: str) -> str:
        if isinstance(document, str):
            return document
        texts = {field: document[field] for field in names if field in document}
        if not texts:
            raise Refusal("invalid", f"{name} has none of the fields {' or '.join(names):.300} of rank_fields")
        for field, text in texts.items():
            if not isinstance(text, str):
                raise Refusal("invalid", f"{name}.{field} is {type(text).__name__}; expected a string")
        return "\n".join(texts.values())

    return _read(documents, joined)


def with_text(document: msgspec.Raw, text: str) -> dict[str, Any]:
    """The fields of a document with `text`, which Cohere's and Jina's clients read."""
    fields = _document.decode(document)
    if isinstance(fields, str):
        return {"text": fields}
    return fields if bytes(fields.get("text", b"")).startswith(b'"') else {**fields, "text": text}


def _read(documents: Sequence[msgspec.Raw], text: Callable[[str | JsonObject, str], str]) -> list[str]:
    texts = []
    for position, content in enumerate(documents):
        name = f"documents[{position}]"
        try:
            document = _document.decode(content)
            if len(document) > FIELDS_LIMIT and not isinstance(document, str):
                raise Refusal("invalid", f"{name} has {len(document)} fields; expected at most {FIELDS_LIMIT}")
            texts.append(text(document if isinstance(document, str) else JsonObject(document), name))
        except msgspec.ValidationError as error:
            raise Refusal("invalid", f"{error} - at `$.{name}`") from error
        except (InputError, TypeError) as error:
            raise Refusal("invalid", str(error)) from error
    return texts


def _decode(content: bytes) -> Any:
    if content.startswith(b"{"):
        return JsonObject(msgspec.json.decode(content, type=Fields))
    return [] if content.startswith(b"[") else msgspec.json.decode(content)
