"""Documents: those of one query, from plain lines, JSON Lines or the rows of a table or of Parquet."""

from __future__ import annotations

import os
from contextlib import closing
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from resift.errors import InputError
from resift.pools.parquet import ParquetRows
from resift.pools.reading import CandidatePool, Lines, blank_and_first, decode_object, decode_text, to_candidate
from resift.pools.tables import check_document_columns, read_document, read_table, table_form

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from resift.documents import DocumentTemplate

    NumberedLines = Iterable[tuple[int, bytes]]


def read_documents(path: str | os.PathLike[str], query: str, template: DocumentTemplate | None = None) -> CandidatePool:
    """One query's documents: one per line, an object {"text", ...} per line, or one per row of a table.

    The lines are JSON if the first begins with {, and otherwise a table if the name ends in .csv or .tsv, perhaps with .gz behind.
    Blank lines are skipped. A name that ends in .parquet is Parquet, with a document in each row. `template`: what the model reads
    of an object or a row; None: its text. Raises InputError that names the file, and the line if one is at fault.
    """
    name = os.fspath(path)
    if name.endswith(".parquet"):
        return _of_parquet(name, query, template)
    every = Lines(name).every()
    start = blank_and_first(every)
    first = start[-1][1] if start else b""
    lines = chain(start, every)
    pool = CandidatePool(query, [])
    if form := table_form(name, first):
        found = _of_table(lines, name, template, is_tsv=form == "tsv")
    elif first.lstrip().startswith(b"{"):
        found = _of_objects(lines, name, template)
    else:
        found = ((number, decode_text(line, f"{name}, line {number}"), None) for number, line in lines if line.strip())
    for number, text, fields in found:
        pool.documents.append(text)
        pool.lines.append(number)
        if fields is not None:
            pool.fields.append(fields)
    return pool


def _of_parquet(name: str, query: str, template: DocumentTemplate | None) -> CandidatePool:
    with closing(ParquetRows(name)) as file:
        check_document_columns(file.names, name, template)
        found = [(row.number, *read_document(row, template)) for row in file.rows()]
    return CandidatePool(
        query, [text for _, text, _ in found], None, [fields for _, _, fields in found], [row for row, _, _ in found]
    )


def _of_objects(
    lines: NumberedLines, name: str, template: DocumentTemplate | None
) -> Iterator[tuple[int, str, dict[str, Any] | None]]:
    for number, line in lines:
        if line.strip():
            where = f"{name}, line {number}"
            row = decode_object(line, where)
            if "query" in row and ("documents" in row or "candidates" in row):
                raise InputError(f"{where}: a candidate pool; expected a document: rank pools with --pools FILE --out OUT")
            yield number, *to_candidate(row, where, template)


def _of_table(
    lines: NumberedLines, name: str, template: DocumentTemplate | None, *, is_tsv: bool
) -> Iterator[tuple[int, str, dict[str, Any] | None]]:
    for row in read_table(lines, name, is_tsv=is_tsv, check=partial(check_document_columns, template=template)):
        yield row.number, *read_document(row, template)
