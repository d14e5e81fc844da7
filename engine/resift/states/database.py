"""Database: a shard as a file of SQLite, and how it is opened to read and to write.

It has a rollback journal, not a write-ahead log: a shard at rest is one file, which processes without the right to write it, on
read-only and on network file systems, can read. A log would need shared memory beside it, which network file systems lack
(https://sqlite.org/wal.html). Readers wait only while a writer commits.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import msgspec

from resift.errors import InputError, OutputError
from resift.files.names import path_text
from resift.states.digests import checksum_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from resift.states.layout import Shard

READ_SECONDS, WRITE_SECONDS = 0.02, 60.0
"""How long a reader waits for a commit, before it takes the documents for new; and a writer for readers, or a check for a commit.
To compute what one shard has of 50 documents takes about as long as the reader waits."""
LONGEST = 1 << 16
"""Maximum number of tokens of a document in a store, so that a damaged length takes no memory."""
LARGEST = 1_000_000_000
"""Maximum number of bytes of its states: SQLite's own limit."""
VARIABLES = 500
"""Digests of one query; SQLite before 3.32 takes 999."""
CACHE_KIB = 512
"""SQLite's memory of a shard that is read; the system keeps the file's pages anyway."""
PAGE = 16384
"""Bytes of a page: states of 95 tokens take three (https://sqlite.org/intern-v-extern-blob.html)."""
SYNCHRONOUS = "EXTRA"
"""A commit is on the disk when it returns, the removal of its journal included (https://sqlite.org/pragma.html#pragma_synchronous)."""
SCHEMA = (
    "CREATE TABLE header (name TEXT PRIMARY KEY NOT NULL, value NOT NULL)",
    "CREATE TABLE states (digest BLOB PRIMARY KEY NOT NULL, checksum INTEGER NOT NULL, content BLOB NOT NULL)",
)


class DamagedShardError(OutputError):
    """The file of a shard is damaged, or is another shard than its name says; `resift store prune` removes it."""


def open_to_read(shard: Shard, seconds: float = READ_SECONDS) -> sqlite3.Connection | None:
    """A connection that cannot write; None if the shard has no content yet. Threads must take turns with it.

    `seconds`: how long each of its statements waits for a commit, at most. A journal that a killed writer left is rolled back
    first, if this process may write. Raises DamagedShardError if the file is another shard, InputError if it is no file, and
    sqlite3.Error if it cannot be read.
    """
    if not _is_file(shard.path, follow=True):
        return None
    try:
        return _opened(shard, seconds)
    except sqlite3.OperationalError as error:
        if not is_left_by_a_kill(error):
            raise
    with closing(_connect(shard, "rw", seconds)) as connection:
        connection.execute("SELECT count(*) FROM header").fetchone()
    return _opened(shard, seconds)


def _opened(shard: Shard, seconds: float) -> sqlite3.Connection | None:
    connection = _connect(shard, "ro", seconds)
    try:
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        if _is_empty(connection):
            connection.close()
            return None
        _check(connection, shard)
    except BaseException:
        connection.close()
        raise
    return connection


def open_to_write(shard: Shard) -> sqlite3.Connection:
    """A connection to the shard's file, which is created if it is missing. The caller holds the shard's lock.

    Raises OutputError if it cannot be written, DamagedShardError among them, and InputError if it is no file.
    """
    path = shard.path
    with writing(shard):
        if not _is_file(path, follow=False):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        connection = _connect(shard, "rw", WRITE_SECONDS)
        try:
            connection.execute(f"PRAGMA page_size = {PAGE}")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
            connection.execute("PRAGMA secure_delete = ON")  # states that are forgotten are overwritten
            if _is_empty(connection):
                _create(connection, shard)
            _check(connection, shard)
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Changes that are kept together at the end of the block, or not at all if it fails."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite ends it itself if the disk is full
            connection.execute("ROLLBACK")
        raise


@contextmanager
def writing(shard: Shard) -> Iterator[None]:
    """Turns a failure to write the shard into an OutputError of one line."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OutputError(f"{path_text(shard.path)} cannot be written: {error}; what was kept before stays") from error
    except sqlite3.DatabaseError as error:
        raise DamagedShardError(f"{path_text(shard.path)} is damaged ({error}): remove it with `resift store prune`") from error
    except OSError as error:
        raise OutputError(f"{path_text(shard.path)} cannot be written: {error.strerror or error}") from error


def select(connection: sqlite3.Connection, digests: Sequence[bytes], size: int) -> tuple[dict[bytes, bytes], int]:
    """The contents of those digests that are there, and the number of rows that are damaged. Raises sqlite3.Error."""
    rows = list[tuple[object, object, object]]()
    for part in _parts(digests):
        statement = f"SELECT digest, checksum, content FROM states WHERE digest IN ({_places(part)})"  # noqa: S608 - question marks
        rows += connection.execute(statement, part)
    sound = {row[0]: row[2] for row in rows if is_sound(row, size)}
    return sound, len(rows) - len(sound)  # type: ignore[return-value]


def stored(connection: sqlite3.Connection, digests: Sequence[bytes]) -> set[bytes]:
    """Those of the digests that are there, sound or not. Raises sqlite3.Error."""
    found = set[bytes]()
    for part in _parts(digests):
        rows = connection.execute(f"SELECT digest FROM states WHERE digest IN ({_places(part)})", part)  # noqa: S608 - question marks
        found.update(digest for (digest,) in rows)
    return found


def is_sound(row: tuple[object, object, object], size: int) -> bool:
    """Whether digest, checksum and content belong together, and are states of whole tokens."""
    digest, checksum, content = row
    if not (isinstance(digest, bytes) and isinstance(content, bytes)) or not content or len(content) % size:
        return False
    return checksum == checksum_of(digest, content)


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process commits just now."""
    return _code(error) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_left_by_a_kill(error: sqlite3.Error) -> bool:
    """Whether a killed writer left a journal that a process must roll back which may write."""
    return _code(error) == sqlite3.SQLITE_READONLY_ROLLBACK


def _parts(digests: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (digests[start : start + VARIABLES] for start in range(0, len(digests), VARIABLES))


def _places(digests: Sequence[bytes]) -> str:
    return ",".join("?" * len(digests))


def _code(error: sqlite3.Error) -> int:
    """SQLite's extended result code (https://sqlite.org/rescode.html); 0 if it is an error of Python's module."""
    return getattr(error, "sqlite_errorcode", 0)


def _connect(shard: Shard, mode: str, seconds: float) -> sqlite3.Connection:
    """A connection without transactions of its own. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        f"{shard.path.absolute().as_uri()}?mode={mode}", seconds, uri=True, isolation_level=None, check_same_thread=False
    )
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, min(LONGEST * shard.header.size, LARGEST))
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def _is_empty(connection: sqlite3.Connection) -> bool:
    """Whether its creator was killed before the first transaction ended."""
    return not connection.execute("SELECT 1 FROM sqlite_master").fetchall()


def _create(connection: sqlite3.Connection, shard: Shard) -> None:
    with transaction(connection):
        for statement in SCHEMA:
            connection.execute(statement)
        connection.executemany("INSERT INTO header VALUES (?, ?)", _facts(shard).items())


def _facts(shard: Shard) -> dict[str, str | int]:
    """What a shard says of itself."""
    facts = msgspec.structs.asdict(shard.header)
    del facts["label"]  # for people only
    return {**facts, "number": shard.number}


def _check(connection: sqlite3.Connection, shard: Shard) -> None:
    """Raises DamagedShardError if the file is another shard, or another identity's, or holds no table of states."""
    tables = connection.execute(
        "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('header', 'states')"
    ).fetchone()
    if tables != (2,) or dict(connection.execute("SELECT name, value FROM header LIMIT 99")) != _facts(shard):
        raise DamagedShardError(f"{path_text(shard.path)} is not the shard that its name says: remove it with `resift store prune`")


def _is_file(path: Path, *, follow: bool) -> bool:
    """Whether a file is there. Raises InputError for anything else: to open a pipe, for one, would wait for ever."""
    try:
        mode = path.stat(follow_symlinks=follow).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise InputError(f"{path_text(path)} is not a regular file; expected a shard of a store: remove it, and prepare again")
    return True
