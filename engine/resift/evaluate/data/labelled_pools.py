"""Reads labelled pools: candidate pools with ids and labels, checked line by line."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from resift.errors import InputError
from resift.pools.beir import identifier
from resift.pools.reading import candidate_id, json_kind
from resift.pools.trec import checked_label

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from resift.evaluate.data.selection import QuerySelection
    from resift.pools.reading import CandidatePool
    from resift.pools.source import Source
    from resift.pools.trec import Qrels


def read_labelled_pools(
    source: Source, qrels: Qrels | None, selection: QuerySelection
) -> Iterator[tuple[str, Mapping[str, int], CandidatePool]]:
    """The qid, judgements and pool of each pool of a file; qid and docids in the pools are str.

    Judgements are those of `qrels`, or else the candidates' "label" (null or missing: not judged). Without `qrels`, a missing qid
    is the number of the pool's line or first row, and missing docids are the positions, from 0. `selection` leaves the query itself
    out of its pool. Raises InputError that names file and line.
    """
    lines_by_qid: dict[str, int] = {}
    for number, where, _, whole in source.checked():
        generated = str(number) if qrels is None and whole.qid is None else None
        qid = generated or identifier(whole.qid, where, "'qid'")
        if qid in lines_by_qid:
            raise InputError(f"{where}: qid {qid!r} again; it is in line {lines_by_qid[qid]}; expected each once")
        lines_by_qid[qid] = number
        docids = _docids(whole, where, is_required=qrels is not None)
        pool = selection.without_query(whole, qrels)
        docids = [docids[position] for position in pool.given_positions()]
        judged = _labels(pool, docids, where) if qrels is None else qrels.get(qid, {})
        fields: list[dict[str, Any]] = pool.fields or [{} for _ in docids]
        with_docids = [{**candidate, "docid": docid} for candidate, docid in zip(fields, docids, strict=True)]
        yield qid, judged, replace(pool, qid=qid, fields=with_docids)


def _docids(pool: CandidatePool, where: str, *, is_required: bool) -> list[str]:
    """The docid of each candidate, or, if no candidate has one and none is required, its position from 0."""
    if not is_required and all(fields.get("docid") is None for fields in pool.fields):
        return [str(position) for position in range(len(pool.documents))]
    if not pool.fields and pool.documents:
        raise InputError(f"{where}: 'documents' have no ids for the judgements to name; expected 'candidates' with a 'docid'")
    places: dict[str, int] = {}
    for position, fields in enumerate(pool.fields):
        docid = identifier(candidate_id(fields), f"{where}: candidates[{position}]", "'docid'")
        if docid in places:
            raise InputError(
                f"{where}: candidates[{position}]: docid {docid!r} is also candidates[{places[docid]}]'s; expected each once"
            )
        places[docid] = position
    return list(places)


def _labels(pool: CandidatePool, docids: list[str], where: str) -> dict[str, int]:
    labels = zip(docids, candidate_labels(pool, where), strict=False)
    return {docid: label for docid, label in labels if label is not None}


def candidate_labels(pool: CandidatePool, where: str) -> list[int | None]:
    """The field "label" of each candidate, 0 for one below 0, None for one that is null or missing; empty for plain documents.

    Raises InputError that begins with `where` for anything but an integer of at most LABEL_LIMIT.
    """
    labels: list[int | None] = []
    for position, fields in zip(pool.given_positions(), pool.fields, strict=False):  # plain documents have no fields
        here, label = f"{where}: candidates[{position}]", fields.get("label")
        if label is not None and (not isinstance(label, int) or isinstance(label, bool)):
            found = f"{json_kind(label)}, {label!r:.80}"
            raise InputError(f"{here}: 'label' is {found}; expected an integer: a relevance grade such as 0, 1 or 2")
        labels.append(None if label is None else checked_label(label, here))
    return labels
