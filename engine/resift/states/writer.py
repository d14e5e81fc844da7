"""StoreWriter: writes the shards of one identity, each of which has one writer at a time."""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Self

from resift.errors import InputError, OutputError
from resift.files import lock
from resift.files.names import path_text
from resift.states import database, layout
from resift.states.digests import checksum_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from resift.states.layout import Header, Shard


class StoreWriter:
    """Shards of one identity, open to be written. What `keep` has written stays, whatever happens to the process or the machine.

    Only one thread, of the process that opened it, may use it.
    """

    def __init__(self, store: Path, header: Header, *, part: tuple[int, int] = (1, 1)) -> None:
        """Opens the shards of `part`: (2, 3) is the second of three parts, which as many processes or machines may write at once.

        The store and the header's identity are created if they are missing; if not, the number of shards stays what it is. Raises
        OutputError if another process writes one of the shards or if they cannot be written, and InputError for a part that is no
        part of the shards, and as `layout.create`.
        """
        folder, self.header = layout.create(store, header)
        number, parts = part
        if not 1 <= number <= parts <= self.header.shards:
            raise InputError(f"part {number}/{parts} of {self.header.shards} shards; expected 1/1 to N/N with N up to that number")
        shards = [shard for shard in layout.shards_of(folder, self.header) if shard.number % parts == number - 1]
        self.folder = folder
        self._opened = ExitStack()
        self._connections: dict[int, sqlite3.Connection] = {}
        self._shards = {shard.number: shard for shard in shards}
        with ExitStack() as opened:
            for shard in shards:
                hold(shard, opened)
                self._connections[shard.number] = opened.enter_context(closing(database.open_to_write(shard)))
            self._opened = opened.pop_all()

    def has(self, digest: bytes) -> bool:
        """Whether the digest falls into one of the shards that are open here."""
        return layout.shard_number(digest, self.header.shards) in self._connections

    def missing(self, digests: Iterable[bytes]) -> list[bytes]:
        """Those of the digests that fall into these shards and are not there yet. Raises OutputError if a shard cannot be read."""
        lacking: list[bytes] = []
        for number, part in self._by_shard({digest: digest for digest in digests}).items():
            with database.writing(self._shards[number]):
                there = database.stored(self._connections[number], list(part))
            lacking += [digest for digest in part if digest not in there]
        return lacking

    def keep(self, states: Mapping[bytes, bytes]) -> None:
        """Writes contents by digest, those of these shards; on return they are on the disk. Raises OutputError if they cannot be.

        A shard's contents are written together or not at all.
        """
        for number, part in self._by_shard(states).items():
            rows = [(digest, checksum_of(digest, content), content) for digest, content in part.items()]
            self.change(number, "INSERT OR REPLACE INTO states VALUES (?, ?, ?)", rows)

    def change(self, number: int, statement: str, rows: Sequence[tuple[bytes | int, ...]]) -> int:
        """Runs a statement for each of `rows` in one transaction of a shard, and returns the number of rows that it changed."""
        connection = self._connections[number]
        with database.writing(self._shards[number]), database.transaction(connection):
            return connection.executemany(statement, rows).rowcount

    def close(self) -> None:
        """Closes the shards, so that others may write them."""
        self._connections = {}
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _by_shard(self, states: Mapping[bytes, bytes]) -> dict[int, dict[bytes, bytes]]:
        parts = defaultdict[int, dict[bytes, bytes]](dict)
        for digest, content in states.items():
            if self.has(digest):
                parts[layout.shard_number(digest, self.header.shards)][digest] = content
        return parts


def hold(shard: Shard, until: ExitStack) -> None:
    """Makes this process the shard's writer until the stack ends. Raises OutputError, in one line, if another one is."""
    path = shard.lock_path
    try:
        if path.is_symlink():
            raise OutputError(f"{path_text(path)} is a symbolic link; expected a file: remove it")
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        until.callback(lock.hold(path, "store").close)
    except OSError as error:
        raise OutputError(f"{path_text(path)} cannot be written: {error.strerror or error}") from error
