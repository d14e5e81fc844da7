"""Names of files: whether a file can have one, and as text. What opens files says the former with a ValueError, if at all."""

from __future__ import annotations

import os


def is_file_name(path: str | os.PathLike[str]) -> bool:
    """Whether a file can have that name: not empty, no null character, nothing that the file system's encoding cannot hold."""
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return bool(encoded) and b"\0" not in encoded


def path_text(path: str | os.PathLike[str]) -> str:
    r"""A path as text that JSON can hold: bytes of its name that are not UTF-8 become \xNN."""
    return os.fsencode(path).decode(errors="backslashreplace")
