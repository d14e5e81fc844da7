"""Documents: those of one query or of a whole corpus, from plain lines, JSON Lines or the rows of a table or of Parquet."""

from __future__ import annotations

import os
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resift.errors import InputError
from resift.pools.beir import find_corpus, read_corpus
from resift.pools.parquet import ParquetRows
from resift.pools.reading import CandidatePool, Lines, blank_and_first, decode_object, decode_text, to_candidate
from resift.pools.tables import check_document_columns, read_document, read_table, table_form

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from resift.documents import DocumentTemplate

    NumberedLines = Iterable[tuple[int, bytes]]
    Numbered = tuple[int, str, dict[str, Any] | None]
    """the number of a document's line or row, its text, and its other fields, None for a plain line"""


class DocumentSource:
    """The documents of a file or of a BEIR folder, as a stream that is read once."""

    def __init__(self, path: str | os.PathLike[str], template: DocumentTemplate | None = None) -> None:
        """`path`: a file as for `read_documents`, or a BEIR folder.

        `template`: what the model reads of an object or a row; None: its text, and in a BEIR folder its title and its text. Raises
        InputError for a folder without corpus.jsonl, and like `ParquetRows`.
        """
        self.name, self._template = os.fspath(path), template
        folder = Path(path)
        self._corpus = find_corpus(folder) if folder.is_dir() else None
        if folder.is_dir() and self._corpus is None:
            raise InputError(f"{self.name} is a folder without corpus.jsonl; expected a BEIR folder, or a file of documents")
        self._rows = ParquetRows(self.name) if self._corpus is None and self.name.endswith(".parquet") else None
        self._lines = Lines(self._corpus or self.name)

    def __iter__(self) -> Iterator[str]:
        """What the model reads of each document. Raises InputError like `read_documents`."""
        if self._corpus is not None:
            return (text for _, text in read_corpus(self._corpus, template=self._template, lines=self._lines))
        found = (
            self._of_parquet(self._rows) if self._rows is not None else _of_lines(self._lines.every(), self.name, self._template)
        )
        return (text for _, text, _ in found)

    def share(self) -> float | None:
        """Share of the file that has been read, 0 to 1; None if its size is unknown."""
        return self._lines.share() if self._rows is None else self._rows.share()

    def _of_parquet(self, rows: ParquetRows) -> Iterator[Numbered]:
        with closing(rows):
            yield from _of_rows(rows, self.name, self._template)


def read_documents(path: str | os.PathLike[str], query: str, template: DocumentTemplate | None = None) -> CandidatePool:
    """One query's documents: one per line, an object {"text", ...} per line, or one per row of a table.

    The lines are JSON if the first begins with {, and otherwise a table if the name ends in .csv or .tsv, perhaps with .gz behind.
    Blank lines are skipped. A name that ends in .parquet is Parquet, with a document in each row. `template`: what the model reads
    of an object or a row; None: its text. Raises InputError that names the file, and the line if one is at fault.
    """
    name = os.fspath(path)
    if name.endswith(".parquet"):
        with closing(ParquetRows(name)) as rows:
            return _pool(query, _of_rows(rows, name, template))
    return _pool(query, _of_lines(Lines(name).every(), name, template))


def _pool(query: str, documents: Iterable[Numbered]) -> CandidatePool:
    pool = CandidatePool(query, [])
    for number, text, fields in documents:
        pool.documents.append(text)
        pool.lines.append(number)
        if fields is not None:
            pool.fields.append(fields)
    return pool


def _of_rows(rows: ParquetRows, name: str, template: DocumentTemplate | None) -> Iterator[Numbered]:
    check_document_columns(rows.names, name, template)
    for row in rows.rows():
        yield row.number, *read_document(row, template)


def _of_lines(every: Iterator[tuple[int, bytes]], name: str, template: DocumentTemplate | None) -> Iterator[Numbered]:
    start = blank_and_first(every)
    first = start[-1][1] if start else b""
    lines = chain(start, every)
    if form := table_form(name, first):
        return _of_table(lines, name, template, is_tsv=form == "tsv")
    if first.lstrip().startswith(b"{"):
        return _of_objects(lines, name, template)
    return ((number, decode_text(line, f"{name}, line {number}"), None) for number, line in lines if line.strip())


def _of_objects(lines: NumberedLines, name: str, template: DocumentTemplate | None) -> Iterator[Numbered]:
    for number, line in lines:
        if line.strip():
            where = f"{name}, line {number}"
            row = decode_object(line, where)
            if "query" in row and ("documents" in row or "candidates" in row):
                raise InputError(f"{where}: a candidate pool; expected a document: rank pools with --pools FILE --out OUT")
            yield number, *to_candidate(row, where, template)


def _of_table(lines: NumberedLines, name: str, template: DocumentTemplate | None, *, is_tsv: bool) -> Iterator[Numbered]:
    for row in read_table(lines, name, is_tsv=is_tsv, check=partial(check_document_columns, template=template)):
        yield row.number, *read_document(row, template)
