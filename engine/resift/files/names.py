"""filenames: whether text can be the name of a file. What opens files says it otherwise: with a ValueError, if at all."""

from __future__ import annotations

import os


def is_file_name(path: str | os.PathLike[str]) -> bool:
    """Whether a file can have that name: not empty, no null character, nothing that the file system's encoding cannot hold."""
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return bool(encoded) and b"\0" not in encoded
