"""Candidate pools and documents as files: JSON Lines or plain lines, gzip by name, - for standard input."""

from __future__ import annotations

import codecs
import gzip
import os
import sys
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import msgspec

from resift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resift.ranking import Ranking

LINE_LIMIT = 1 << 28
"""Bytes of one line: a longer one is a file of another kind."""


@dataclass(frozen=True, slots=True)
class CandidatePool:
    """A query and its candidates."""

    query: str
    documents: list[str]
    qid: str | int | None = None
    fields: list[dict[str, Any]] = field(default_factory=list)
    """what each candidate holds beside its text, in its order; empty for plain documents"""

    def first(self, size: int | None) -> CandidatePool:
        """The pool with its first `size` candidates only, all of them for None."""
        return self if size is None else replace(self, documents=self.documents[:size], fields=self.fields[:size])

    def ranked(self, ranking: Ranking, *, with_documents: bool = False) -> dict[str, Any]:
        """The ranked pool as a JSON object: {"qid"?, "query", "results": [...]}, best first.

        A candidate's own fields come out again; one that has the name of ours, such as a retriever's score, as given_NAME.
        """
        results = []
        for result in ranking:
            own: dict[str, Any] = {"index": result.index, "score": result.score, "logit": result.logit}
            own["tokens_cut"] = result.tokens_cut
            if result.tokens_cut_at_least:
                own["tokens_cut_at_least"] = True
            if with_documents:
                own["document"] = result.document
            given = self.fields[result.index] if self.fields else {}
            results.append({f"given_{name}" if name in own else name: value for name, value in given.items()} | own)
        head: dict[str, Any] = {} if self.qid is None else {"qid": self.qid}
        if ranking.query_tokens_cut:
            head["query_tokens_cut"] = ranking.query_tokens_cut
        return {**head, "query": self.query, "results": results}


def read_pools(path: str | os.PathLike[str]) -> Iterator[CandidatePool]:
    """The pools of a JSON Lines file, one a line; blank lines are passed over.

    Raises InputError that names the file and line for anything else.
    """
    for number, line in read_lines(path):
        yield decode_pool(line, f"{os.fspath(path)}, line {number}")


def decode_pool(line: bytes, where: str) -> CandidatePool:
    """A pool from {"qid"?, "query", "documents": [str]} or {"qid"?, "query", "candidates": [{"docid"?, "text", ...}]}."""
    row = _decode(line, where)
    query, qid = row.get("query"), row.get("qid")
    if not isinstance(query, str):
        raise InputError(f"{where}: 'query' is {_kind(query)}; expected a string")
    if not isinstance(qid, str | int | None) or isinstance(qid, bool):
        raise InputError(f"{where}: 'qid' is {_kind(qid)}; expected a string or an integer")
    if ("documents" in row) == ("candidates" in row):
        raise InputError(f"{where}: expected either 'documents' or 'candidates'; found the keys {', '.join(row)}")
    items = row.get("documents", row.get("candidates"))
    if not isinstance(items, list):
        raise InputError(f"{where}: 'documents' or 'candidates' is {_kind(items)}; expected a list")
    if "documents" in row:
        for position, item in enumerate(items):
            if not isinstance(item, str):
                raise InputError(f"{where}: documents[{position}] is {_kind(item)}; expected a string")
        return CandidatePool(query, items, qid)
    candidates = [_candidate(item, f"{where}: candidates[{position}]") for position, item in enumerate(items)]
    return CandidatePool(query, [text for text, _ in candidates], qid, [fields for _, fields in candidates])


def read_documents(path: str | os.PathLike[str], query: str) -> CandidatePool:
    """One query's documents: a line each, or, where the first line begins with {, one JSON object {"text", ...} a line."""
    lines = list(read_lines(path))
    if not lines or not lines[0][1].lstrip().startswith(b"{"):
        return CandidatePool(query, [_text(line, f"{os.fspath(path)}, line {number}") for number, line in lines])
    candidates = [_candidate(_decode(line, where := f"{os.fspath(path)}, line {number}"), where) for number, line in lines]
    return CandidatePool(query, [text for text, _ in candidates], None, [fields for _, fields in candidates])


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and content of every line that is not blank."""
    return iter(Lines(path))


class Lines:
    """The lines of a file or of standard input, and how far its reading is."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._name = os.fspath(path)
        self._raw: IO[bytes] | None = None

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Number (from 1) and content of every line that is not blank. Raises InputError if it cannot be read."""
        try:
            with self._opened() as file:
                number = 0
                while line := file.readline(LINE_LIMIT + 1):
                    number += 1
                    if number == 1:
                        line = line.removeprefix(codecs.BOM_UTF8)
                    if len(line) > LINE_LIMIT:
                        where = f"{self._name}, line {number}"
                        raise InputError(f"{where}: longer than {LINE_LIMIT} bytes; expected one document or pool a line")
                    if line.strip():
                        yield number, line
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{self._name} cannot be read: {error}") from error

    def share(self) -> float | None:
        """Share of the file's bytes that are read, 0 to 1; None where the size is unknown."""
        if self._raw is None or self._name == "-":
            return None
        size = os.fstat(self._raw.fileno()).st_size
        return min(1.0, self._raw.tell() / size) if size else 1.0

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        if self._name == "-":
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
                self._raw = None


def _text(line: bytes, where: str) -> str:
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 at byte {error.start}; expected UTF-8 text, convert the file first") from error


def _decode(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {error}; expected one JSON object a line") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: {_kind(row)}; expected a JSON object")
    return row


def _candidate(item: object, where: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(item, dict) or not isinstance(item.get("text"), str):
        found = _kind(item) if not isinstance(item, dict) else f"an object whose 'text' is {_kind(item.get('text'))}"
        raise InputError(f'{where}: {found}; expected {{"text": "...", ...}}')
    return item["text"], {name: value for name, value in item.items() if name != "text"}


def _kind(value: object) -> str:
    names = {type(None): "missing or null", dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")
