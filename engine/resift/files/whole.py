"""Files that are read whole: of limited size, as a device or a pipe may have no end."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from resift.errors import InputError

TOML_LIMIT = 1 << 16
"""Maximum size of a settings file in bytes; `resift tune` writes less than 1 kB."""


def read_whole(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a file. Raises OSError if it cannot be read or has more than `limit` bytes."""
    with Path(path).open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit} bytes", os.fspath(path))
    return content


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a settings file in TOML (https://toml.io/en/v1.0.0). Raises InputError that names the file."""
    import tomllib

    try:
        content = read_whole(path, TOML_LIMIT)
    except (OSError, ValueError) as error:  # a ValueError: no file can have that name
        raise InputError(f"the settings file {path!s:.200} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 at byte {error.start}; expected a settings file in TOML") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not TOML: {error}; expected a settings file in TOML") from error
