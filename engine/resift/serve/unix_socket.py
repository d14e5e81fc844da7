"""Unix socket: a listening socket at a path of the file system."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from resift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def listening(path: str, backlog: int) -> Iterator[socket.socket]:
    """A socket that listens at `path`, with the permissions of the umask; its file is removed at the end.

    A file that a server has left is replaced. Raises InputError if it cannot listen there, as where another server does.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise InputError(f"cannot listen on {path}: this system has no Unix sockets; use --host and --port")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        try:
            _remove_left_over(path)
            made.bind(path)
            own = _identity(path)
            made.listen(backlog)
        except (OSError, ValueError) as error:
            raise InputError(f"cannot listen on {path!r:.200}: {getattr(error, 'strerror', None) or error}") from error
        try:
            yield made
        finally:
            if _identity(path) == own:  # not that of a server which has taken its place
                os.unlink(path)  # noqa: PTH108 - a path as it was given


def _identity(path: str) -> tuple[int, int, int] | None:
    """What tells a file from another one that takes its place; None if there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a path as it was given
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _remove_left_over(path: str) -> None:
    """Removes a socket's file on which no one listens."""
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)  # noqa: PTH116 - a path as it was given
    except FileNotFoundError:
        return
    if is_socket:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            try:
                asking.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)  # noqa: PTH108 - a path as it was given
