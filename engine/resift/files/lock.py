"""Lock: a file that one process at a time can hold."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from resift.errors import OutputError

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path


if sys.platform == "win32":
    import msvcrt

    LOCKED_BYTE = (1 << 31) - 1
    """Position of the byte that is locked: Windows makes locked bytes unreadable, so it lies beyond the content. The C runtime's
    positions have 31 bits."""

    def _lock(file: FileIO) -> None:
        file.seek(LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: FileIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def hold(path: Path, target: str = "OUT") -> FileIO:
    """Opens `path` for reading and appending, creating it if it is missing, and locks it until it is closed or the process ends.

    The holder may delete the file while holding the lock: a process that opened the file in the meantime notices that `path` names
    another file, or none, and starts over. `target`: what the lock guards, for messages. Raises OutputError if another process
    holds the lock or the file system has no locks, and OSError if the file cannot be opened.
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
                f"another process is writing this {target} (it holds {path}): wait for it, or choose another {target}"
            ) from error
        except OSError as error:
            _forget(file, path)
            raise OutputError(
                f"{path} cannot be locked ({error.strerror}), so two runs could write {target} at once; "
                "choose one on a file system that supports locks"
            ) from error
        file.close()


def delete(file: FileIO, path: Path) -> None:
    """Deletes the locked file, unless `path` names another file by now, and releases the lock."""
    is_unchanged = is_at(file, path)
    if sys.platform == "win32":  # an open file cannot be deleted there: it stays if another process has opened it meanwhile
        file.close()
        with suppress(PermissionError):
            if is_unchanged:
                path.unlink(missing_ok=True)
    else:
        if is_unchanged:
            path.unlink(missing_ok=True)
        file.close()


def is_at(file: FileIO, path: Path) -> bool:
    """Whether `path` still names the open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _forget(file: FileIO, path: Path) -> None:
    """Closes a file that cannot be locked. Deletes it if it is empty, as this process has then just created it."""
    is_empty = not os.fstat(file.fileno()).st_size
    file.close()
    if is_empty:
        path.unlink(missing_ok=True)
