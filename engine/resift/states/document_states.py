"""DocumentStates: the states of documents, from memory or from a store."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from resift.errors import InputError
from resift.files.names import path_text
from resift.process import Lock
from resift.states.cache import StatesCache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from resift.states.reader import StoreReader


class Found(NamedTuple):
    """What is known of some documents."""

    states: list[NDArray[np.uint8] | None]
    """uint8[tokens, size] of each document, read only; None for a new one, whose states must be computed"""
    prepared: int
    """how many were found in the store"""
    cached: int
    """how many were found in memory"""


class StatesCounts(NamedTuple):
    """How many documents were looked up so far, by what was known of them."""

    prepared: int
    cached: int
    new: int


class DocumentStates:
    """The states of documents by their digests (`digest_of`): in memory those used last, and in a store on disk if one is set.

    The store is only read. Any number of threads may use it at once; a forked child begins with an empty memory and opens the
    store itself.
    """

    def __init__(self, identity: str | Callable[[], str], size: int, *, cache_bytes: int, store: Path | None) -> None:
        """`identity`: a digest of all that makes the bits of states, or what computes it, which only a store needs.

        `size`: components of a token's state, one byte each. `cache_bytes`: bound of the memory; 0 for none. `store`: a folder that
        `resift prepare` fills, perhaps later. Raises InputError if it is not a folder, and ExtraError if Python has no sqlite3.
        """
        self._find_identity, self.size = identity, size
        self._cache = StatesCache(cache_bytes)
        self._store = None if store is None else _open(store, self.identity, size)
        self._counts = [0, 0, 0]
        self._lock = Lock()

    @cached_property
    def identity(self) -> str:
        """A digest of all that makes the bits of states: those of another identity are never found."""
        return self._find_identity if isinstance(self._find_identity, str) else self._find_identity()

    @property
    def counts(self) -> StatesCounts:
        """How many documents were looked up so far."""
        return StatesCounts(*self._counts)

    @property
    def cache_bytes(self) -> int:
        """Bytes that the states in memory take."""
        return self._cache.bytes

    def find(self, digests: Sequence[bytes], *, owner: str = "") -> Found:
        """What is known of each document. It never raises: what cannot be read is new, and a warning says so once.

        `owner`: whose memory is looked into; the store is everybody's.
        """
        contents = self._cache.find([(owner, digest) for digest in digests])
        cached = len(contents) - contents.count(None)
        prepared = 0
        if self._store is not None and cached < len(contents):
            known = list(zip(digests, contents, strict=True))
            stored = self._store.find({digest for digest, content in known if content is None})
            self._cache.keep(((owner, digest), content) for digest, content in stored.items())
            contents = [stored.get(digest) if content is None else content for digest, content in known]
            prepared = len(contents) - contents.count(None) - cached
        with self._lock.hold():
            for place, count in enumerate((prepared, cached, len(contents) - prepared - cached)):
                self._counts[place] += count
        return Found([None if content is None else self._states(content) for content in contents], prepared, cached)

    def keep(self, digests: Sequence[bytes], states: Sequence[NDArray[np.uint8]], *, owner: str = "") -> None:
        """Keeps a copy of the states uint8[tokens, size] of each document in memory, as far as there is room."""
        self._cache.keep(
            ((owner, digest), np.ascontiguousarray(each, np.uint8).tobytes()) for digest, each in zip(digests, states, strict=True)
        )

    def forget(self) -> None:
        """Drops what is in memory, whoever owns it; the store stays."""
        self._cache.clear()

    def close(self) -> None:
        """Frees the memory and closes the store: after it, all documents are new."""
        self._cache.close()
        if self._store is not None:
            self._store.close()

    def _states(self, content: bytes) -> NDArray[np.uint8]:
        return np.frombuffer(content, np.uint8).reshape(-1, self.size)


def _open(store: Path, identity: str, size: int) -> StoreReader:
    from resift.states.reader import StoreReader  # sqlite3 takes time to import, and a Python may lack it

    if not store.is_dir():
        raise InputError(f"the store {path_text(store)} is not a folder; expected one that `resift prepare` fills, or will fill")
    return StoreReader(store, identity, size)
