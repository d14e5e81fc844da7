"""Reading: the lines of files, and pools and candidates from JSON, one line after another.

A file whose name ends in .gz is compressed with gzip; - is standard input.
"""

from __future__ import annotations

import codecs
import gzip
import os
import re
import sys
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from resift.documents import ALIASES, document_id
from resift.errors import InputError
from resift.files import git_lfs
from resift.files.json_decoding import decode_json
from resift.files.names import is_file_name

if TYPE_CHECKING:
    from collections.abc import Container, Generator, Iterator, Mapping, Sequence

    from resift.documents import DocumentTemplate
    from resift.ranking import Ranking

LINE_LIMIT = 1 << 28
"""Maximum size of one line in bytes; a longer line means another kind of file."""
QUERY_IDS = ("qid", "query_id", "query-id")
"""Fields and columns that can hold a query's id, the first that is there."""
UNSUPPORTED_FORMATS = (
    (rb"\xff\xfe\0\0|\0\0\xfe\xff|[\t\n\r -~]\0\0\0|\0\0\0[\t\n\r -~]", "UTF-32 text; convert it: iconv -f UTF-32 -t UTF-8"),
    (rb"\xff\xfe|\xfe\xff|[\t\n\r -~]\0|\0[\t\n\r -~]", "UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8"),
    (rb"\x1f\x8b", "compressed with gzip; give it a name that ends in .gz, or unpack it: gzip -dc"),
    (rb"\xfd7zXZ\0", "compressed with xz; unpack it: xz -dc"),
    (rb"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it: zstd -dc"),
    (rb"BZh[1-9]1AY&SY", "compressed with bzip2; unpack it: bzip2 -dc"),
    (rb"PK\x03\x04", "a zip archive (or a format based on it, such as docx); unpack it and pass a text file"),
    (re.escape(git_lfs.START), git_lfs.DESCRIPTION),
    (rb"PAR1\x15", "a parquet file; rank its rows with --pools, under a name that ends in .parquet, or with --engine ray"),
)
"""First bytes of files that are not UTF-8 text (without a byte order mark as in RFC 4627, section 3); what they are, and what to
do with them."""


@dataclass(frozen=True, slots=True)
class CandidatePool:
    """A query and its candidates."""

    query: str
    documents: list[str]
    qid: str | int | None = None
    fields: list[dict[str, Any]] = field(default_factory=list)
    """each candidate's fields other than its text, in order; empty for plain documents"""
    lines: list[int] = field(default_factory=list, compare=False)
    """the number, from 1, of each document's line, if each has its own line; otherwise empty"""
    positions: list[int] = field(default_factory=list, compare=False)
    """the position, from 0, that each candidate had before `select`; empty for all candidates in order"""

    def given_positions(self) -> Sequence[int]:
        """The position, from 0, that each candidate had in its file."""
        return self.positions or range(len(self.documents))

    def first(self, size: int | None) -> CandidatePool:
        """The pool with its first `size` candidates (None: all)."""
        if size is None:
            return self
        columns = {name: getattr(self, name)[:size] for name in ("documents", "fields", "lines", "positions")}
        return replace(self, **columns)

    def select(self, positions: list[int]) -> CandidatePool:
        """The pool with the candidates at `positions` only, in this order; the pool must hold all its candidates."""
        columns: dict[str, Any] = {
            name: [column[place] for place in positions]
            for name in ("documents", "fields", "lines")
            if (column := getattr(self, name))
        }
        return replace(self, **columns, positions=positions)

    def ranked(self, ranking: Ranking, *, with_documents: bool = False) -> dict[str, Any]:
        """The ranked pool as a JSON object: {"qid"?, "query", "results": [...]}, best first; a score or logit may be null.

        With a calibration, results have a "probability", null without a score, and "without_score" counts the pool's documents that
        have none, if there are any.

        A candidate keeps its own fields. A field with the name of a result field, such as a retriever's score, becomes given_NAME,
        or given_given_NAME if the candidate has a given_NAME as well, and so on: nothing is lost.
        """
        results = []
        for result in ranking:
            row: dict[str, Any] = {"index": result.index, "score": result.score, "logit": result.logit}
            row |= {"scored_by": result.scored_by, "tokens_cut": result.tokens_cut}
            if result.tokens_cut_at_least:
                row["tokens_cut_at_least"] = True
            if ranking.windowed:
                row |= {"windows": result.windows, "window": result.window}
            if ranking.calibrated:
                row["probability"] = result.probability
            if with_documents:
                row["document"] = result.document
            fields = self.fields[result.index] if self.fields else {}
            results.append({free_name(name, row, fields): value for name, value in fields.items()} | row)
        head: dict[str, Any] = {} if self.qid is None else {"qid": self.qid}
        if ranking.query_tokens_cut:
            head["query_tokens_cut"] = ranking.query_tokens_cut
        if ranking.calibrated and ranking.without_score:
            head["without_score"] = ranking.without_score
        return {**head, "query": self.query, "results": results}


def decode_pool(line: bytes, where: str, template: DocumentTemplate | None = None) -> CandidatePool:
    """The pool of a line of JSON; see `to_pool`. If an object holds a name twice, the last value counts."""
    return to_pool(decode_object(line, where), where, template)


def to_pool(row: Mapping[str, Any], where: str, template: DocumentTemplate | None = None) -> CandidatePool:
    """A pool from {"qid"?, "query", "documents": [str]} or {"qid"?, "query", "candidates": [{"docid"?, "text", ...}]}.

    `template`: what the model reads of a candidate; None: its text. Raises InputError that begins with `where` for anything else.
    """
    query, qid = row.get("query"), query_id(row, where)
    if not isinstance(query, str):
        raise InputError(f"{where}: 'query' is {json_kind(query)}; expected a string")
    if ("documents" in row) == ("candidates" in row):
        raise InputError(f"{where}: expected either 'documents' or 'candidates'; found the keys {', '.join(row)}")
    items = row.get("documents", row.get("candidates"))
    if not isinstance(items, list):
        raise InputError(f"{where}: 'documents' or 'candidates' is {json_kind(items)}; expected a list")
    if "documents" in row:
        for position, item in enumerate(items):
            if not isinstance(item, str):
                raise InputError(f"{where}: documents[{position}] is {json_kind(item)}; expected a string")
        return CandidatePool(query, items, qid)
    candidates = [to_candidate(item, f"{where}: candidates[{position}]", template) for position, item in enumerate(items)]
    return CandidatePool(query, [text for text, _ in candidates], qid, [fields for _, fields in candidates])


def query_id(row: Mapping[str, Any], where: str) -> str | int | None:
    """The first of QUERY_IDS that a row has; None if it has none. Raises InputError that begins with `where` for any other type."""
    name, qid = next(((name, row[name]) for name in QUERY_IDS if row.get(name) is not None), ("qid", None))
    if not isinstance(qid, str | int | None) or isinstance(qid, bool):
        raise InputError(f"{where}: {name!r} is {json_kind(qid)}; expected a string or an integer")
    return qid


def to_candidate(item: object, where: str, template: DocumentTemplate | None = None) -> tuple[str, dict[str, Any]]:
    """What the model reads of a candidate, by `template` (None: its text), and its fields other than the text.

    The text is its first of `text`, `content` and `page_content`. Raises InputError that begins with `where` for anything else.
    """
    if not isinstance(item, dict):
        raise InputError(f'{where}: {json_kind(item)}; expected {{"text": "...", ...}}')
    name = next((name for name in ALIASES["text"] if item.get(name) is not None), "text")
    fields = {key: value for key, value in item.items() if key != name}
    if template is not None:
        try:
            return template.text(item, where), fields
        except TypeError as error:
            raise InputError(str(error)) from error
    text = item.get(name)
    if not isinstance(text, str):
        raise InputError(f'{where}: an object whose {name!r} is {json_kind(text)}; expected {{"text": "...", ...}}')
    return text, fields


def candidate_id(fields: Mapping[str, Any]) -> object:
    """The id among a candidate's fields: its `docid`, or else as `resift.documents.document_id` finds it; None if it has none."""
    docid = fields.get("docid")
    return document_id(fields) if docid is None else docid


def decode_object(line: bytes, where: str) -> dict[str, Any]:
    """The JSON object of one line. Raises InputError that begins with `where` for anything else."""
    try:
        row = decode_json(line)
    except ValueError as error:
        raise InputError(f"{where}: not JSON: {error}; expected one JSON object per line") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: {json_kind(row)}; expected a JSON object")
    return row


def decode_text(line: bytes, where: str) -> str:
    """One line of text, without its end. Raises InputError that begins with `where` for a NUL or invalid UTF-8."""
    if b"\0" in line:
        raise InputError(f"{where}: a NUL at byte {line.index(0)}; expected UTF-8 text (for UTF-16: iconv -f UTF-16 -t UTF-8)")
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 at byte {error.start}; expected UTF-8 text; convert the file first") from error


def json_kind(value: object) -> str:
    """The kind of a decoded JSON value, for a message."""
    names = {type(None): "missing or null", dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and content of every line that is not blank."""
    return iter(Lines(path))


def blank_and_first(lines: Iterator[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """The lines up to the first that is not blank."""
    found = []
    for number, line in lines:
        found.append((number, line))
        if line.strip():
            break
    return found


class Lines:
    """The lines of a file or of standard input, and the share that has been read so far."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._name = os.fspath(path)
        self._raw: IO[bytes] | None = None
        self._is_read = False

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Number (from 1) and content of every line that is not blank. Raises InputError if the file cannot be read."""
        return ((number, line) for number, line in self.every() if line.strip())

    def every(self) -> Generator[tuple[int, bytes], None, None]:
        """Number and content of every line, the blank ones, too, which may be in the middle of a cell of CSV."""
        try:
            with self._open() as file:
                number = 0
                while line := file.readline(LINE_LIMIT + 1):
                    number += 1
                    if number == 1:
                        self._check_kind(line)
                        line = line.removeprefix(codecs.BOM_UTF8)
                    if len(line) > LINE_LIMIT:
                        where = f"{self._name}, line {number}"
                        raise InputError(f"{where}: longer than {LINE_LIMIT} bytes; expected one document or pool per line")
                    yield number, line
        except (OSError, EOFError, zlib.error) as error:
            if isinstance(error, gzip.BadGzipFile) and git_lfs.is_pointer(Path(self._name)):
                raise InputError(f"{self._name} is {git_lfs.DESCRIPTION}") from error
            reason = error.strerror or error if isinstance(error, OSError) else error
            raise InputError(f"{self._name} cannot be read: {reason}") from error

    def share(self) -> float | None:
        """Share of the file's bytes read so far, 0 to 1; None if the size is unknown."""
        if self._raw is None or self._name == "-":
            return 1.0 if self._is_read else None
        size = os.fstat(self._raw.fileno()).st_size
        return min(1.0, self._raw.tell() / size) if size else 1.0

    def _check_kind(self, start: bytes) -> None:
        for pattern, kind in UNSUPPORTED_FORMATS:
            if re.match(pattern, start):
                raise InputError(f"{self._name} is {kind}")

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        if not is_file_name(self._name):
            raise InputError(f"{self._name!r} is not a file name; expected one, or - for standard input")
        if self._name == "-":
            if sys.stdin is None:
                raise InputError("standard input is closed; name a file, or pipe the lines in")
            self._raw = sys.stdin.buffer
            yield self._raw
            return
        with Path(self._name).open("rb") as raw:
            self._raw = raw
            try:
                if self._name.endswith(".gz"):
                    with gzip.open(raw, "rb") as packed:
                        yield cast("IO[bytes]", packed)
                else:
                    yield raw
            finally:
                self._raw, self._is_read = None, True


def free_name(name: str, result_fields: Container[str], candidate_fields: Container[str]) -> str:
    """The name that a candidate's field `name` has in a result.

    If it is one of `result_fields`, it becomes the first of given_NAME, given_given_NAME, ... that is not in `candidate_fields`.
    """
    if name in result_fields:
        name = f"given_{name}"
        while name in candidate_fields:
            name = f"given_{name}"
    return name
