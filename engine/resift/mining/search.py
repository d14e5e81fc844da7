"""Search: how the negatives of one query are found among its candidates, and of many queries with a teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from resift.mining.teacher import too_relevant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from resift.mining.candidates import MiningCandidates
    from resift.mining.collection import Collection, MiningQuery
    from resift.mining.options import MiningOptions
    from resift.mining.teacher import Teacher

    Progress = Callable[[str, int, int], object]

READ_AHEAD = 2
"""Candidates that the teacher reads at once, as a multiple of the negatives that a query still lacks."""


class Negative(NamedTuple):
    """A document that does not answer a query."""

    position: int
    rank: int
    logit: float | None
    """the teacher's; None without one"""


class Search:
    """The search for one query's negatives."""

    def __init__(self, number: int, query: MiningQuery, ranking: Sequence[int], candidates: MiningCandidates) -> None:
        self.query, self.depth = query, len(ranking)
        self.negatives: list[Negative] = []
        self.positive_logits: list[float] = []
        """the teacher's, of the first positives; empty without one"""
        self.is_over = False
        """whether no candidate remains"""
        self._rest: Iterator[tuple[int, int]] = candidates.of(number, query, ranking)
        self._candidates = candidates

    def next(self, count: int) -> list[tuple[int, int]]:
        """Position and rank of the next `count` candidates, at the end fewer; none is a copy of another or of a negative."""
        found: list[tuple[int, int]] = []
        positions = [negative.position for negative in self.negatives]
        for position, rank in self._rest:
            if not self._candidates.is_repeated(position, positions):
                found.append((position, rank))
                positions.append(position)
            if len(found) == count:
                return found
        self.is_over = True
        return found


class TeacherSearch:
    """The search for the negatives of all queries with a teacher, which reads no more candidates than that takes."""

    def __init__(self, teacher: Teacher, collection: Collection, options: MiningOptions, candidates: MiningCandidates) -> None:
        self._teacher, self._documents, self._options, self._candidates = teacher, collection.documents, options, candidates

    def run(self, searches: Sequence[Search], progress: Progress | None = None) -> int:
        """Finds the negatives, in turns over all queries that lack some; the number of pairs that the teacher read."""
        pairs, pending, turn = 0, list(searches), 0
        while pending:
            turn += 1
            batches = [(search, search.next(READ_AHEAD * self._lacking(search))) for search in pending]
            requested = [(search, batch) for search, batch in batches if batch]
            texts = ((search.query.text, self._texts(search, batch)) for search, batch in requested)
            for done, ((search, batch), logits) in enumerate(zip(requested, self._teacher.logits(texts), strict=True), 1):
                pairs += len(logits)
                self._take(search, batch, logits)
                if progress:
                    progress(f"teacher, turn {turn}", done, len(requested))
            pending = [search for search in pending if self._lacking(search) and not search.is_over]
        return pairs

    def _lacking(self, search: Search) -> int:
        return self._options.negatives - len(search.negatives)

    def _texts(self, search: Search, batch: list[tuple[int, int]]) -> list[str]:
        """What the teacher reads: the candidates and, at first, the documents that answer the query."""
        positives = [] if search.positive_logits else search.query.positives[: self._options.positives]
        return [self._documents[position].text for position in (*positives, *(position for position, _ in batch))]

    def _take(self, search: Search, batch: list[tuple[int, int]], logits: list[float]) -> None:
        """Adds those of a batch that the teacher takes for negatives, too, until there are as many as requested."""
        if not search.positive_logits:
            search.positive_logits = logits[: len(logits) - len(batch)]
        best = max(search.positive_logits)
        for (position, rank), logit in zip(batch, logits[len(logits) - len(batch) :], strict=True):
            is_trusted = self._options.trust_labels and search.query.judged.get(position) == 0
            reason = None if is_trusted else too_relevant(logit, best, self._options)
            if reason is not None:
                self._candidates.left_out[reason] += 1
            elif self._lacking(search):
                search.negatives.append(Negative(position, rank, logit))
