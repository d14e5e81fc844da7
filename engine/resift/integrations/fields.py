"""Fields: what a Reranker is given of a framework's document, whose metadata a document template may name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resift.settings import Settings


def has_template(settings: Settings) -> bool:
    """Whether the settings have a document template."""
    return settings.document_template != "auto"


def document_of(text: str, metadata: Mapping[str, Any], settings: Settings) -> Any:
    """The text alone, or with the metadata if the settings have a document template, in which `{text}` stands for the text."""
    return {"text": text, "metadata": metadata} if has_template(settings) else text
