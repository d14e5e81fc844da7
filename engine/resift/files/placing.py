"""Placing: files and folders that appear at their place only when they are complete, even if the process or the machine stops.

The content is on the disk before the file is renamed, and the rename is on the disk before anything relies on it. Without the
first, a power cut can leave a file of the right name without its content; without the second, it can leave no file
(https://man7.org/linux/man-pages/man2/fsync.2.html).
"""

from __future__ import annotations

import errno
import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NO_FOLDER_SYNC = {errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.EPERM}
"""Errors of systems and file systems that cannot write a folder to the disk."""
HELD = {5, 32, 33}
"""Errors of Windows where another program has a file open, or one in the folder: ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION and
ERROR_LOCK_VIOLATION. Virus scanners and indexers hold a new file for a moment."""
WAITS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds between attempts to rename what another program holds."""


def place(fresh: Path, target: Path) -> None:
    """Moves a file, or a folder with its files, to `target`, replacing a file that is there. Raises OSError."""
    for path in sorted(fresh.rglob("*")) if fresh.is_dir() else [fresh]:
        if path.is_file():
            flush(path)
    rename(fresh, target)
    _flush_folder(target.parent)


def rename(source: Path, target: Path) -> None:
    """Renames a file or a folder, replacing a file that is there; tries again while another program holds it, as Windows lets it.

    Raises OSError, whose message says so if another program still holds it after the last of WAITS.
    """
    for seconds in (*WAITS, None):
        try:
            source.replace(target)
        except PermissionError as error:
            if getattr(error, "winerror", None) not in HELD:
                raise
            if seconds is None:
                said = "another program has it open, or a file in it: close it there, then try again"
                raise PermissionError(error.errno, said, os.fspath(target)) from error
            time.sleep(seconds)
        else:
            return


def flush(path: Path) -> None:
    """Waits until the content of a file is on the disk. Raises OSError."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    if sys.platform == "win32":  # folders cannot be opened there
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
