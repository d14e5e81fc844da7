"""Placing: files and folders that appear whole at their place, whatever ends the process or the machine.

What is moved is on the disk before it is renamed, and the rename is on the disk before anything relies on it. Without the first, a
power cut can leave a file of the right name without its content; without the second, it can leave no file
(https://man7.org/linux/man-pages/man2/fsync.2.html).
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NO_FOLDERS = {errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.EPERM}
"""Errors of systems and file systems that cannot have a folder written to the disk."""


def place(fresh: Path, target: Path) -> None:
    """Moves a file, or a folder with its files, to `target`, in place of a file that is there. Raises OSError."""
    for path in sorted(fresh.rglob("*")) if fresh.is_dir() else [fresh]:
        if path.is_file():
            flush(path)
    fresh.replace(target)
    _flush_folder(target.parent)


def flush(path: Path) -> None:
    """Waits until the content of a file is on the disk. Raises OSError."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    if sys.platform == "win32":  # where folders cannot be opened
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDERS:
            raise
