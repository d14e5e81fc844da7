"""split: queries to train on, to choose the best weights by, and to measure the gain on, which share no query and no answer."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resift.errors import InputError
from resift.retrieval.words import key_of
from resift_export.train.pairs import Key, answers_of, document_key, without

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift.pools.training_pairs import TrainingPairs
    from resift_export.train.options import TrainOptions

MINIMUM_HELD_OUT, MINIMUM_DEVELOPMENT = 10, 5
"""Queries without which nothing is measured; `resift calibrate` needs ten."""


@dataclass(frozen=True)
class QuerySplit:
    """Queries by what they are for.

    No two parts have a query or an answer in common, and no negative to train on is an answer of another part.
    """

    train: list[TrainingPairs]
    development: list[TrainingPairs]
    held_out: list[TrainingPairs]
    groups: int
    """number of groups of queries that are connected by their answers, which stay together"""
    largest: int
    """number of queries of the largest group"""
    unused: int
    """number of queries that have no negative left but answers of other parts"""


def split_queries(queries: Sequence[TrainingPairs], options: TrainOptions) -> QuerySplit:
    """Splits by groups of queries that share an answer, in an order that the seed determines.

    Raises InputError if the queries are so connected that too few can be held out.
    """
    groups = sorted(_connected(queries), key=lambda group: _place(queries, group, options.seed))
    quotas = {
        "held_out": max(MINIMUM_HELD_OUT, round(options.held_out * len(queries))),
        "development": max(MINIMUM_DEVELOPMENT, round(options.development * len(queries))),
    }
    parts: dict[str, list[int]] = {"held_out": [], "development": [], "train": []}
    for group in groups:
        name = next((name for name, quota in quotas.items() if len(parts[name]) + len(group) <= quota), "train")
        parts[name] += group
    largest = max(map(len, groups))
    held_out, development, train = ([queries[place] for place in sorted(parts[name])] for name in parts)
    if len(held_out) < MINIMUM_HELD_OUT or len(development) < MINIMUM_DEVELOPMENT or len(train) < len(queries) / 4:
        raise InputError(
            f"of {len(queries)} queries, {largest} are connected by answers that they share, so that {len(train)} would be to "
            f"train on, {len(development)} to choose by and {len(held_out)} to measure; expected queries with answers of their "
            "own: join those that one document answers, or add data"
        )
    trained = without(train, answers_of([*held_out, *development]))
    if not trained:
        raise InputError("every negative to train on answers a query that is held out; expected further negatives: `resift mine`")
    return QuerySplit(trained, development, held_out, len(groups), largest, len(train) - len(trained))


def _connected(queries: Sequence[TrainingPairs]) -> list[list[int]]:
    """The numbers of the queries, by groups in which each shares an answer with another one."""
    parents = list(range(len(queries)))

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = number = parents[parents[number]]
        return number

    holders: dict[Key, int] = {}
    for number, pairs in enumerate(queries):
        for document in pairs.positive:
            first = holders.setdefault(document_key(document.text), number)
            parents[root(number)] = root(first)
    groups = defaultdict(list)
    for number in range(len(queries)):
        groups[root(number)].append(number)
    return list(groups.values())


def _place(queries: Sequence[TrainingPairs], group: Sequence[int], seed: int) -> bytes:
    """A digest by which groups are ordered: it depends on the queries and the seed, not on the order of the file."""
    first = min(key_of(queries[number].query) for number in group)
    return hashlib.sha256(f"{seed} {first}".encode(errors="surrogatepass")).digest()
