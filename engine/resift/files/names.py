"""Names of files: whether a file can have a name, and a name as text.

Functions that open files report an impossible name with a ValueError, if at all.
"""

from __future__ import annotations

import os


def is_file_name(path: str | os.PathLike[str]) -> bool:
    """Whether a file can have that name: not empty, without null characters, and only characters of the file system's encoding."""
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return bool(encoded) and b"\0" not in encoded


def path_text(path: str | os.PathLike[str]) -> str:
    r"""A path as text that JSON can hold: bytes of its name that are not UTF-8 become \xNN."""
    return os.fsencode(path).decode(errors="backslashreplace")
