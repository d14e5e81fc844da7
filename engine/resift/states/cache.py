"""StatesCache: the states of the documents that were asked for last, in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from resift.process import renew_in_children

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Key = tuple[str, bytes]

ENTRY_BYTES = 400
"""What an entry takes beside its content: the objects of its key and its place in the table, and what the allocator adds."""


class StatesCache:
    """Contents by owner and digest, within a bound of bytes: the least recently used ones make room for new ones.

    Any number of threads may use it at once. A forked child begins with an empty one.
    """

    def __init__(self, limit: int) -> None:
        """`limit`: bytes of all entries; with 0 nothing is kept."""
        self._limit = limit
        self.begin_anew()
        renew_in_children(self)

    def begin_anew(self) -> None:
        """Drops all entries: a thread of the parent may have been changing them."""
        self._lock = threading.Lock()
        self._contents: OrderedDict[Key, bytes] = OrderedDict()
        self.bytes = 0
        """what the entries take"""

    def __len__(self) -> int:
        return len(self._contents)

    def find(self, keys: Sequence[Key]) -> list[bytes | None]:
        """The content of each key, which is now among the last used, or None."""
        with self._lock:
            for key in keys:
                if key in self._contents:
                    self._contents.move_to_end(key)
            return [self._contents.get(key) for key in keys]

    def keep(self, entries: Iterable[tuple[Key, bytes]]) -> None:
        """Keeps what fits within the bound; a content larger than all of it is not kept."""
        with self._lock:
            for key, content in entries:
                size = len(content) + ENTRY_BYTES
                if size > self._limit or key in self._contents:
                    continue
                self._contents[key] = content
                self.bytes += size
                while self.bytes > self._limit:
                    _, dropped = self._contents.popitem(last=False)
                    self.bytes -= len(dropped) + ENTRY_BYTES

    def close(self) -> None:
        """Drops all entries, and keeps none any longer: a batch may still be running."""
        self._limit = 0
        self.clear()

    def clear(self) -> None:
        """Drops all entries."""
        with self._lock:
            self._contents.clear()
            self.bytes = 0
