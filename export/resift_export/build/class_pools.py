"""class_pools: pools of long pairs, made from the gate's texts, by which frozen graphs are judged in each length class.

Of the built-in gate, some 17 pools have enough documents of 33 to 64 tokens to be ranked by them alone: one exchange of two such
documents lowers the mean tau of the class by 0.012.
"""

from __future__ import annotations

from itertools import chain, repeat
from typing import TYPE_CHECKING

import numpy as np

from resift.artifact.agreement import Pool
from resift.artifact.coverage import LEAST_RANKED, class_bounds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift.encoding.tokenizer import PairTokenizer

QUERIES, TOKENS = 40, 40_000
"""Pools are made for a class until they have so many queries, or one of each of the gate's pools was tried, and so many tokens."""
ROUNDS = 3
"""The maximum of pools for a class that are made of one of the gate's: of other lengths, with other words behind."""
DOCUMENTS = 10
"""The maximum of a pool's documents."""
LONGEST = 512
"""Tokens of the longest pair of the last class that pools are made for: longer ones would take too much time."""


def class_pools(gate: Sequence[Pool], tokenizer: PairTokenizer, max_length: int, *, longer_than: int) -> list[Pool]:
    """Pools for each length class of pairs of more than `longer_than` and at most LONGEST tokens.

    A document is one of the gate's pool, cut, or followed by words of other pools, so that its pair is of the class.
    """
    words = [word for pool in gate for text in pool.documents for word in text.split()]
    words_again = [*words, *words[:LONGEST]]
    per_word = _tokens_per_word(gate, tokenizer)
    made, low = [], longer_than
    for end in (end for end in class_bounds(max_length) if longer_than < end <= LONGEST):
        generator, tokens, queries = np.random.default_rng(end), 0, set[str]()
        for number, pool in enumerate(chain.from_iterable(repeat(gate, ROUNDS)), 1):
            documents = pool.documents[:DOCUMENTS]
            sizes = generator.integers(low + 1, end + 1, len(documents)) / per_word - len(pool.query.split())
            starts = generator.integers(0, len(words), len(documents))
            texts = [
                " ".join([*text.split(), *words_again[start : start + end]][: max(0, int(size))])
                for text, size, start in zip(documents, sizes.tolist(), starts.tolist(), strict=True)
            ]
            lengths = tokenizer.encode(pool.query, texts).lengths
            here = [(text, length) for text, length in zip(texts, lengths.tolist(), strict=True) if low < length <= end]
            if len(here) >= LEAST_RANKED:
                made.append(Pool(qid=f"{pool.qid}, up to {end} tokens", query=pool.query, documents=[text for text, _ in here]))
                tokens += sum(length for _, length in here)
                queries.add(pool.query)
            if tokens >= TOKENS and (len(queries) >= QUERIES or number >= len(gate)):
                break
        low = end
    return made


def _tokens_per_word(pools: Sequence[Pool], tokenizer: PairTokenizer) -> float:
    """The tokens of the pools' pairs for each word of theirs."""
    tokens = sum(int(tokenizer.encode(pool.query, pool.documents).lengths.sum()) for pool in pools)
    words = sum(len(f"{pool.query} {text}".split()) for pool in pools for text in pool.documents)
    return tokens / max(1, words)
