"""Round trip: a question is kept only if a search with it finds its own document again among the best."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resift.mining.teacher import Teacher
from resift.retrieval.bm25 import Bm25
from resift.retrieval.words import LONG_WORD, key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from resift.mining.collection import MiningDocument
    from resift.reranker import Reranker

    Progress = Callable[[str, int, int], object]

READ = 50
"""Documents that a reranker reads, the best by BM25."""


class RoundTrip:
    """Searches a corpus with questions on its documents."""

    def __init__(self, documents: Sequence[MiningDocument], best: int, reranker: Reranker | None = None) -> None:
        """`best`: so many documents are looked through. `reranker`: what ranks the best by BM25; None: they stay as they are.

        Raises ExtraError without bm25s.
        """
        self._documents, self._best = documents, best
        self._index = Bm25((document.text for document in documents), pattern=LONG_WORD)
        self._teacher = None if reranker is None else Teacher(reranker)

    def survive(self, questions: Sequence[tuple[str, int]], progress: Progress | None = None) -> Iterator[bool]:
        """Whether each question, given with the position of its document, finds that document or one with the same words."""
        depth = self._best if self._teacher is None else max(self._best, READ)
        found = ([int(each) for each in self._index.best(question, depth)] for question, _ in questions)
        rankings = found if self._teacher is None else self._reranked(questions, found, self._teacher)
        for number, ((_, position), ranking) in enumerate(zip(questions, rankings, strict=True), 1):
            key = key_of(self._documents[position].text)
            yield any(each == position or key_of(self._documents[each].text) == key for each in ranking[: self._best])
            if progress:
                progress("searching", number, len(questions))

    def _reranked(self, questions: Sequence[tuple[str, int]], found: Iterator[list[int]], teacher: Teacher) -> Iterator[list[int]]:
        """What a reranker makes of the documents found and of the question's own, which it always reads."""
        pools = [list(dict.fromkeys([*ranking, position])) for (_, position), ranking in zip(questions, found, strict=True)]
        texts = (
            (question, [self._documents[each].text for each in pool]) for (question, _), pool in zip(questions, pools, strict=True)
        )
        for pool, logits in zip(pools, teacher.logits(texts), strict=True):
            yield [pool[place] for place in sorted(range(len(pool)), key=lambda place: -logits[place])]
