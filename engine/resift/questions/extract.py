"""Extract: keyword queries from a document's own words, for want of an endpoint. No question is invented."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING

from resift.retrieval.words import STOP_WORDS, UNSPACED, key_of, words

if TYPE_CHECKING:
    from collections.abc import Iterable

SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^\s\d\W])|(?<=[\u3002\uff01\uff1f])|\n+")
"""Between sentences, also those of Chinese and Japanese."""
LEAST_WORDS, MOST_WORDS = 2, 8
"""Words of a query: one says too little, and people type no more."""
MOST_CHARACTERS = 30
"""Characters of a query in a script without spaces, which is the beginning of a sentence."""


class Extractor:
    """Makes keyword queries: of a document's sentences, headings included, those whose words are rarest in the corpus.

    The words stand in the order of the sentence, the most frequent ones left out. So a query is made of words that are all in the
    document: training on such queries teaches to find words, and not what a question means.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._frequency: Counter[str] = Counter()
        """number of texts that have the word"""
        self._size = 0
        for text in texts:
            self._frequency.update(set(words(text)))
            self._size += 1

    def queries(self, text: str, count: int) -> list[str]:
        """The `count` best queries, best first; fewer if the text has fewer sentences."""
        found: dict[str, float] = {}
        for sentence in SENTENCE.split(text):
            chosen = self._rarest(words(sentence))
            query = " ".join(chosen)
            if re.search(f"[{UNSPACED}]", sentence):
                query = " ".join(sentence.split())[:MOST_CHARACTERS]
            if len(chosen) >= LEAST_WORDS and key_of(query) != key_of(text):
                found.setdefault(query, sum(map(self._rarity, chosen)) / math.sqrt(len(chosen)))
        return sorted(found, key=lambda query: -found[query])[:count]

    def _rarest(self, sentence: list[str]) -> list[str]:
        """The rarest words of a sentence in their order, each once."""
        distinct = [word for word in dict.fromkeys(sentence) if word not in STOP_WORDS]
        rarest = set(sorted(distinct, key=lambda word: -self._rarity(word))[:MOST_WORDS])
        return [word for word in distinct if word in rarest]

    def _rarity(self, word: str) -> float:
        """The logarithm of the inverse share of texts that have the word; 0 for one in all of them."""
        return math.log(self._size / self._frequency[word]) if self._frequency[word] else 0.0
