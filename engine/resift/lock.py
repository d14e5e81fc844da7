"""A file that one process at a time may hold."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from resift.errors import OutputError

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path


if sys.platform == "win32":
    import msvcrt

    BEYOND = (1 << 31) - 1
    """The byte that is locked: Windows lets nobody read what is locked, and the content is to stay readable. The C runtime's
    positions have 31 bits."""

    def _lock(file: FileIO) -> None:
        file.seek(BEYOND)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: FileIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def hold(path: Path) -> FileIO:
    """Opens `path` to read and append, creates it if it is missing, and locks it until it is closed or the process ends.

    The holder may delete the file while it holds it: a process that had opened it meanwhile finds another file, or none, under
    the path and begins again with that. Raises OutputError if another process holds it or the file system has no locks, and
    OSError if it cannot be opened.
    """
    while True:
        file = path.open("a+b", buffering=0)
        try:
            _lock(file)
            if is_at(file, path):
                return file
        except (BlockingIOError, PermissionError) as error:
            file.close()
            raise OutputError(
                f"another process is writing this OUT (it holds {path}): wait for it, or choose another OUT"
            ) from error
        except OSError as error:
            _forget(file, path)
            raise OutputError(
                f"{path} cannot be locked ({error.strerror}): nothing would keep two runs apart; "
                "choose an OUT on a file system that has locks"
            ) from error
        file.close()


def delete(file: FileIO, path: Path) -> None:
    """Deletes the file that is held, unless `path` is another file by now, and lets go of it."""
    is_own = is_at(file, path)
    if sys.platform == "win32":  # which deletes no open file; if another process has opened it since, it stays for that one
        from contextlib import suppress

        file.close()
        with suppress(PermissionError):
            if is_own:
                path.unlink(missing_ok=True)
    else:
        if is_own:
            path.unlink(missing_ok=True)
        file.close()


def is_at(file: FileIO, path: Path) -> bool:
    """Whether `path` still is the file that is open."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _forget(file: FileIO, path: Path) -> None:
    """Where nobody can lock it, an empty file is what this process has just created."""
    is_empty = not os.fstat(file.fileno()).st_size
    file.close()
    if is_empty:
        path.unlink(missing_ok=True)
