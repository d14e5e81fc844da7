"""StoreReader: reads the states of one identity from a store, which other processes may be filling."""

from __future__ import annotations

import ctypes
import logging
import sqlite3
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from resift.errors import InputError, first_line
from resift.files.names import path_text
from resift.process import Lock, pause_for_forks, renew_in_children
from resift.states import database, layout
from resift.states.database import DamagedShardError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from resift.states.layout import Header, Shard

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
"""How long a reader takes for known which files there are, and that one which failed fails."""
MEND = "its documents are computed anew; `resift store check` tells more"


class StoreReader:
    """The states of an identity in a store. Any number of threads may read at once.

    What cannot be read is not found, and each reason is logged once, as a warning. Files that come, go or are replaced are noticed
    within LOOK_SECONDS. A process waits with a fork until no thread is within SQLite, and the child opens the files itself: a
    connection must not be used on both sides of a fork (https://sqlite.org/howtocorrupt.html).
    """

    def __init__(self, store: Path, identity: str, size: int) -> None:
        """`size`: components of a token's state."""
        self._store, self._identity, self._size = store, identity, size
        self._reported: set[str] = set()
        self._lock = Lock()
        self._header: Header | None = None
        self._shards: list[_ShardReader] = []
        self._next_look = 0.0
        self._is_closed = False

    def find(self, digests: Collection[bytes]) -> dict[bytes, bytes]:
        """The contents of those documents that are in the store, by digest. It never raises."""
        shards = self._open()
        if not shards:
            return {}
        by_shard = defaultdict[int, list[bytes]](list)
        for digest in digests:
            by_shard[layout.shard_number(digest, len(shards))].append(digest)
        found: dict[bytes, bytes] = {}
        for number, part in by_shard.items():
            found |= shards[number].find(part)
        return found

    def close(self) -> None:
        """Closes the files; nothing is found any longer."""
        with self._lock.hold():
            self._is_closed = True
            shards, self._shards = self._shards, []
        for shard in shards:
            shard.close()

    def _open(self) -> list[_ShardReader]:
        """A reader of each shard; none as long as the store has no states of the identity."""
        if time.monotonic() < self._next_look:
            return self._shards
        with self._lock.hold():
            if time.monotonic() >= self._next_look and not self._is_closed:
                self._look()
                self._next_look = time.monotonic() + LOOK_SECONDS  # last: other threads take no lock, and what is known, until then
            return self._shards

    def _look(self) -> None:
        """Reads the header; another one than before means other shards."""
        folder, header = layout.folder_of(self._store, self._identity), self._find_header()
        if header != self._header:
            for shard in self._shards:
                shard.close()
            self._header = header
            self._shards = [] if header is None else [_ShardReader(each, self._report) for each in layout.shards_of(folder, header)]

    def _find_header(self) -> Header | None:
        folder = layout.folder_of(self._store, self._identity)
        try:
            header = layout.read_header(folder)
        except InputError as error:
            self._report(str(error))
            return None
        if header is None:
            self._report_lack()
        elif (header.identity, header.size) != (self._identity, self._size):
            self._report(f"{path_text(folder)} is not of the states it is named for; its documents are computed anew")
            return None
        return header

    def _report_lack(self) -> None:
        try:
            others = len(layout.folders(self._store))
        except InputError as error:
            self._report(str(error))
            return
        there = f"states of {others} other models, machines or versions, none of this one" if others else "no states yet"
        self._report(
            f"the store {path_text(self._store)} has {there}: documents are computed anew; fill it with `resift prepare`, and see "
            "`resift store info`"
        )

    def _report(self, message: str) -> None:
        if message not in self._reported:
            self._reported.add(message)
            log.warning("%s", message)


class _ShardReader:
    """Reads one shard, one thread at a time."""

    def __init__(self, shard: Shard, report: Callable[[str], None]) -> None:
        self._shard, self._report = shard, report
        self._path, self._name = shard.path, path_text(shard.path)
        self._connection: sqlite3.Connection | None = None
        self._place: tuple[int, int] | None = None
        self.begin_anew()
        renew_in_children(self)
        pause_for_forks(self)

    def begin_anew(self) -> None:
        """At the start, and in a forked child: no connection. The parent's is never closed here, nor used."""
        if self._connection is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
        self._connection, self._next_look = None, 0.0
        self._lock = threading.Lock()

    def pause(self) -> None:
        """Waits until no thread reads, and lets none begin."""
        self._lock.acquire()

    def go_on(self) -> None:
        """Ends the pause."""
        self._lock.release()

    def find(self, digests: list[bytes]) -> dict[bytes, bytes]:
        """The contents of those documents that the shard has."""
        with self._lock:
            found, fault = self._read(digests)
        if fault is not None:  # without the lock: a fork waits for it, while it may hold that of logging
            self._report(fault)
        return found

    def _read(self, digests: list[bytes]) -> tuple[dict[bytes, bytes], str | None]:
        """What is found, and what is to be said."""
        was_open = self._connection is not None
        try:
            connection = self._current()
            if connection is None:
                return {}, None
            found, damaged = database.select(connection, digests, self._shard.header.size)
        except sqlite3.Error as error:
            if database.is_busy(error):
                if self._connection is None:
                    self._next_look = 0.0
                return {}, None
            self._drop()
            if was_open and database.is_left_by_a_kill(error):
                self._next_look = 0.0
                return {}, None
            return {}, f"{self._name} cannot be read ({first_line(error)}); {MEND}"
        except (DamagedShardError, InputError, OSError) as error:
            self._drop()
            return {}, f"{self._name}: {first_line(error)}; {MEND}"
        return found, f"{self._name} holds damaged states; {MEND}" if damaged else None

    def close(self) -> None:
        """Closes the file; see `StoreReader.close`."""
        with self._lock:
            self._drop()
            self._next_look = float("inf")

    def _current(self) -> sqlite3.Connection | None:
        """The connection to the file that is there now, as far as it was looked for. Raises like `open_to_read`."""
        if (now := time.monotonic()) >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            try:
                status = self._path.stat()
            except FileNotFoundError:
                self._drop()
                return None
            place = status.st_dev, status.st_ino
            if self._connection is None or place != self._place:
                self._drop()
                self._connection, self._place = database.open_to_read(self._shard), place
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
