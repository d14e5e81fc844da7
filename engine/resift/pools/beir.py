"""Reads BEIR's formats: a folder of corpus, queries and judgements, with one document or query per line."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resift.errors import InputError
from resift.pools.reading import Lines, decode_object, decode_text, json_kind, read_lines, to_candidate

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from pathlib import Path

    from resift.documents import DocumentTemplate


@dataclass(frozen=True, slots=True)
class Texts:
    """The files of a collection's documents and queries; a file whose name ends in .gz is gzip-compressed."""

    corpus: str | os.PathLike[str]
    queries: str | os.PathLike[str]

    @classmethod
    def find(cls, folder: Path) -> Texts | None:
        """The files of a BEIR folder (https://github.com/beir-cellar/beir/wiki); None if it has no corpus or no queries."""
        corpus, queries = _existing(folder / "corpus.jsonl"), _existing(folder / "queries.jsonl")
        return None if corpus is None or queries is None else cls(corpus, queries)


def read_corpus(
    path: str | os.PathLike[str],
    docids: Container[str] | None = None,
    template: DocumentTemplate | None = None,
    *,
    lines: Lines | None = None,
) -> Iterator[tuple[str, str]]:
    """The docid and text of every document, or of those in `docids`: {"_id", "docid" or "id", "title"?, "text"} per line.

    What the model reads of a document is its title, a space and its text, as in BEIR's own baselines, or what `template` says.
    `lines`: those of the file, for a caller who asks them for the share that is read; None: they are opened here. Raises InputError
    that names file and line, also for a docid that occurs twice (among `docids`, as no other ids are remembered).
    """
    lines_by_id = dict[str, int]()
    for number, line in lines or Lines(path):
        where = f"{os.fspath(path)}, line {number}"
        row = decode_object(line, where)
        docid = identifier(row.get("_id", row.get("docid", row.get("id"))), where, "'_id' or 'docid'")
        if docids is not None and docid not in docids:
            continue
        if docid in lines_by_id:
            raise InputError(f"{where}: document {docid!r} again; it is in line {lines_by_id[docid]}; expected each once")
        lines_by_id[docid] = number
        if template is not None:
            yield docid, to_candidate(row, where, template)[0]
            continue
        title, text = row.get("title"), row.get("text")
        title = "" if title is None else title
        for name, value in (("title", title), ("text", text)):
            if not isinstance(value, str):
                raise InputError(f"{where}: {name!r} is {json_kind(value)}; expected a string")
        yield docid, f"{title} {text}".strip()


def read_queries(path: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
    """The qid and text of every query: {"_id" or "qid", "text" or "query"} per line, or `qid query` separated by a tab.

    Raises InputError that names file and line, also for a qid that occurs twice.
    """
    lines_by_id = dict[str, int]()
    is_json = False
    for number, line in read_lines(path):
        where = f"{os.fspath(path)}, line {number}"
        is_json = is_json if lines_by_id else line.lstrip().startswith(b"{")
        qid, text = _json_query(line, where) if is_json else _tsv_query(line, where)
        if qid in lines_by_id:
            raise InputError(f"{where}: query {qid!r} again; it is in line {lines_by_id[qid]}; expected each once")
        lines_by_id[qid] = number
        yield qid, text


def find_corpus(folder: Path) -> Path | None:
    """The documents of a BEIR folder, with or without queries; None if it has none."""
    return _existing(folder / "corpus.jsonl")


def find_judgements(folder: Path, split: str) -> Path:
    """The file qrels/SPLIT.tsv of a BEIR folder. Raises InputError that names the splits that exist."""
    found = _existing(folder / "qrels" / f"{split}.tsv")
    if found is None:
        splits = sorted({path.name.split(".tsv")[0] for path in (folder / "qrels").glob("*.tsv*")})
        there = f"expected one of its splits: {', '.join(splits)}" if splits else "name a file of judgements: qrels=FILE"
        raise InputError(f"{folder} has no qrels/{split}.tsv; {there}")
    return found


def identifier(value: object, where: str, name: str) -> str:
    """A qid or docid as text; 12 and "12" are the same. Raises InputError that begins with `where` for anything else.

    A NUL is refused because trec_eval ends an id there; so is a byte order mark, which concatenated files can contain.
    """
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise InputError(f"{where}: {name} is {json_kind(value)}; expected a string or an integer")
    text = str(value)
    if not text.strip() or "\0" in text or "\ufeff" in text:
        raise InputError(f"{where}: {name} is {text!r:.80}; expected an id without NULs and byte order marks, and not an empty one")
    return text


def _json_query(line: bytes, where: str) -> tuple[str, str]:
    row = decode_object(line, where)
    text = row.get("text", row.get("query"))
    if not isinstance(text, str):
        raise InputError(f"{where}: 'text' or 'query' is {json_kind(text)}; expected a string")
    return identifier(row.get("_id", row.get("qid")), where, "'_id' or 'qid'"), text


def _tsv_query(line: bytes, where: str) -> tuple[str, str]:
    qid, tab, text = decode_text(line, where).partition("\t")
    if not tab:
        raise InputError(f"{where}: no tab; expected 'qid query' separated by a tab, or a JSON object per line")
    return identifier(qid, where, "the qid"), text


def _existing(path: Path) -> Path | None:
    """The file if it exists, or else its .gz if that exists."""
    return next((found for found in (path, path.with_name(f"{path.name}.gz")) if found.is_file()), None)
