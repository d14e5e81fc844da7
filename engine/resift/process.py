"""The process: one hook resets objects in a forked child, and another closes objects before the interpreter ends.

Only the thread that forks goes on in the child: other threads, the locks that they hold, onnxruntime's sessions and the thread
pools of libraries stay with the parent (https://docs.python.org/3/library/os.html#os.register_at_fork). At exit, a daemon thread
that is still in native code while the interpreter shuts down can crash the process.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from resift.errors import InferenceError, shortage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


Owner = TypeVar("Owner")


class Renewable(Protocol):
    """An object that holds something a forked child cannot use."""

    def begin_anew(self) -> None:
        """Drops what the child cannot use. Called in the child before any other code of resift."""


class Pausable(Protocol):
    """An object whose threads may be in native code that holds locks, which would stay held in a forked child."""

    def pause(self) -> None:
        """Waits until no thread is in that code, and lets none begin."""

    def go_on(self) -> None:
        """Ends the pause. Called in the parent; in the child, the object must be Renewable, too."""


class Closable(Protocol):
    """An object that has threads."""

    def close(self) -> None:
        """Tells the threads to end."""

    def join(self) -> None:
        """Waits until the threads have ended."""


class Lock:
    """A lock that is free in a forked child, whichever thread of the parent held it."""

    def __init__(self) -> None:
        self.begin_anew()
        renew_in_children(self)

    def begin_anew(self) -> None:
        """Replaces the lock by a free one."""
        self._lock = threading.Lock()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Holds the lock during the block."""
        with self._lock:
            yield


def start_thread(target: Callable[..., None], name: str, *arguments: Any) -> threading.Thread:
    """Starts a daemon thread that runs `target`. Raises InferenceError if the system starts no more threads."""
    thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        if short := shortage(error):
            raise InferenceError(short) from error
        raise
    return thread


def renew_in_children(owner: Renewable) -> None:
    """Has `owner.begin_anew` called in every forked child, for as long as `owner` lives."""
    _renewable.add(owner)


def pause_for_forks(owner: Pausable) -> None:
    """Has `owner` paused while the process forks, for as long as `owner` lives."""
    _pausable.add(owner)


def close_at_exit(owner: Closable) -> None:
    """Has `owner` closed and joined before the interpreter ends, if it still lives then."""
    _closable.add(owner)


_renewable: weakref.WeakSet[Renewable] = weakref.WeakSet()
_pausable: weakref.WeakSet[Pausable] = weakref.WeakSet()
_paused: list[Pausable] = []
_closable: weakref.WeakSet[Closable] = weakref.WeakSet()
is_forked = False
"""Whether this process was forked from one that had imported resift."""


def _living(owners: weakref.WeakSet[Owner]) -> list[Owner]:
    """The owners that live now. Other threads may add some meanwhile, which ends an iteration of a WeakSet with RuntimeError."""
    while True:
        with suppress(RuntimeError):
            return list(owners)


def _pause() -> None:
    for owner in _living(_pausable):
        owner.pause()
        _paused.append(owner)


def _go_on() -> None:
    while _paused:
        _paused.pop().go_on()


def _begin_anew() -> None:
    global is_forked  # noqa: PLW0603 - a property of the process
    is_forked = True
    _paused.clear()
    for owner in _living(_renewable):
        owner.begin_anew()


def _close() -> None:
    living = _living(_closable)
    for owner in living:
        owner.close()
    for owner in living:
        owner.join()


atexit.register(_close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_pause, after_in_parent=_go_on, after_in_child=_begin_anew)
