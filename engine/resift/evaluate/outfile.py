"""Output files of an evaluation: refused before the work if they must not be written, and never left half written."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from resift.errors import OutputError
from resift.manifest import MANIFEST, TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def check_out(path: Path, *, overwrite: bool, inputs: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Raises OutputError if `path` cannot or must not be written.

    It must be a regular file or nothing, none of `inputs`, outside every artifact's folder, and, unless `overwrite`, absent.
    """
    target = Path(os.path.realpath(path))
    folder = target.parent
    with _named(path):
        found = target.stat() if target.exists() else None
    if found and not stat.S_ISREG(found.st_mode):
        raise OutputError(f"{path} is not a regular file; choose another name")
    if found and any(os.path.samestat(found, Path(name).stat()) for name in inputs if Path(name).exists()):
        raise OutputError(f"{path} is also an input of this command; choose another name")
    if found and not overwrite:
        raise OutputError(f"{path} already exists; choose another name, or use --overwrite")
    if not folder.is_dir():
        raise OutputError(f"{folder} is not a folder; create it, or choose another name")
    for parent in target.parents:
        if (parent / MANIFEST).exists() and (parent / TOKENIZER).exists():
            raise OutputError(
                f"{parent} is an artifact, which holds nothing but its own files; choose another place for {path.name}"
            )
    with _named(path):
        tempfile.TemporaryFile(dir=folder).close()  # the folder can be written to


def write_out(path: Path, content: bytes, *, overwrite: bool) -> None:
    """Writes a file under another name beside `path` and renames it; a symbolic link stays, and its target is written.

    Raises OutputError if it cannot be written, or appeared meanwhile and `overwrite` is false.
    """
    target = Path(os.path.realpath(path))
    beside = target.with_name(f".{target.name[:100]}.{os.getpid()}.partial")
    with _named(path):
        try:
            with beside.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if not overwrite and target.exists():
                raise OutputError(f"{path} has appeared meanwhile; choose another name, or use --overwrite")
            beside.replace(target)
        finally:
            with suppress(FileNotFoundError):
                beside.unlink()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns an OSError into an OutputError that names the file."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
