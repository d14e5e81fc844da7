"""Training pairs: files of queries with the documents that answer them and others that do not, as `resift mine` writes them.

JSON Lines, one query a line, compressed with gzip where the name ends in .gz:

    {"qid"?, "query", "positive": [{"docid"?, "text", "score"?}], "negative": [{"docid"?, "text", "score"?, "rank"?}]}

`score` is a teacher's logit of the document, and `rank` the place, from 1, at which retrieval found it. A list may also hold plain
texts, and one text may stand for a list of one, as in the triplets of sentence-transformers. Other fields are not read.
"""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import msgspec

from resift.counts import as_int
from resift.errors import InputError
from resift.files.outputs import writing_whole
from resift.pools.beir import identifier
from resift.pools.reading import decode_object, json_kind, query_id, read_lines, to_candidate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import IO

SCORE_LIMIT = 1e6
"""How far from 0 a logit may be: beyond, float32 cannot tell differences of a tenth apart."""


@dataclass(frozen=True, slots=True)
class TrainingDocument:
    """A document that answers a query, or that does not."""

    text: str
    docid: str | None = None
    score: float | None = None
    """a teacher's logit; None where no teacher read it"""
    rank: int | None = None
    """the place, from 1, at which retrieval found it for the query; None where it did not, or is not known"""


@dataclass(frozen=True, slots=True)
class TrainingPairs:
    """A query with the documents that answer it, and with others that do not."""

    query: str
    positive: list[TrainingDocument]
    """one or more"""
    negative: list[TrainingDocument]
    qid: str | None = None

    def is_scored(self) -> bool:
        """Whether a teacher read each of the documents."""
        return all(document.score is not None for document in (*self.positive, *self.negative))


def read_pairs(path: str | os.PathLike[str]) -> Iterator[TrainingPairs]:
    """Every query of a file, as a stream. Raises InputError that names the file and the line that cannot be used."""
    for number, line in read_lines(path):
        where = f"{os.fspath(path)}, line {number}"
        yield to_pairs(decode_object(line, where), where)


def to_pairs(row: Mapping[str, Any], where: str) -> TrainingPairs:
    """The query of one line. Raises InputError that begins with `where` for anything else."""
    query, qid = row.get("query"), query_id(row, where)
    if not isinstance(query, str):
        raise InputError(f"{where}: 'query' is {json_kind(query)}; expected a string")
    positive, negative = (_documents(row.get(name), f"{where}: {name}") for name in ("positive", "negative"))
    if not positive:
        raise InputError(f"{where}: no 'positive'; expected one document or more that answers the query")
    return TrainingPairs(query, positive, negative, None if qid is None else str(qid))


def write_pairs(path: str | os.PathLike[str], pairs: Iterable[TrainingPairs]) -> int:
    """Writes a file that appears once it is complete; the number of its queries. The same pairs are the same bytes.

    Raises OutputError if it cannot be written.
    """
    count = 0
    with writing_whole(path) as raw:
        file = raw
        if os.fspath(path).endswith(".gz"):
            file = cast("IO[bytes]", gzip.GzipFile("", "wb", fileobj=raw, mtime=0))
        with file:
            for each in pairs:
                file.write(encode_pairs(each))
                count += 1
    return count


def encode_pairs(pairs: TrainingPairs) -> bytes:
    """The line of a query; what is not known is left out."""
    row: dict[str, Any] = {} if pairs.qid is None else {"qid": pairs.qid}
    row["query"] = pairs.query
    for name, documents in (("positive", pairs.positive), ("negative", pairs.negative)):
        row[name] = [_fields(document) for document in documents]
    return msgspec.json.encode(row) + b"\n"


def _fields(document: TrainingDocument) -> dict[str, Any]:
    fields = {"docid": document.docid, "text": document.text, "score": document.score, "rank": document.rank}
    return {name: value for name, value in fields.items() if value is not None}


def _documents(found: object, where: str) -> list[TrainingDocument]:
    if found is None or isinstance(found, str):
        return [] if found is None else [TrainingDocument(found)]
    if not isinstance(found, list):
        raise InputError(f"{where} is {json_kind(found)}; expected a list of texts or of objects with a text")
    return [_document(each, f"{where}[{position}]") for position, each in enumerate(found)]


def _document(found: object, where: str) -> TrainingDocument:
    if isinstance(found, str):
        return TrainingDocument(found)
    text, fields = to_candidate(found, where)
    docid, score, rank = fields.get("docid"), fields.get("score"), fields.get("rank")
    if score is not None and not (type(score) in (int, float) and abs(score) <= SCORE_LIMIT):
        raise InputError(f"{where}: 'score' is {score!r:.40}; expected a number, a teacher's logit, within {SCORE_LIMIT:g} of 0")
    if rank is not None and (as_int(rank) or 0) < 1:
        raise InputError(f"{where}: 'rank' is {rank!r:.40}; expected a whole number from 1")
    return TrainingDocument(
        text,
        None if docid is None else identifier(docid, where, "'docid'"),
        None if score is None else float(score),
        rank,
    )
