"""Selects the queries to evaluate, and counts why the others are left out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeVar

from resift.errors import InputError
from resift.evaluate.data.self_candidates import can_be_evaluated, is_query, without_query
from resift.pools.reading import CandidatePool

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from resift.pools.trec import Qrels

Item = TypeVar("Item")

NOT_JUDGED = "not judged"
NONE_RELEVANT = "no relevant document judged"
NO_CANDIDATES = "no candidates"
ONE_CANDIDATE = "one candidate"
ONLY_JUDGED = "in the judgements only"


class QuerySelection:
    """Selects the queries of one dataset to evaluate, and counts the others by reason.

    Queries without a judgement, or without a relevant document, are left out, as their ideal ranking has the DCG 0 (pytrec_eval's
    mean would hold a 0 for every system; trec_eval 7 "ignored" them). So are queries with fewer than two candidates, as there is
    nothing to rank, and queries that are in the judgements only, as in trec_eval without -c. A query that is a document of its own
    corpus is left out of its candidates, but counts as one of the two; see `is_query` and `can_be_evaluated`.

    With `every_query`, queries without a relevant document and pools of one candidate are selected, too: they say nothing of a
    ranking, but as much of a probability as any other.
    """

    def __init__(self, path: str, limit: int | None = None, *, every_query: bool = False) -> None:
        self.left_out: Counter[str] = Counter()
        self.self_candidates = set[str]()
        """qids of the queries that were left out of their own candidates"""
        self.is_cut = False
        """whether a pool has more candidates than were read"""
        self._path, self._limit, self._every_query = path, limit, every_query
        self._qrels: Qrels = {}
        self._example: str | None = None

    def select(
        self, items: Iterable[tuple[str, Mapping[str, int], Item]], judged_qids: Collection[str] = ()
    ) -> Iterator[tuple[str, Item]]:
        """Yields qid and item of the queries with a relevant document judged, up to the limit.

        `items` are tuples of qid, judgements and an item that belongs to the query, such as its pool. Those of `judged_qids`, the
        qids with judgements, that are not among the items are counted, unless the limit ends the reading.
        """
        qids: set[str] = set()
        for qid, judged, item in items:
            qids.add(qid)
            self._example = self._example or qid
            if isinstance(item, CandidatePool) and not item.documents:
                self.left_out[NO_CANDIDATES] += 1
            elif not judged or (max(judged.values()) == 0 and not self._every_query):
                self.left_out[NONE_RELEVANT if judged else NOT_JUDGED] += 1
            else:
                self._qrels[qid] = dict(judged)
                yield qid, item
                if len(self._qrels) == self._limit:
                    return
        only_judged = sum(qid not in qids for qid in judged_qids)
        if only_judged:
            self.left_out[ONLY_JUDGED] = only_judged

    def without_query(self, pool: CandidatePool, qrels: Qrels | None) -> CandidatePool:
        """A pool as it was read, without the query itself, which is noted; see `self_candidates.without_query`."""
        found = without_query(pool, qrels)
        if found is not pool:
            self.self_candidates.add(str(pool.qid))
        return found

    def docids(self, qid: str, ranked: Iterable[str], depth: int) -> list[str]:
        """The first `depth` docids of a selected query's ranking without the query itself; that, and further ones, are noted."""
        docids = list(ranked)
        found = [docid for docid in docids if not is_query(docid, qid, self._qrels[qid].get(docid))]
        if len(found) < len(docids):
            self.self_candidates.add(qid)
        self.is_cut |= len(found) > depth
        return found[:depth]

    def keep(self, pools: Iterable[CandidatePool], depth: int | None) -> tuple[list[CandidatePool], Qrels]:
        """The pools with two candidates or more, the query itself included, and all the judgements of their queries.

        `depth`: the number of candidates to which the pools were cut (None: they were not).

        Raises InputError if there is none, or if no candidate of any of them is judged, as with docids of another collection.
        """
        evaluated: list[CandidatePool] = []
        for pool in pools:
            remaining = len(pool.documents)
            candidates = remaining + (str(pool.qid) in self.self_candidates)
            if can_be_evaluated(min(candidates, depth or candidates), remaining) or (self._every_query and remaining):
                evaluated.append(pool)
            else:
                self.left_out[ONE_CANDIDATE if pool.documents else NO_CANDIDATES] += 1
        qrels = {str(pool.qid): self._qrels[str(pool.qid)] for pool in evaluated}
        self.self_candidates &= qrels.keys()
        if not evaluated:
            raise InputError(f"{self._path}: no query can be evaluated: {self._reasons()}")
        if not any(fields["docid"] in qrels[str(pool.qid)] for pool in evaluated for fields in pool.fields):
            qid, docid = str(evaluated[0].qid), evaluated[0].fields[0]["docid"]
            raise InputError(
                f"{self._path}: no candidate is judged, so no ranking is better than another; expected the judgements' docids: "
                f"query {qid!r} has the candidate {docid!r}, but {next(iter(qrels[qid]))!r} is judged"
            )
        return evaluated, qrels

    def _reasons(self) -> str:
        if not self.left_out:
            return "it holds no queries"
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
        example = "" if self._example is None else f" (the first query is {self._example!r})"
        return f"{reasons}{example}; expected a query with a relevant document judged and two candidates"
