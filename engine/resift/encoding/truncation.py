"""Truncation: how many tokens of a query and a document a pair keeps. Pure."""

from __future__ import annotations


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
