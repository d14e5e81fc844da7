"""Requests and their times: a seeded mix of requests, and arrivals of a Poisson process."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.material import gate_pools, words_in
from resift.pools.source import read_pools

if TYPE_CHECKING:
    from pathlib import Path

SIZES, SHARES = (5, 10, 20, 30, 50), (20, 30, 25, 15, 10)
"""Numbers of documents in a request, and how many of a hundred requests have each."""
SNIPPETS, JOINED = 0.3, 0.15
"""Shares of documents that are cut to a snippet, and that are joined with two others; the rest is unchanged."""
SNIPPET_WORDS = (8, 30)
COUNT = 128
"""Number of different requests; a load repeats them."""


@dataclass(frozen=True)
class LoadRequest:
    """One request, with its body in both formats."""

    query: str
    documents: list[str]
    cohere: bytes = field(init=False, repr=False)
    tei: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        cohere = {"model": "bench", "query": self.query, "documents": self.documents}
        tei = {"query": self.query, "texts": self.documents, "raw_scores": True}
        object.__setattr__(self, "cohere", json.dumps(cohere).encode())
        object.__setattr__(self, "tei", json.dumps(tei).encode())


def read_requests(path: Path) -> list[LoadRequest]:
    """A request for each pool of a file, unchanged."""
    return [LoadRequest(pool.query, list(pool.documents)) for pool in read_pools(path) if pool.documents]


def mixed_requests(seed: int, count: int = COUNT) -> list[LoadRequest]:
    """Requests of mixed sizes and lengths, from the pools of the export's built-in gate."""
    choose = random.Random(seed)
    pools = gate_pools()
    texts = [text for pool in pools for text in pool.documents]
    requests = []
    for size in choose.choices(SIZES, SHARES, k=count):
        pool = choose.choice(pools)
        documents = (pool.documents + choose.sample(texts, size))[:size]
        requests.append(LoadRequest(pool.query, [_vary(document, texts, choose) for document in documents]))
    return requests


def uniform_requests(seed: int, *, documents: int, words: int, count: int = COUNT) -> list[LoadRequest]:
    """Requests of one size, whose documents all have `words` words."""
    choose = random.Random(seed)
    pools = gate_pools()
    vocabulary = words_in(pools)
    return [
        LoadRequest(choose.choice(pools).query, [" ".join(choose.choices(vocabulary, k=words)) for _ in range(documents)])
        for _ in range(count)
    ]


def arrivals(rate: float, count: int, seed: int) -> np.ndarray:
    """Arrival times, float64[count], in seconds from the start, of a Poisson process of `rate` per second.

    With one seed, the arrivals at two rates differ only in their scale, so that two servers get the same bursts.
    """
    return np.random.default_rng(seed).exponential(1.0, count).cumsum() / rate


def _vary(document: str, texts: list[str], choose: random.Random) -> str:
    drawn = choose.random()
    if drawn < SNIPPETS:
        return " ".join(document.split()[: choose.randint(*SNIPPET_WORDS)])
    if drawn < SNIPPETS + JOINED:
        return " ".join([document, *choose.sample(texts, 2)])
    return document
