"""Collection: documents, and queries with those that answer them, from whatever form they were read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class MiningDocument:
    """A document of a collection."""

    text: str
    docid: str | None = None
    group: str | None = None
    """what it shares with other parts of one source, such as the name of a file; None if that is not known"""


@dataclass(frozen=True, slots=True)
class MiningQuery:
    """A query with the documents that answer it, which are positions in the collection's documents."""

    text: str
    qid: str | None
    positives: list[int]
    """one or more, the best first"""
    judged: dict[int, int] = field(default_factory=dict)
    """labels of further documents, which are known not to answer it well"""
    row: int = 0
    """its number in the file of queries, from 0, by which it has its vector"""
    ranking: list[int] | None = None
    """its candidates as a retriever gave them, best first; None if they are to be retrieved"""


@dataclass(slots=True)
class Collection:
    """Documents and queries."""

    name: str
    documents: list[MiningDocument]
    queries: list[MiningQuery]
    size: int
    """number of documents that are retrieved, the first ones; the others only answer queries"""
    further_queries: list[MiningQuery] = field(default_factory=list)
    """those beyond a limit, for which no negatives are found; what answers them is no negative of a query that asks the same"""
    rows: int = 0
    """number of queries in their file, whether they are used or not"""
    left_out: Counter[str] = field(default_factory=Counter)
    """number of queries that are not used, by reason"""
    notes: list[str] = field(default_factory=list)
    """what was found that its owner should know"""
