"""What is asked, and when: a seeded mix of requests, and arrivals of a Poisson process."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.__main__ import OWN
from resift.pools.reading import read_pools

if TYPE_CHECKING:
    from pathlib import Path

SIZES, SHARES = (5, 10, 20, 30, 50), (20, 30, 25, 15, 10)
"""Documents of a request, and how many of a hundred requests have so many."""
SNIPPETS, JOINED = 0.3, 0.15
"""Shares of documents that are cut to a snippet, and that are three joined; the others are taken whole."""
SNIPPET_WORDS = (8, 30)
COUNT = 128
"""Different requests; a load repeats them."""


@dataclass(frozen=True)
class Request:
    """One request, with its body in the formats that are sent."""

    query: str
    documents: list[str]
    cohere: bytes = field(init=False, repr=False)
    tei: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        cohere = {"model": "bench", "query": self.query, "documents": self.documents}
        tei = {"query": self.query, "texts": self.documents, "raw_scores": True}
        object.__setattr__(self, "cohere", json.dumps(cohere).encode())
        object.__setattr__(self, "tei", json.dumps(tei).encode())


def read(path: Path) -> list[Request]:
    """The pools of a file as they are."""
    return [Request(pool.query, list(pool.documents)) for pool in read_pools(path) if pool.documents]


def mixed(seed: int, count: int = COUNT) -> list[Request]:
    """Requests of mixed sizes and lengths, from the pools of the export's built-in gate."""
    choose = random.Random(seed)
    pools = list(read_pools(OWN))
    texts = [text for pool in pools for text in pool.documents]
    requests = []
    for size in choose.choices(SIZES, SHARES, k=count):
        pool = choose.choice(pools)
        documents = (pool.documents + choose.sample(texts, size))[:size]
        requests.append(Request(pool.query, [_varied(document, texts, choose) for document in documents]))
    return requests


def alike(seed: int, *, documents: int, words: int, count: int = COUNT) -> list[Request]:
    """Requests of one size, whose documents have as many words each."""
    choose = random.Random(seed)
    pools = list(read_pools(OWN))
    vocabulary = " ".join(text for pool in pools for text in pool.documents).split()
    return [
        Request(choose.choice(pools).query, [" ".join(choose.choices(vocabulary, k=words)) for _ in range(documents)])
        for _ in range(count)
    ]


def arrivals(rate: float, count: int, seed: int) -> np.ndarray:
    """Seconds from the start, float64[count], of a Poisson process of `rate` a second.

    Of one seed, the arrivals at two rates are the same but for their scale: two servers meet the same bursts.
    """
    return np.random.default_rng(seed).exponential(1.0, count).cumsum() / rate


def _varied(document: str, texts: list[str], choose: random.Random) -> str:
    drawn = choose.random()
    if drawn < SNIPPETS:
        return " ".join(document.split()[: choose.randint(*SNIPPET_WORDS)])
    if drawn < SNIPPETS + JOINED:
        return " ".join([document, *choose.sample(texts, 2)])
    return document
