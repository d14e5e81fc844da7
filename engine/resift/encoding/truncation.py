"""Truncation: how many tokens of a query and a document a pair keeps, by the rules of `Settings.truncation`. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resift.settings import Truncation

DOCUMENT_SHARE = 4
"""With only_second, a query may take all but 1/DOCUMENT_SHARE of a pair's room; a longer query is cut."""


def query_room(room: int, truncation: Truncation) -> int:
    """Most tokens of a query in a pair with `room` tokens for both texts."""
    return room - room // DOCUMENT_SHARE if truncation == "only_second" else room


def document_room(query: int, room: int, truncation: Truncation) -> int:
    """Most tokens of a document next to a query of `query` tokens; with longest_first all, as the query may be cut further."""
    return room - query if truncation == "only_second" else room


def longest_first(query: int, document: int, room: int) -> tuple[int, int]:
    """How many tokens two texts of `query` and `document` tokens keep that share `room` tokens.

    The longer text is cut, down to the length of the shorter one if need be; then both are, the document getting the odd token, or
    the query if it is the longer. This is the rule of the tokenizers library
    (https://github.com/huggingface/tokenizers, `truncate_encodings` with LongestFirst).
    """
    if query + document <= room:
        return query, document
    shorter = min(query, document)
    lengths = (shorter, room - shorter) if 2 * shorter <= room else (room // 2, room - room // 2)
    return lengths if query <= document else lengths[::-1]
