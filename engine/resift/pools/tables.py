"""Tables: CSV and TSV with a row for each document, or for each pair of a query and a document, grouped into pools.

A table's first line names its columns: `document` (or `text`, `content`, `page_content`), of pairs `query` and perhaps `qid` (or
`query_id`), perhaps `docid` (or `id`, `_id`, `doc_id`) and `label`, and any others, which are fields of the candidate. CSV is as
in RFC 4180, so that a cell in quotation marks may hold commas and line breaks. In TSV, quotation marks mean nothing, as in the
files of MS MARCO.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from resift.documents import ALIASES
from resift.errors import InputError
from resift.pools.reading import LINE_LIMIT, QUERY_IDS, CandidatePool, decode_text, json_kind, query_id, to_candidate
from resift.pools.trec import INTEGER

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence

    from resift.documents import DocumentTemplate

QUERY, DOCUMENT, LABEL = "query", "document", "label"
TEXTS = (*ALIASES["text"], DOCUMENT)
"""Columns that can hold a document's text, the first that is there."""
BY_TEMPLATE = "; a document template, such as '{title} {body}', reads others"


class TableRow(NamedTuple):
    """A document or a pair as it was read."""

    number: int
    """of its line, from 1, or of its row, from 0"""
    where: str
    """the file and the number, for messages"""
    content: bytes
    """its lines; empty where it has none"""
    cells: dict[str, Any] | InputError
    """by column; or why it cannot be read"""


class Item(NamedTuple):
    """A pool as it was read."""

    number: int
    """of its line, from 1, or of its first row, from 0"""
    where: str
    content: bytes
    """its line, or that of its first row; empty where it has none"""
    pool: CandidatePool | InputError
    """the pool; or why its line or row cannot be used"""


def table_form(name: str, first: bytes) -> Literal["csv", "tsv"] | None:
    """The form of a table by its file's name, perhaps with .gz behind; None for other names, and if the `first` line is JSON."""
    ending = name.removesuffix(".gz").rpartition(".")[2]
    if ending not in ("csv", "tsv") or first.lstrip().startswith(b"{"):
        return None
    return "csv" if ending == "csv" else "tsv"


def check_columns(names: Sequence[str], where: str, template: DocumentTemplate | None = None) -> None:
    """Raises InputError that begins with `where` unless columns of these names hold pairs.

    With a `template`, which names the columns to read, there need not be one with the text.
    """
    _check_distinct(names, where)
    if QUERY not in names or not (template or _has_text(names)):
        raise InputError(
            f"{where}: the columns are {_listed(names)}; expected 'query' and 'document' (or 'text') with a pair in each row, and "
            f"'qid', 'docid' and 'label' if there are any{BY_TEMPLATE if QUERY in names else ''}"
        )


def check_document_columns(names: Sequence[str], where: str, template: DocumentTemplate | None = None) -> None:
    """`check_columns` for documents of a query that is given elsewhere."""
    _check_distinct(names, where)
    if QUERY in names:
        raise InputError(f"{where}: a column 'query', so that each row is a pair; rank pairs with --pools FILE --out OUT")
    if not (template or _has_text(names)):
        raise InputError(
            f"{where}: the columns are {_listed(names)}; expected 'text' (or 'document') with a document in each row{BY_TEMPLATE}"
        )


def _check_distinct(names: Sequence[str], where: str) -> None:
    duplicates = [name for name in names if names.count(name) > 1]
    if duplicates:
        raise InputError(f"{where}: the column {duplicates[0]!r:.80} is there {names.count(duplicates[0])} times; expected it once")


def _has_text(names: Sequence[str]) -> bool:
    return any(name in names for name in TEXTS)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"{name!s:.40}" for name in names[:10])


def read_table(
    lines: Iterable[tuple[int, bytes]], name: str, *, is_tsv: bool, check: Callable[[Sequence[str], str], None] = check_columns
) -> Iterator[TableRow]:
    """The rows of CSV or TSV from the numbered lines of the file `name`, the blank ones included.

    `check`: what raises InputError, which names file and line, unless the first line names the columns that are wanted.
    """
    header: list[str] | None = None
    for number, content, cells in _records(lines, name, is_tsv=is_tsv):
        where = f"{name}, line {number}"
        if header is None:
            if isinstance(cells, InputError):
                raise cells
            header = [cell.strip() for cell in cells]
            check(header, where)
        elif isinstance(cells, InputError):
            yield TableRow(number, where, content, cells)
        elif len(cells) != len(header):
            error = InputError(f"{where}: {len(cells)} cells; expected {len(header)}, as in the file's first line")
            yield TableRow(number, where, content, error)
        else:
            yield TableRow(
                number, where, content, {column: _typed(column, cell) for column, cell in zip(header, cells, strict=True)}
            )


def pools_of(rows: Iterable[TableRow], template: DocumentTemplate | None = None) -> Iterator[Item]:
    """The pools of pairs whose rows of one query are together; a row that cannot be used is an item of its own.

    Rows belong together by their qid, or by the query itself if there is none. `template`: what the model reads of a row; None:
    its text. One pool is in memory at once, and the qid or query of each pool before it.
    """
    finished = set[str | int]()
    current: tuple[TableRow, CandidatePool] | None = None
    for row in rows:
        try:
            pair = _pair(row, template)
            _check_place(row, pair, current[1] if current else None, finished)
        except InputError as error:
            yield Item(row.number, row.where, row.content, error)
            continue
        if current and _key(current[1]) == _key(pair):
            current[1].documents.extend(pair.documents)
            current[1].fields.extend(pair.fields)
            continue
        if current:
            yield _item(*current)
            finished.add(_key(current[1]))
        current = row, pair
    if current:
        yield _item(*current)


def _item(first: TableRow, pool: CandidatePool) -> Item:
    return Item(first.number, first.where, first.content, pool)


def _key(pool: CandidatePool) -> str | int:
    """What tells a query apart."""
    return pool.query if pool.qid is None else pool.qid


def _check_place(row: TableRow, pair: CandidatePool, before: CandidatePool | None, finished: Container[str | int]) -> None:
    """Raises InputError if the pair is apart from others of its query, or names another query than those of its id before it."""
    key = _key(pair)
    if key in finished:
        raise InputError(f"{row.where}: query {key!r:.80} again, after others; expected its rows together: sort them by query")
    if before and _key(before) == key and before.query != pair.query:
        raise InputError(f"{row.where}: the query is {pair.query!r:.80}; expected that of {key!r:.80} before, {before.query!r:.80}")


def read_document(row: TableRow, template: DocumentTemplate | None) -> tuple[str, dict[str, Any]]:
    """What the model reads of a row by `template` (None: its text), and its other cells. Raises InputError if it cannot be used."""
    if isinstance(row.cells, InputError):
        raise row.cells
    cells = dict(row.cells)
    if DOCUMENT in cells and not any(name in cells for name in ALIASES["text"]):
        cells["text"] = cells.pop(DOCUMENT)
    return to_candidate(cells, row.where, template)


def _pair(row: TableRow, template: DocumentTemplate | None) -> CandidatePool:
    """The row as a pool of one candidate. Raises InputError if it is none."""
    if isinstance(row.cells, InputError):
        raise row.cells
    cells = dict(row.cells)
    qid = query_id(cells, row.where)
    if not str(qid).strip():
        raise InputError(f"{row.where}: the id of the query is empty; expected one in each row, or no such column")
    query = cells.pop(QUERY)
    if not isinstance(query, str):
        raise InputError(f"{row.where}: 'query' is {json_kind(query)}; expected a string")
    for name in QUERY_IDS:
        cells.pop(name, None)
    text, fields = read_document(row._replace(cells=cells), template)
    return CandidatePool(query, [text], qid, [fields])


def _typed(column: str, cell: str) -> str | int | None:
    """A cell's value: a label is a number, or None if the cell is empty."""
    if column != LABEL:
        return cell
    return int(cell) if INTEGER.fullmatch(cell.strip()) else cell.strip() or None


def _records(lines: Iterable[tuple[int, bytes]], name: str, *, is_tsv: bool) -> Iterator[tuple[int, bytes, list[str] | InputError]]:
    """The number of the first line, the content and the cells of every record that is not blank."""
    csv.field_size_limit(max(csv.field_size_limit(), LINE_LIMIT))
    texts = _Texts(lines, name)
    form: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if is_tsv else {}
    reader = csv.reader(texts, strict=True, **form)
    while True:
        texts.begin()
        cells: list[str] | InputError
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            kind = "TSV" if is_tsv else 'CSV, with "" for a quotation mark within a cell in quotation marks'
            cells = texts.fault or InputError(f"{name}, line {texts.number}: {error}; expected {kind}")
        if isinstance(cells, InputError) or any(cell.strip() for cell in cells):
            yield texts.number, texts.content(), cells


class _Texts:
    """The lines as text for `csv.reader`, which goes on behind one that is no text; those of the present record are noted."""

    def __init__(self, lines: Iterable[tuple[int, bytes]], name: str) -> None:
        self._lines, self._name = iter(lines), name
        self._record: list[tuple[int, bytes]] = []
        self.fault: InputError | None = None
        """why the record is no text"""

    def begin(self) -> None:
        """Begins a record."""
        self._record.clear()
        self.fault = None

    @property
    def number(self) -> int:
        """The number of the record's first line."""
        return self._record[0][0]

    def content(self) -> bytes:
        """The record's lines."""
        return b"".join(line for _, line in self._record)

    def __iter__(self) -> _Texts:
        return self

    def __next__(self) -> str:
        number, line = next(self._lines)
        self._record.append((number, line))
        try:
            decode_text(line, f"{self._name}, line {number}")
        except InputError as error:
            self.fault = error
            raise csv.Error from error
        return line.decode()
