"""BM25: the documents of a corpus that share the rarest words with a query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from resift.errors import ExtraError, InputError
from resift.retrieval.words import singular

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

PATTERN = r"(?u)\b\w\w+\b"
"""bm25s's own words: two letters or more."""


class Bm25:
    """An index of texts by bm25s with its defaults: Lucene's variant, k1 = 1.5, b = 0.75, English stop words left out.

    The texts are read once and not kept in memory. Their token ids and the index take some 22 bytes per word of the corpus at the
    peak (200,000 documents of 80 words: 350 MB).
    """

    def __init__(self, texts: Iterable[str], *, pattern: str = PATTERN, stem: bool = False) -> None:
        """`pattern`: a regular expression of the words. `stem`: plurals count as singulars, by English rules.

        Raises ExtraError if bm25s is not installed, InputError if there is no text.
        """
        try:
            import bm25s
        except ImportError as error:
            raise ExtraError(
                "retrieval by BM25 needs bm25s, which cannot be imported: pip install 'resift[eval]' (or 'resift[mine]', a part)"
            ) from error
        self._tokenize = bm25s.tokenize
        self._options: dict[str, Any] = {"token_pattern": pattern, "stemmer": singular if stem else None, "show_progress": False}
        self.size = 0
        """number of texts"""
        tokenized = bm25s.tokenize(self._counted(texts), **self._options)
        if not self.size:
            raise InputError("the corpus holds no documents")
        self._index = bm25s.BM25() if tokenized.vocab else None  # without a word, there is nothing to index
        if self._index is not None:
            self._index.index(tokenized, show_progress=False)

    def best(self, query: str, depth: int) -> NDArray[np.int64]:
        """int64[at most depth]: positions of the best texts, best first; equal ones in their order.

        Texts that share no word with the query are not among them.
        """
        if self._index is None:
            return np.empty(0, np.int64)
        (words,) = self._tokenize(query, return_ids=False, **self._options)
        scores = self._index.get_scores_from_ids(self._index.get_tokens_ids(words))
        return best_places(scores, np.flatnonzero(scores > 0), depth)

    def _counted(self, texts: Iterable[str]) -> Iterator[str]:
        for text in texts:
            self.size += 1
            yield text


def best_places(scores: NDArray[np.float32], places: NDArray[np.int64], depth: int) -> NDArray[np.int64]:
    """Those `depth` of the `places`, which rise, that have the highest scores, best first, equal ones in order."""
    if len(places) > depth:
        lowest = np.partition(scores[places], -depth)[-depth]
        places = places[scores[places] >= lowest]
    return places[np.argsort(-scores[places], kind="stable")][:depth]
