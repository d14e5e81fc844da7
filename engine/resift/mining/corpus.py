"""Reads a corpus, and the queries on it with the documents that answer them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from resift.documents import DocumentTemplate
from resift.errors import InputError
from resift.mining.collection import Collection, MiningDocument, MiningQuery
from resift.mining.known_queries import KnownQuery, judged_queries, read_known_queries
from resift.pools.beir import Texts, find_corpus, find_judgements, identifier
from resift.pools.documents import read_documents
from resift.pools.reading import candidate_id
from resift.retrieval.words import key_of

if TYPE_CHECKING:
    from typing import Any

    PathLike = str | os.PathLike[str]

NO_POSITIVE, NOT_JUDGED = "no document that answers it is in the corpus", "no document judged relevant"
TITLE_AND_TEXT = "{title} {text}"
"""What is read of a document in a BEIR folder, as in BEIR's own baselines."""


def read_corpus(  # noqa: PLR0913 - each is an option of reading
    path: PathLike,
    queries: PathLike | None = None,
    *,
    qrels: PathLike | None = None,
    split: str | None = None,
    relevant_from: int = 1,
    document_template: str = "auto",
    group: str | None = None,
    limit: int | None = None,
) -> Collection:
    """Reads documents, and queries with those that answer them.

    `path`: a BEIR folder, whose judgements are qrels/SPLIT.tsv (`split`, default "train") or `qrels`; or a file of documents as
    `read_documents` takes it, with a file of `queries` as `read_known_queries` takes it, or as BEIR's with `qrels`.
    `relevant_from`: the lowest label that answers a query. `group`: a field that documents of one source share. `limit`: number of
    queries. Texts are kept in memory. A document that answers a query by its text, and is not in the corpus, is added to its end.

    Raises InputError that names file and line for bad data, and if no query remains.
    """
    name, folder = os.fspath(path), Path(path)
    is_folder = folder.is_dir()
    if not is_folder and split is not None:
        raise InputError(f"{name} is no BEIR folder; --split cannot be used with it")
    if not is_folder and queries is None:
        raise InputError(f"{name}: no queries; name a file of them with the documents that answer each: --queries FILE")
    documents = read_mining_corpus(path, document_template, group)
    if queries is None:
        files = Texts.find(folder)
        if files is None:
            raise InputError(f"{name} is a folder without queries.jsonl; expected a BEIR folder, or --queries FILE")
        queries, split = files.queries, split or "train"
    if qrels is None and split is not None:
        qrels = find_judgements(folder, split)
    known = read_known_queries(queries) if qrels is None else judged_queries(queries, qrels, relevant_from)
    return _collection(name, documents, known, limit)


def read_mining_corpus(path: PathLike, document_template: str = "auto", group: str | None = None) -> list[MiningDocument]:
    """The documents of a file, or of a BEIR folder, of which title and text are read. Raises InputError if there is none."""
    folder, name = Path(path), os.fspath(path)
    corpus: PathLike | None = find_corpus(folder) if folder.is_dir() else path
    if corpus is None:
        raise InputError(f"{name} is a folder without corpus.jsonl; expected a BEIR folder, or a file of documents")
    template = TITLE_AND_TEXT if corpus is not path and document_template == "auto" else document_template
    documents = _documents(corpus, template, group)
    if not documents:
        raise InputError(f"{name}: the corpus holds no documents")
    return documents


def _documents(path: PathLike, document_template: str, group: str | None) -> list[MiningDocument]:
    template = None if document_template == "auto" else DocumentTemplate.parse(document_template)
    pool = read_documents(path, "", template)
    name, places = os.fspath(path), dict[str, int]()
    found = []
    for text, line, fields in zip(pool.documents, pool.lines, pool.fields or [{}] * len(pool.documents), strict=True):
        where = f"{name}, line {line}"
        docid = candidate_id(fields)
        if docid is not None:
            docid = identifier(docid, where, "'docid'")
            if docid in places:
                raise InputError(f"{where}: document {docid!r} again; it is in line {places[docid]}; expected each once")
            places[docid] = line
        found.append(MiningDocument(text, docid, _group(fields, group)))
    if group is not None and found and all(each.group is None for each in found):
        raise InputError(f"{name}: no document has a field {group!r:.80}; expected a field that the parts of one source share")
    return found


def _group(fields: dict[str, Any], name: str | None) -> str | None:
    value = None if name is None else fields.get(name)
    return None if value is None or value == "" else str(value)


def _collection(name: str, documents: list[MiningDocument], known: list[KnownQuery], limit: int | None) -> Collection:
    collection = Collection(name, documents, [], size=len(documents), rows=len(known))
    places = _Places(collection)
    for row, query in enumerate(known):
        if not query.has_judgements():
            collection.left_out[NOT_JUDGED] += 1
            continue
        positives = places.positives(query)
        if not positives:
            collection.left_out[NO_POSITIVE] += 1
            continue
        judged = {places.by_docid[docid]: label for docid, label in query.judged.items() if docid in places.by_docid}
        is_beyond = limit is not None and len(collection.queries) >= limit
        found = collection.further_queries if is_beyond else collection.queries
        found.append(MiningQuery(query.text, query.qid, positives, judged, row))
    if not collection.queries:
        raise InputError(f"{name}: {_none_remains(collection, known)}")
    if places.missing:
        collection.notes.append(
            f"{places.missing} documents that answer queries are not in the corpus by their ids, and were not used"
        )
    if added := len(collection.documents) - collection.size:
        collection.notes.append(
            f"{added} documents that answer queries are not in the corpus by their texts; they are used as they are"
        )
    return collection


def _none_remains(collection: Collection, known: list[KnownQuery]) -> str:
    if not known:
        return "the file of queries holds none"
    reasons = ", ".join(f"{count} with {reason}" for reason, count in collection.left_out.items())
    ids = [docid for query in known for docid in query.docids][:1]
    example = f" (the queries name {ids[0]!r:.80}, the corpus {collection.documents[0].docid!r:.80})" if ids else ""
    return f"none of {len(known)} queries can be used: {reasons}{example}; expected queries that name documents of this corpus"


class _Places:
    """Where the documents of a corpus are, by id and by text."""

    def __init__(self, collection: Collection) -> None:
        self._documents = collection.documents
        self.by_docid = {each.docid: place for place, each in enumerate(collection.documents) if each.docid is not None}
        self.missing = 0
        """number of ids that no document has"""
        self._by_text: dict[str, int] | None = None

    def positives(self, query: KnownQuery) -> list[int]:
        """The documents that answer a query, each once, in order."""
        found: dict[int, None] = {}
        for docid in query.docids:
            if docid in self.by_docid:
                found[self.by_docid[docid]] = None
            else:
                self.missing += 1
        for text_id, text in query.texts:
            place = self.by_docid.get(text_id or "")
            found[self._place_of_text(text, text_id) if place is None else place] = None
        return list(found)

    def _place_of_text(self, text: str, docid: str | None) -> int:
        if self._by_text is None:  # most queries name ids
            self._by_text = {}
            for place, each in enumerate(self._documents):
                self._by_text.setdefault(key_of(each.text), place)
        place = self._by_text.setdefault(key_of(text), len(self._documents))
        if place == len(self._documents):
            self._documents.append(MiningDocument(text, docid))
        return place
