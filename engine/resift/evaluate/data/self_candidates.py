"""Leaves out of a query's candidates the document that is the query itself, as in ArguAna and Quora."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resift.pools.reading import CandidatePool


def is_query(docid: object, qid: str, label: object) -> bool:
    """Whether a candidate is the query itself: a document of the corpus whose id is the query's.

    BEIR leaves such a document out (`ignore_identical_ids`): retrievers find it first, and it answers nothing. If it is judged
    relevant, it is another document, and the ids are equal by chance.
    """
    return docid is not None and str(docid) == qid and not (isinstance(label, int) and label > 0)


def without_query(pool: CandidatePool, qrels: Mapping[str, Mapping[str, int]] | None) -> CandidatePool:
    """The pool without the query itself. Labels are those of `qrels`, or else the candidates' field "label"."""
    if pool.qid is None:
        return pool
    qid = str(pool.qid)
    labels = (fields.get("label") if qrels is None else qrels.get(qid, {}).get(qid) for fields in pool.fields)
    marks = [is_query(fields.get("docid"), qid, label) for fields, label in zip(pool.fields, labels, strict=True)]
    return pool.select([place for place, mark in enumerate(marks) if not mark]) if any(marks) else pool
