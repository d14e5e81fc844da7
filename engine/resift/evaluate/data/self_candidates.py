"""Leaves out of a query's candidates the document that is the query itself, as in ArguAna and Quora."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resift.pools.reading import candidate_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resift.pools.reading import CandidatePool


def is_query(docid: object, qid: str, label: object) -> bool:
    """Whether a candidate is the query itself: a document of the corpus whose id is the query's.

    BEIR leaves such a document out (`ignore_identical_ids`): retrievers find it first, and it answers nothing. If it is judged
    relevant, it is another document, and the ids are equal by chance. A docid or label of another type is left for its reader to
    refuse.
    """
    is_id = isinstance(docid, str | int) and not isinstance(docid, bool)
    return is_id and str(docid) == qid and (label is None or (type(label) is int and label <= 0))


def without_query(pool: CandidatePool, qrels: Mapping[str, Mapping[str, int]] | None) -> CandidatePool:
    """The pool without the query itself. Labels are those of `qrels`, or else the candidates' field "label".

    Ids may be numbers that each pool counts anew. So the candidate's text must agree as well: it is the query, or begins or ends
    with it, as a document does with its title or text. Case and white space are ignored.
    """
    if pool.qid is None:
        return pool
    qid = str(pool.qid)
    labels = (fields.get("label") if qrels is None else qrels.get(qid, {}).get(qid) for fields in pool.fields)
    marks = [
        is_query(candidate_id(fields), qid, label) and _agrees(document, pool.query)
        for fields, label, document in zip(pool.fields, labels, pool.documents, strict=False)  # plain documents have no fields
    ]
    return pool.select([place for place, mark in enumerate(marks) if not mark]) if any(marks) else pool


def can_be_evaluated(candidates: int, remaining: int) -> bool:
    """Whether a pool that had so many candidates, of which so many remain without the query itself, counts in the averages.

    Two are needed, of which the query itself may be one.
    """
    return candidates > 1 and remaining > 0


def _agrees(document: str, query: str) -> bool:
    text, asked = (f" {' '.join(each.casefold().split())} " for each in (document, query))
    return text.startswith(asked) or text.endswith(asked)
