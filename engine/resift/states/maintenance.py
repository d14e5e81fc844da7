"""Maintenance: what a store holds, whether it is sound, and how states are removed from it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from resift.errors import InputError, OutputError, first_line
from resift.files.names import path_text
from resift.states import database, layout
from resift.states.database import DamagedShardError
from resift.states.writer import hold

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from resift.states.layout import Header, Shard

    Row = tuple[int, object, object, object]

ROWS = 256
"""Rows that are read at once, between which writers may commit: 10 MB of states of 95 tokens."""
SUFFIXES = ("", "-journal", "-wal", "-shm")
"""Of the names of a shard's files."""


class StoreContents(NamedTuple):
    """What a store holds of one identity."""

    folder: Path
    header: Header
    documents: int
    bytes: int
    faults: list[str]
    """what cannot be read, a line for each shard"""


class ShardCheck(NamedTuple):
    """What a check of a shard found."""

    path: Path
    documents: int
    """sound ones"""
    damaged: int
    """rows whose checksum does not hold, or that are not found by their digest"""
    fault: str | None
    """why the file cannot be read to its end; None if it was"""


class Removed(NamedTuple):
    """What was removed from a store."""

    documents: int
    damaged: int
    """rows that were damaged, and shards that could not be read"""
    identities: int
    """whole identities, such as those of former versions of a model"""
    bytes: int
    """by which the files have shrunk"""


def contents(store: Path) -> list[StoreContents]:
    """What the store holds, by identity. Raises InputError if it is not a folder, or if a header cannot be read."""
    return [_contents(folder, header) for folder, header in _identities(store)]


def check(store: Path) -> Iterator[ShardCheck]:
    """Reads every shard of the store and compares each row with its checksum. Raises like `contents`."""
    for folder, header in _identities(store):
        for shard in _existing(folder, header):
            yield _check(shard)


def prune(store: Path, identity: str, documents: Collection[bytes] | None = None) -> Removed:
    """Removes what is not of that identity, what is damaged and, with `documents`, all but the states of those digests.

    What a killed process left is removed, too. The files shrink. Raises InputError if the store has nothing of that identity, as it
    would be emptied, OutputError if another process writes the store, and like `contents`.
    """
    own, present = layout.folder_of(store, identity), layout.folders(store)
    if present and own not in present:
        raise InputError(
            f"the store {path_text(store)} has no states of this model on this machine: all {len(present)} kinds of states would "
            "be removed; name another --model, or remove folders that `resift store info` shows"
        )
    others, removed, damaged = [folder for folder in present if folder != own], 0, 0
    with _only_writer(store) as identities:
        before = _bytes(store)
        for folder in others:
            _remove(folder)
        for partial in store.glob(f".{layout.FOLDER}*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
        for folder, header in identities:
            for shard in _existing(folder, header):  # none of those that were removed
                foreign, unsound = _prune(shard, documents)
                removed, damaged = removed + foreign, damaged + unsound
        return Removed(removed, damaged, len(others), before - _bytes(store))


def forget(store: Path, digests: Collection[bytes]) -> Removed:
    """Removes and overwrites the states of those documents, of whatever identity. Raises like `prune`."""
    with _only_writer(store) as identities:
        before, count = _bytes(store), 0
        for folder, header in identities:
            for shard in _existing(folder, header):
                part = [digest for digest in digests if layout.shard_number(digest, header.shards) == shard.number]
                if part:
                    count += _forget(shard, part)
        return Removed(count, 0, 0, before - _bytes(store))


@contextmanager
def _only_writer(store: Path) -> Iterator[list[tuple[Path, Header]]]:
    """Makes this process the writer of all shards, and yields the identities. Raises OutputError if another process writes one."""
    identities = _identities(store)
    with ExitStack() as held:
        for folder, header in identities:
            for shard in layout.shards_of(folder, header):
                hold(shard, held)
        yield identities


def _identities(store: Path) -> list[tuple[Path, Header]]:
    found = [(folder, layout.read_header(folder)) for folder in layout.folders(store)]
    return [(folder, header) for folder, header in found if header is not None]


def _existing(folder: Path, header: Header) -> list[Shard]:
    """The shards that have a file."""
    return [shard for shard in layout.shards_of(folder, header) if shard.path.exists()]


def _contents(folder: Path, header: Header) -> StoreContents:
    documents, size, faults = 0, 0, []
    for shard in _existing(folder, header):
        size += shard.path.stat().st_size
        try:
            connection = database.open_to_read(shard, database.WRITE_SECONDS)
            if connection is not None:
                with closing(connection):
                    documents += connection.execute("SELECT count(*) FROM states").fetchone()[0]
        except (sqlite3.Error, InputError, DamagedShardError) as error:
            faults.append(f"{path_text(shard.path)}: {first_line(error)}")
    return StoreContents(folder, header, documents, size, faults)


def _check(shard: Shard) -> ShardCheck:
    sound = damaged = 0
    try:
        connection = database.open_to_read(shard, database.WRITE_SECONDS)
        if connection is not None:
            with closing(connection):
                for rows in _rows(connection):
                    unsound = len(_unsound(connection, rows, shard.header.size))
                    sound, damaged = sound + len(rows) - unsound, damaged + unsound
    except (sqlite3.Error, InputError, DamagedShardError) as error:
        return ShardCheck(shard.path, sound, damaged, first_line(error))
    return ShardCheck(shard.path, sound, damaged, None)


def _rows(connection: sqlite3.Connection) -> Iterator[list[Row]]:
    """Number, digest, checksum and content of all rows, some at a time."""
    last = -(1 << 63)
    while rows := connection.execute(
        "SELECT rowid, digest, checksum, content FROM states WHERE rowid > ? ORDER BY rowid LIMIT ?", (last, ROWS)
    ).fetchall():
        yield rows
        last = rows[-1][0]


def _forget(shard: Shard, digests: list[bytes]) -> int:
    with closing(database.open_to_write(shard)) as connection, database.writing(shard):
        count = _delete(connection, "digest", digests)
        _shrink(connection)
    return count


def _prune(shard: Shard, documents: Collection[bytes] | None) -> tuple[int, int]:
    """Removes a shard that cannot be read, or its damaged rows, and those that are not of `documents`; the numbers of both kinds.

    The number of rows that are not of `documents` comes first.
    """
    others = damaged = 0
    try:
        with closing(database.open_to_write(shard)) as connection, database.writing(shard):
            for rows in _rows(connection):
                unsound = _unsound(connection, rows, shard.header.size)
                foreign = set() if documents is None else {row[0] for row in rows if row[1] not in documents} - unsound
                _delete(connection, "rowid", [*unsound, *foreign])
                others, damaged = others + len(foreign), damaged + len(unsound)
            _shrink(connection)
    except DamagedShardError:
        for suffix in SUFFIXES:
            shard.path.with_name(shard.path.name + suffix).unlink(missing_ok=True)
        damaged += 1
    return others, damaged


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise OutputError(f"{path_text(folder)} cannot be removed: {error.strerror or error}") from error


def _unsound(connection: sqlite3.Connection, rows: list[Row], size: int) -> set[int]:
    """The numbers of those rows whose checksum does not hold, or that are not found by their digest."""
    digests = [row[1] for row in rows if isinstance(row[1], bytes) and database.is_sound(row[1:], size)]
    found = database.stored(connection, digests)
    return {row[0] for row in rows if not (isinstance(row[1], bytes) and row[1] in found)}


def _delete(connection: sqlite3.Connection, column: str, values: Collection[object]) -> int:
    """Deletes the rows that have one of the values, overwrites what they held, and returns their number."""
    with database.transaction(connection):
        statement = f"DELETE FROM states WHERE {column} = ?"  # noqa: S608 - a column of the schema
        return connection.executemany(statement, [(value,) for value in values]).rowcount


def _shrink(connection: sqlite3.Connection) -> None:
    """Gives free pages back to the file system, a step of the statement for each: `execute` would stop after the first."""
    connection.executescript("PRAGMA incremental_vacuum")


def _bytes(store: Path) -> int:
    return sum(path.stat().st_size for folder in layout.folders(store) for path in folder.iterdir() if path.is_file())
