"""Pairs of a given length, from words of our own: the same ones on every machine."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from resift.pools.reading import CandidatePool

if TYPE_CHECKING:
    from collections.abc import Callable

SEED = 31
SPREAD = 0.2
"""Documents of a pool differ in length by this share in both directions, as real ones do."""
THINGS = (
    "bread dough", "a bicycle chain", "the harbour wall", "a violin string", "rain water", "the village well", "a paper kite",
    "an apple tree", "the night train", "a copper kettle", "sheep wool", "the stone bridge", "a garden pond", "sea salt",
    "a wooden boat", "the mountain path", "a clay pot", "honey", "the old clock", "a candle",
)  # fmt: skip
CAUSES = (
    "cold air", "too little light", "strong wind", "slow heat", "salt", "frost", "a careful hand", "dry summers", "rust", "moss",
    "loud traffic", "spring tides", "thin oil", "long storage", "sharp sand", "fresh yeast", "soft soil", "steady use",
)  # fmt: skip
EFFECTS = (
    "keeps", "weakens", "softens", "hardens", "slows", "changes", "protects", "darkens", "cleans", "stretches", "ruins", "improves",
)  # fmt: skip
ENDINGS = (
    "within a week", "before the first snow", "more than people expect", "although nobody measured it", "in most cases",
    "as every old handbook says", "when the days grow short", "without any warning", "if it is left alone", "year after year",
    "especially near the coast", "at the cost of some patience",
)  # fmt: skip


def generated_pools(tokens: int, candidates: int, count: int, length: Callable[[str, str], int]) -> list[CandidatePool]:
    """`count` pools whose pairs have about `tokens` tokens.

    length(query, document): the tokens of a pair, special ones included.
    """
    choose = random.Random(f"{SEED} {tokens}")
    pools = []
    for number in range(count):
        thing, cause = choose.choice(THINGS), choose.choice(CAUSES)
        query = cause if tokens < 20 else f"how {cause} changes {thing}"
        documents = [
            _document(choose, thing, round(tokens * choose.uniform(1 - SPREAD, 1 + SPREAD)), lambda text: length(query, text))  # noqa: B023
            for _ in range(candidates)
        ]
        pools.append(CandidatePool(query, documents, f"words-{tokens}-{number + 1}", [{}] * candidates))
    return pools


def _document(choose: random.Random, thing: str, tokens: int, length: Callable[[str], int]) -> str:
    """A text of whole words, the longest whose pair has at most `tokens` tokens; at least one word."""
    text = ""
    while length(text) < tokens:
        about = thing if choose.random() < 0.3 else choose.choice(THINGS)
        sentence = f"{choose.choice(CAUSES)} {choose.choice(EFFECTS)} {about} {choose.choice(ENDINGS)}."
        text = f"{text} {sentence[0].upper()}{sentence[1:]}".lstrip()
    words = text.split()
    low, high = 1, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if length(" ".join(words[:middle])) <= tokens else (low, middle - 1)
    return " ".join(words[:low])
