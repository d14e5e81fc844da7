"""Journal: a file beside the output with what each document brought, so that a run that was ended goes on where it was."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, TypeVar

import msgspec

from resift.errors import InputError, OutputError
from resift.files.json_decoding import decode_json
from resift.files.lock import delete, hold
from resift.files.names import path_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from resift.mining.collection import MiningDocument

Row = TypeVar("Row", bound=msgspec.Struct)


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is: only the same run goes on."""

    documents: str
    """SHA-256 of their ids and texts"""
    method: str
    """the endpoint's model; "extractive" without one"""
    instruction: str
    """SHA-256 of what the model is told"""


class DocumentEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one document brought."""

    document: int
    """its position in the corpus, from 0"""
    questions: list[str] = []
    fault: str | None = None
    """why there is none; None where the answer held some, or none"""
    requests: int = 0
    """that it took"""


class QuestionJournal:
    """The entries of a run, held by one process at a time."""

    def __init__(self, path: Path, head: Head) -> None:
        """Opens or creates the file. Raises OutputError if another process holds it, InputError if it belongs to another run."""
        self.path = path
        self.entries: dict[int, DocumentEntry] = {}
        """by the document's position, the latest of each"""
        self.requests = 0
        """that all entries took"""
        try:
            self._file = hold(path)
            try:
                self._begin(head)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise OutputError(f"{path_text(path)} cannot be written: {error.strerror or error}; name another OUT") from error

    def add(self, entry: DocumentEntry) -> None:
        """Appends an entry. Raises OutputError if it cannot be written."""
        self._write(entry)
        self._keep(entry)

    def close(self) -> None:
        """Lets other processes go on with it."""
        self._file.close()

    def delete(self) -> None:
        """Deletes the file."""
        delete(self._file, self.path)

    def _begin(self, head: Head) -> None:
        self._file.seek(0)
        content = self._file.read() or b""
        whole = content[: content.rfind(b"\n") + 1]  # what was being written when a run was killed counts as not written
        first, *rest = whole.splitlines() or [b""]
        if not first and (msgspec.json.encode(head) + b"\n").startswith(content):
            self._file.truncate(0)
            self._write(head)
            return
        if self._decode(first, Head, 1) != head:
            raise InputError(
                f"{path_text(self.path)} belongs to a run with other documents, another model or other questions; delete it "
                "to begin anew, or name another OUT"
            )
        self._file.truncate(len(whole))
        for number, line in enumerate(rest, 2):
            entry = self._decode(line, DocumentEntry, number)
            self._keep(entry)

    def _keep(self, entry: DocumentEntry) -> None:
        self.entries[entry.document] = entry
        self.requests += entry.requests

    def _decode(self, line: bytes, kind: type[Row], number: int) -> Row:
        try:
            return decode_json(line, kind)
        except ValueError as error:
            name = path_text(self.path)
            raise InputError(
                f"{name}, line {number}: no journal of this command: {error}; delete or rename it, if it is none"
            ) from error

    def _write(self, row: msgspec.Struct) -> None:
        remaining = memoryview(msgspec.json.encode(row) + b"\n")
        try:
            while remaining:
                remaining = remaining[self._file.write(remaining) or 0 :]
        except OSError as error:
            raise OutputError(
                f"{path_text(self.path)} cannot be written: {error.strerror or error}; free some space: the same command goes on"
            ) from error


def digest(documents: Iterable[MiningDocument]) -> str:
    """The SHA-256 of documents, as hexadecimal digits."""
    found = hashlib.sha256()
    for document in documents:
        found.update(msgspec.json.encode([document.docid, document.text]))
    return found.hexdigest()


def digest_of_text(text: str) -> str:
    """The SHA-256 of a text, as hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()
