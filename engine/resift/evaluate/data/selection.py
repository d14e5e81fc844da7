"""Selection: which queries are evaluated, and why the others are not."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeVar

from resift.errors import InputError
from resift.pools.reading import CandidatePool

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from resift.evaluate.data.trec import Qrels

Item = TypeVar("Item")

NOT_JUDGED = "not judged"
NONE_RELEVANT = "no relevant document judged"
NO_CANDIDATES = "no candidates"
ONE_CANDIDATE = "one candidate"
ONLY_JUDGED = "in the judgements only"


class Selection:
    """The queries of one dataset that are evaluated.

    Left out are queries without a judgement, or without a relevant one: the ideal ranking's nDCG is 0 then (pytrec_eval's mean
    would hold a 0 for every system; trec_eval 7 "ignored" them). So are queries with fewer than two candidates, as there is
    nothing to rank, and those that are in the judgements only, as in trec_eval without -c.
    """

    def __init__(self, path: str, limit: int | None = None) -> None:
        self.left_out: Counter[str] = Counter()
        self._path, self._limit = path, limit
        self._judged: Qrels = {}
        self._example: str | None = None

    def among(
        self, items: Iterable[tuple[str, Mapping[str, int], Item]], all_judged: Collection[str] = ()
    ) -> Iterator[tuple[str, Item]]:
        """Of each query's qid, judgements and what belongs to it: those with a relevant document judged, up to the limit.

        `all_judged` are the qids with judgements; those that never came up are counted, unless the limit ends the reading.
        """
        met: set[str] = set()
        for qid, judged, item in items:
            met.add(qid)
            self._example = self._example or qid
            if isinstance(item, CandidatePool) and not item.documents:
                self.left_out[NO_CANDIDATES] += 1
            elif max(judged.values(), default=0) == 0:
                self.left_out[NONE_RELEVANT if judged else NOT_JUDGED] += 1
            else:
                self._judged[qid] = dict(judged)
                yield qid, item
                if len(self._judged) == self._limit:
                    return
        only_judged = sum(qid not in met for qid in all_judged)
        if only_judged:
            self.left_out[ONLY_JUDGED] = only_judged

    def keep(self, pools: Iterable[CandidatePool]) -> tuple[list[CandidatePool], Qrels]:
        """The pools with two candidates or more, and all the judgements of their queries.

        Raises InputError if there is none, or if no candidate of any of them is judged: docids of another collection.
        """
        kept: list[CandidatePool] = []
        for pool in pools:
            if len(pool.documents) > 1:
                kept.append(pool)
            else:
                self.left_out[ONE_CANDIDATE if pool.documents else NO_CANDIDATES] += 1
        qrels = {str(pool.qid): self._judged[str(pool.qid)] for pool in kept}
        if not kept:
            raise InputError(f"{self._path}: no query can be evaluated: {self._reasons()}")
        if not any(fields["docid"] in qrels[str(pool.qid)] for pool in kept for fields in pool.fields):
            qid, docid = str(kept[0].qid), kept[0].fields[0]["docid"]
            raise InputError(
                f"{self._path}: no candidate is judged, so no ranking is better than another; expected the judgements' docids: "
                f"query {qid!r} has the candidate {docid!r}, but {next(iter(qrels[qid]))!r} is judged"
            )
        return kept, qrels

    def _reasons(self) -> str:
        if not self.left_out:
            return "it holds no queries"
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
        example = "" if self._example is None else f" (the first query is {self._example!r})"
        return f"{reasons}{example}; expected a query with a relevant document judged and two candidates"
