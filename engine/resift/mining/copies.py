"""Copies: texts that say the same, word for word or nearly so."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from resift.retrieval.words import key_of, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from resift.mining.collection import MiningDocument

SHINGLE = 4
"""Words of a shingle."""
REMEMBERED = 4096
"""Documents whose shingles are in memory: the same ones are candidates of many queries."""


class Copies:
    """Tells copies among the documents of a collection."""

    def __init__(self, documents: Sequence[MiningDocument], max_overlap: float) -> None:
        self._documents = documents
        self._max_overlap = max_overlap
        self.key = lru_cache(REMEMBERED)(lambda position: key_of(documents[position].text))
        """key(position): what a text has in common with those that differ only in case, punctuation and white space"""
        self._shingles = lru_cache(REMEMBERED)(lambda position: shingles(documents[position].text))

    def is_copy(self, position: int, of: Iterable[int]) -> bool:
        """Whether a document is a copy of one of these: the same words, or most shingles of the shorter text are in the other.

        So a part of a document is a copy of it.
        """
        return any(self._are_copies(position, other) for other in of)

    def _are_copies(self, position: int, other: int) -> bool:
        if self.key(position) == self.key(other):
            return True
        first, second = sorted((self._shingles(position), self._shingles(other)), key=len)
        return bool(first) and len(first & second) >= self._max_overlap * len(first)


def shingles(text: str) -> frozenset[int]:
    """The runs of SHINGLE words of a text, as hashes; empty for a shorter text (Broder, SEQUENCES 1997)."""
    found = words(text)
    return frozenset(hash(tuple(found[start : start + SHINGLE])) for start in range(len(found) - SHINGLE + 1))
