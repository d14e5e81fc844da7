"""Mines training pairs: for every query the negatives among its candidates that a teacher, too, takes for negatives."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from resift.errors import InputError
from resift.mining.candidates import MiningCandidates
from resift.mining.ranked import ranked
from resift.mining.search import Negative, Search, TeacherSearch
from resift.mining.teacher import MARGIN, SHARE
from resift.pools.training_pairs import TrainingDocument, TrainingPairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift.mining.collection import Collection
    from resift.mining.options import MiningOptions
    from resift.mining.search import Progress
    from resift.mining.teacher import Teacher
    from resift.retrieval.vectors import Vectors

NO_CANDIDATE, NO_NEGATIVE = "no candidate at these ranks", "none of its candidates is a negative"


@dataclass(slots=True)
class Mined:
    """Training pairs, and what became of the rest."""

    pairs: list[TrainingPairs]
    documents_left_out: Counter[str]
    """number of candidates that are no negatives, by reason; candidates that were not needed are not counted"""
    queries_left_out: Counter[str]
    """number of queries without pairs, by reason"""
    read_by_teacher: int = 0
    """number of pairs"""
    fewer: int = 0
    """number of queries with fewer negatives than were to be found"""
    notes: list[str] = field(default_factory=list)
    """what was found that the owner of the data should know"""

    def negatives(self) -> int:
        """The number of all negatives."""
        return sum(len(pairs.negative) for pairs in self.pairs)


def mine(  # noqa: PLR0913 - the options of a call, by name
    collection: Collection,
    options: MiningOptions,
    *,
    teacher: Teacher | None = None,
    vectors: Vectors | None = None,
    stem: bool = False,
    progress: Progress | None = None,
) -> Mined:
    """Finds up to `options.negatives` documents for every query that do not answer it, among its candidates.

    Candidates are a pool's own, in their order, or those that BM25 and, if they are given, `vectors` retrieve. Without a `teacher`
    only labels, copies and other queries say which of them may answer the query after all. The same collection, options and logits
    of the teacher give the same pairs.

    Raises InputError if no query has a negative, ExtraError without bm25s where documents are retrieved, and like
    `Reranker.submit` if the teacher cannot read a pair.
    """
    candidates = MiningCandidates(collection, options)
    rankings = ranked(collection, options.ranks[1], vectors=vectors, stem=stem, progress=progress)
    searches = [
        Search(number, query, ranking, candidates)
        for number, (query, ranking) in enumerate(zip(collection.queries, rankings, strict=True))
    ]
    pairs_read = 0
    if teacher is None:
        for search in searches:
            search.negatives = [Negative(position, rank, None) for position, rank in search.next(options.negatives)]
    else:
        pairs_read = TeacherSearch(teacher, collection, options, candidates).run(searches, progress)
    found = [_pairs(search, collection, options) for search in searches if search.negatives]
    queries_left_out = Counter(collection.left_out)
    for search in searches:
        if not search.negatives:
            queries_left_out[NO_CANDIDATE if search.depth < options.ranks[0] else NO_NEGATIVE] += 1
    if not found:
        raise InputError(f"{collection.name}: {_none_remains(searches, candidates.left_out, options)}")
    fewer = sum(len(pairs.negative) < options.negatives for pairs in found)
    return Mined(found, candidates.left_out, queries_left_out, pairs_read, fewer, list(collection.notes))


def _pairs(search: Search, collection: Collection, options: MiningOptions) -> TrainingPairs:
    positives = search.query.positives[: options.positives]
    logits: Sequence[float | None] = search.positive_logits or [None] * len(positives)

    def document(position: int, logit: float | None, rank: int | None = None) -> TrainingDocument:
        found = collection.documents[position]
        return TrainingDocument(found.text, found.docid, logit, rank)

    return TrainingPairs(
        search.query.text,
        [document(position, logit) for position, logit in zip(positives, logits, strict=True)],
        [document(each.position, each.logit, each.rank) for each in sorted(search.negatives, key=lambda each: each.rank)],
        search.query.qid,
    )


def _none_remains(searches: Sequence[Search], left_out: Counter[str], options: MiningOptions) -> str:
    """Why no query has a negative, and what to do, in one line."""
    first, last = options.ranks
    if all(search.depth < first for search in searches):
        deepest = max(search.depth for search in searches)
        return (
            f"no query has a candidate at ranks {first}-{last}: none has more than {deepest}; expected --ranks that begin earlier"
        )
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common(3) if count)
    mends = {SHARE.format(options.max_share): "raise --max-share", MARGIN.format(options.margin): "lower --margin"}
    strictest = max(mends, key=lambda reason: left_out[reason])
    advice = mends[strictest] if left_out[strictest] else "widen --ranks"
    return (
        f"no query has a negative: {sum(left_out.values())} candidates were left out ({reasons}); {advice}, or give more documents"
    )
