"""Queries that ask the same are found without comparing all pairs."""

from __future__ import annotations

import random

import pytest

from resift.mining.collection import MiningDocument, MiningQuery
from resift.mining.copies import Copies
from resift.mining.siblings import SIMILARITY, content, sibling_positives


def siblings(*texts):
    found = sibling_positives([MiningQuery(text, None, [place]) for place, text in enumerate(texts)])
    return [sorted(places - {place}) for place, places in enumerate(found)]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("What are the symptoms of flu?", "symptom of the Flu", True),
        ("What are the symptoms of flu?", "What are the causes of flu?", False),
        ("is aspirin safe", "is aspirin not safe", False),
        ("what is it", "what is this", False),
        ("?!", "?!", True),
        ("潮汐的原因", "潮汐的原因?", True),
        (
            "treatment of severe chronic lower back pain in older adults",
            "treatment of chronic lower back pain in older adults",
            True,
        ),
    ],
)
def test_queries_ask_the_same_by_the_words_that_say_what_is_asked(first, second, expected):
    assert siblings(first, second) == ([[1], [0]] if expected else [[], []])


def test_prefixes_miss_no_pair():
    generator = random.Random(5)
    words = [f"w{number}" for number in range(30)]
    texts = [" ".join(generator.sample(words[: generator.choice([9, 12, 30])], generator.randint(1, 9))) for _ in range(300)]
    sets = [content(text) for text in texts]
    expected = [
        [other for other, theirs in enumerate(sets) if other != place and len(mine & theirs) >= SIMILARITY * len(mine | theirs)]
        for place, mine in enumerate(sets)
    ]
    assert siblings(*texts) == expected
    assert sum(map(len, expected)) > 50


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("The moon pulls the sea.", "the moon  pulls the SEA", True),
        ("one two three four five six seven", "zero one two three four five six seven eight nine", True),
        ("one two three four five six seven", "one two three four fife six seven", False),
        ("short", "short text", False),
        ("", "", True),
        ("", "one two three four five", False),
    ],
)
def test_copies_share_their_words_or_most_runs_of_words(first, second, expected):
    copies = Copies([MiningDocument(first), MiningDocument(second)], 0.6)
    assert copies.is_copy(0, [1]) == copies.is_copy(1, [0]) == expected
