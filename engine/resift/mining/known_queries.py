"""Known queries: those whose answers are known, read from files that name the documents which answer them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from resift.errors import InputError
from resift.pools.beir import identifier, read_queries
from resift.pools.reading import Lines, blank_and_first, decode_object, json_kind, query_id
from resift.pools.tables import read_table, table_form
from resift.pools.trec import read_qrels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    PathLike = str | os.PathLike[str]

FORM = '{"qid"?, "query", "docids": ["id", ...]} or {"qid"?, "query", "positive": [{"docid"?, "text"?}, ...]}'


@dataclass(frozen=True, slots=True)
class KnownQuery:
    """A query, and what answers it."""

    text: str
    qid: str | None
    docids: list[str]
    """of documents that answer it"""
    texts: list[tuple[str | None, str]] = field(default_factory=list)
    """id, if there is one, and text of documents that answer it"""
    judged: dict[str, int] = field(default_factory=dict)
    """labels of further documents, by id"""

    def has_judgements(self) -> bool:
        """Whether anything is said to answer it."""
        return bool(self.docids or self.texts)


def read_known_queries(path: PathLike) -> list[KnownQuery]:
    """The queries of JSON Lines, CSV or TSV, in order; lines of one query are one.

    A line is {"qid"?, "query", "docids": [...]}, or {"qid"?, "query", "positive": [...]} with texts or objects of "docid" and
    "text", as training pairs have them. A row of a table has the columns `query`, `docid` or `positive` (a text), and perhaps
    `qid`. Raises InputError that names file and line for anything else.
    """
    name = os.fspath(path)
    found: dict[tuple[str | None, str], KnownQuery] = {}
    texts_by_qid: dict[str, str] = {}
    for row, where in _rows(name):
        query = _known_query(row, where)
        if query.qid is not None and texts_by_qid.setdefault(query.qid, query.text) != query.text:
            raise InputError(f"{where}: the query is {query.text!r:.80}; expected that of {query.qid!r:.80} before")
        earlier = found.setdefault((query.qid, query.text), query)
        if earlier is not query:
            earlier.docids.extend(query.docids)
            earlier.texts.extend(query.texts)
    return list(found.values())


def judged_queries(path: PathLike, qrels: PathLike, relevant_from: int) -> list[KnownQuery]:
    """The queries of a file as BEIR has it, with the judgements of TREC's or BEIR's qrels, best documents first.

    Documents with labels below `relevant_from` do not answer a query. Raises InputError that names file and line.
    """
    judgements = read_qrels(qrels)
    found = []
    for qid, text in read_queries(path):
        judged = judgements.get(qid, {})
        best_first = sorted(judged, key=lambda docid: -judged[docid])
        docids = [docid for docid in best_first if judged[docid] >= relevant_from]
        found.append(KnownQuery(text, qid, docids, [], {docid: judged[docid] for docid in best_first[len(docids) :]}))
    return found


def _rows(name: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    every = Lines(name).every()
    start = blank_and_first(every)
    form = table_form(name, start[-1][1] if start else b"")
    if form:
        for row in read_table(_chained(start, every), name, is_tsv=form == "tsv", check=_check_columns):
            if isinstance(row.cells, InputError):
                raise row.cells
            yield {column: cell for column, cell in row.cells.items() if cell not in (None, "")}, row.where
        return
    for number, line in _chained(start, every):
        if line.strip():
            where = f"{name}, line {number}"
            yield decode_object(line, where), where


def _chained(start: list[tuple[int, bytes]], rest: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    yield from start
    yield from rest


def _check_columns(names: Sequence[str], where: str) -> None:
    if "query" not in names or not {"docid", "docids", "positive"} & set(names):
        raise InputError(f"{where}: the columns are {', '.join(names):.200}; expected 'query' with 'docid' or 'positive', a text")


def _known_query(row: Mapping[str, Any], where: str) -> KnownQuery:
    qid, text = query_id(row, where), row.get("query", row.get("text"))
    if not isinstance(text, str):
        raise InputError(f"{where}: 'query' is {json_kind(text)}; expected a string, as in {FORM}")
    ids = row.get("docids", row.get("docid"))
    docids = [identifier(each, where, "'docids'") for each in (ids if isinstance(ids, list) else [] if ids is None else [ids])]
    positive = row.get("positive")
    found: list[tuple[str | None, str]] = []
    for each in positive if isinstance(positive, list) else [] if positive is None else [positive]:
        docid, known = _positive(each, where)
        if known is not None:
            found.append((docid, known))
        elif docid is not None:
            docids.append(docid)
    if not docids and not found:
        raise InputError(f"{where}: nothing answers the query; expected {FORM}")
    return KnownQuery(text, None if qid is None else str(qid), docids, found)


def _positive(found: object, where: str) -> tuple[str | None, str | None]:
    """Id and text of a document that answers a query; one of them may be None."""
    if isinstance(found, str):
        return None, found
    if not isinstance(found, dict):
        raise InputError(f'{where}: positive: {json_kind(found)}; expected a text, or {{"docid": "..."}}')
    docid, text = found.get("docid"), found.get("text")
    if not isinstance(text, str | None) or (docid is None and text is None):
        raise InputError(f'{where}: positive: \'text\' is {json_kind(text)}; expected a text, or {{"docid": "..."}}')
    return None if docid is None else identifier(docid, where, "'docid'"), text
