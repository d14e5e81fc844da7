"""Escapes: text from anywhere as one line that is safe to show."""

from __future__ import annotations

import re

UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that can control a terminal, can reorder a line or cannot be encoded: C0 controls, DEL, C1 controls, line separators,
bidirectional embeddings, overrides and isolates (Unicode Standard Annex 9, table 4), lone surrogates."""


def visible(text: str) -> str:
    r"""`text` as one line in which the characters in UNSAFE are escapes such as \x1b or \u202e."""
    return UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
