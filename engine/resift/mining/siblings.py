"""Siblings: queries that ask the same, or nearly so; what answers one of them is no negative of another."""

from __future__ import annotations

from collections import Counter, defaultdict
from math import ceil
from typing import TYPE_CHECKING

from resift.retrieval.words import STOP_WORDS, key_of, singular, words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift.mining.collection import MiningQuery

SIMILARITY = 0.8
"""Jaccard similarity of their words from which on queries count as the same."""


def sibling_positives(queries: Sequence[MiningQuery]) -> list[set[int]]:
    """For each query, its positives and those of the queries that ask the same, by words without stop words, order and plurals.

    Pairs are found by prefix filtering: two sets as similar as SIMILARITY share one of the rarest words of each (Bayardo, Ma and
    Srikant, WWW 2007), so that not all pairs are compared.
    """
    asked = [content(query.text) for query in queries]
    frequency = Counter(word for found in asked for word in found)
    found = [set(query.positives) for query in queries]
    places_by_word: defaultdict[str, list[int]] = defaultdict(list)
    for place, own_words in enumerate(asked):
        rarest = sorted(own_words, key=lambda word: (frequency[word], word))
        prefix = rarest[: len(rarest) - ceil(SIMILARITY * len(rarest)) + 1]
        for other in {other for word in prefix for other in places_by_word[word]}:
            if len(own_words & asked[other]) >= SIMILARITY * len(own_words | asked[other]):
                found[place].update(queries[other].positives)
                found[other].update(queries[place].positives)
        for word in prefix:
            places_by_word[word].append(place)
    return found


def content(query: str) -> frozenset[str]:
    """The words of a query that say what is asked; all of them if each is a stop word, and its text if it has none."""
    found = words(query)
    return frozenset(singular(word for word in found if word not in STOP_WORDS) or found or [key_of(query)])
