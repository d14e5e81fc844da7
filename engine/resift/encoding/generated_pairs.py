"""Generated pairs: what nobody would list in a gate: odd words side by side, repetitions, numbers, code, many scripts, nothing."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

import numpy as np

from resift.artifact.agreement import Pool
from resift.artifact.coverage import LEAST_PAIRS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift.encoding.tokenizer import PairTokenizer

DOCUMENTS = 10
"""Documents of a pool."""
LONGEST_QUERY, LONGEST_DOCUMENT = 8, 24
"""Words of the longest query, and of the longest document but the few that fill a pair."""
QUERY_SHARE = 24
"""A query has at most one word for so many tokens of a pair, so that few are cut."""
FULL_PAIRS = 200
"""One document in so many fills its pair, if that has at most LONGEST_PAIR tokens."""
LONGEST_PAIR = 512
"""Words of the longest document: a pair of 8,192 tokens would take more time than all others together."""
LETTERS = {
    "cyrillic": (0x0430, 0x0450),
    "greek": (0x03B1, 0x03CA),
    "hebrew": (0x05D0, 0x05EB),
    "arabic": (0x0627, 0x064B),
    "devanagari": (0x0905, 0x093A),
    "thai": (0x0E01, 0x0E2F),
    "cjk": (0x4E00, 0x5E00),
    "hiragana": (0x3041, 0x3097),
    "hangul": (0xAC00, 0xB400),
    "emoji": (0x1F300, 0x1F5FF),
}
"""First and last code points, exclusively, of the characters that make words."""
KINDS = ("words", "words", "words", "repeated", "numbers", "code", "letters", "marks", "empty")
"""What a text can be made of; each is as likely as it is frequent here."""


def generated_pools(  # noqa: PLR0913 - what pairs are made of, for whom, how many, and which
    words: Sequence[str],
    tokenizer: PairTokenizer,
    max_length: int,
    pairs: int,
    seed: int = 0,
    *,
    tokens: int | None = None,
) -> list[Pool]:
    """Pools of `pairs` pairs, rounded up to whole pools; the same for the same arguments.

    `words`: at least one, such as those of the gate. `tokenizer`: that of the model, for pairs of at most `max_length` tokens.
    `tokens`: the pools end with the one with which they have so many tokens, and at least LEAST_PAIRS pairs; None: no limit.
    The numbers of words are spread evenly over the orders of magnitude. No query is too long for its pair.
    """
    generator = np.random.default_rng(seed)
    most_words = min(LONGEST_QUERY, max(1, max_length // QUERY_SHARE))
    pools: list[Pool] = []
    read = 0
    while len(pools) * DOCUMENTS < pairs:
        query = _text(generator, words, _length(generator, most_words))
        if tokenizer.encode(query, []).query_tokens_cut:
            query = ""
        lengths = [_length(generator, LONGEST_DOCUMENT) for _ in range(DOCUMENTS)]
        if (len(pools) + 1) % (FULL_PAIRS // DOCUMENTS) == 0:
            lengths[-1] = min(max_length, LONGEST_PAIR)
        documents = [_text(generator, words, length) for length in lengths]
        pools.append(Pool(qid=f"generated-{len(pools) + 1}", query=query, documents=documents))
        read += int(tokenizer.encode(query, documents).lengths.sum())
        if tokens is not None and read >= tokens and len(pools) * DOCUMENTS >= LEAST_PAIRS:
            break
    return pools


def words_of(pools: Sequence[Pool]) -> list[str]:
    """The distinct words of some pools, in a fixed order."""
    return sorted({word for pool in pools for text in (pool.query, *pool.documents) for word in text.split()})


def _length(generator: np.random.Generator, longest: int) -> int:
    """A number of words from 1 to `longest`, whose logarithm is evenly distributed."""
    return int(np.exp(generator.uniform(0, np.log(longest + 1))))


def _text(generator: np.random.Generator, words: Sequence[str], length: int) -> str:
    kind = KINDS[generator.integers(len(KINDS))]
    if kind == "empty":
        return ""
    if kind == "words":
        return " ".join(words[number] for number in generator.integers(len(words), size=length))
    if kind == "repeated":
        return " ".join([words[int(generator.integers(len(words)))]] * length)
    if kind == "numbers":
        return " ".join(f"{number / 100:.{number % 3}f}" for number in generator.integers(10**6, size=length))
    if kind == "letters":
        first, end = list(LETTERS.values())[generator.integers(len(LETTERS))]
        return " ".join(_word(generator, [chr(number) for number in range(first, end)], 3) for _ in range(length))
    alphabet = string.punctuation if kind == "marks" else f"{string.ascii_letters}{string.digits}_."
    return " ".join(_word(generator, alphabet, 6) for _ in range(length))


def _word(generator: np.random.Generator, alphabet: Sequence[str], longest: int) -> str:
    size = generator.integers(1, longest + 1)
    return "".join(alphabet[number] for number in generator.integers(len(alphabet), size=size))
