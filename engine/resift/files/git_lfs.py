"""Git LFS: recognizes a pointer, the text that a clone without Git LFS holds in place of a large file.

https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

START = b"version https://git-lfs.github.com/spec/"
"""The first bytes of every pointer."""
DESCRIPTION = "a Git LFS pointer, not the file itself, which was not downloaded; fetch it with `git lfs pull`"


def is_pointer(path: Path) -> bool:
    """Whether the file is a pointer; False if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(START)) == START
    except OSError:
        return False
