"""Candidates: the documents of a query's ranking that may be negatives, one after another, and why the others may not."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

from resift.mining.copies import Copies
from resift.mining.siblings import sibling_positives
from resift.retrieval.words import key_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from resift.mining.collection import Collection, MiningQuery
    from resift.mining.options import MiningOptions

POSITIVE = "answers the query"
SIBLING = "answers a query that asks the same"
GROUP = "from the same source as an answer"
COPY = "a copy of an answer, or a part of one"
PARTLY = "judged relevant, below --relevant-from"
ITSELF = "the query itself"
REPEATED = "a copy of another negative"


class MiningCandidates:
    """The candidates of every query of a collection."""

    def __init__(self, collection: Collection, options: MiningOptions) -> None:
        self.left_out: Counter[str] = Counter()
        """number of documents that are no negatives, by reason, as they are come across"""
        self._documents, self._options = collection.documents, options
        self._copies = Copies(collection.documents, options.max_overlap)
        self._siblings = sibling_positives([*collection.queries, *collection.further_queries])

    def of(self, number: int, query: MiningQuery, ranking: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Position and rank of each document that may be a negative, in the order in which they are to be taken.

        `number`: that of the query in the collection. `ranking`: positions of its candidates, best first.
        """
        first, last = self._options.ranks
        ranks = [(position, rank) for rank, position in enumerate(ranking[:last], 1) if rank >= first]
        if not self._options.hardest:
            random.Random(f"{self._options.seed} {query.qid} {query.text}").shuffle(ranks)  # noqa: S311 - no secret
        groups = {self._documents[position].group for position in query.positives} - {None}
        for position, rank in ranks:
            reason = self._reason(number, query, position)
            if reason is None and self._documents[position].group in groups:
                reason = GROUP
            if reason is None:
                yield position, rank
            else:
                self.left_out[reason] += 1

    def is_repeated(self, position: int, negatives: Iterable[int]) -> bool:
        """Whether a document is a copy of one of the query's negatives; if so, it is counted."""
        found = self._copies.is_copy(position, negatives)
        self.left_out[REPEATED] += found
        return found

    def _reason(self, number: int, query: MiningQuery, position: int) -> str | None:
        """Why a document is no negative; None if it may be one."""
        if position in query.positives:
            return POSITIVE
        if query.judged.get(position, 0) > 0:
            return PARTLY
        if position in self._siblings[number]:
            return SIBLING
        if self._is_query(query, position):
            return ITSELF
        return COPY if self._copies.is_copy(position, self._siblings[number]) else None

    def _is_query(self, query: MiningQuery, position: int) -> bool:
        """Whether a document is the query, as in collections that are searched with their own documents."""
        document, expected = self._copies.key(position), key_of(query.text)
        has_its_id = query.qid is not None and self._documents[position].docid == query.qid
        return document == expected or (has_its_id and expected in document)
