"""Outputs: files that a command writes whole or not at all."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from resift.artifact import path_text
from resift.errors import OutputError
from resift.manifest import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


def check_outputs(outputs: Sequence[Path], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Raises OutputError if one of `outputs` cannot be written, is one of `inputs` or a file in one of them, or is named twice.

    A file is created next to each and removed again; nothing else is changed.
    """
    read = [file for source in inputs for file in _files(Path(source))]
    targets = [Path(os.path.realpath(path)) for path in outputs]
    for number, (path, target) in enumerate(zip(outputs, targets, strict=True)):
        name = path_text(path)
        if target in targets[:number]:
            raise OutputError(f"{name} is named for two outputs; expected a file for each")
        if not target.parent.is_dir():
            raise OutputError(
                f"{name} cannot be written: {path_text(target.parent)} is not a folder; create it, or name another file"
            )
        if (target.parent / MANIFEST).is_file():
            raise OutputError(f"{name} would be part of an artifact, which holds only what its manifest lists; name another file")
        try:
            if os.path.lexists(target) and not target.is_file():
                raise OutputError(f"{name} is not a regular file; name another one")
            if target.exists() and any(target.samefile(file) for file in read):
                raise OutputError(f"{name} is also an input; name another file")
            with _beside(target).open("xb"):
                pass
            _beside(target).unlink()
        except OSError as error:
            raise OutputError(f"{name} cannot be written: {error.strerror or error}; name another file") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a name next to `path` to write to; what was written there replaces `path` at the end, or is deleted after an error.

    If `path` is a symbolic link, its target is replaced. Raises OutputError if something cannot be written.
    """
    target = Path(os.path.realpath(path))
    partial = _beside(target)
    try:
        yield partial
        partial.replace(target)
    except OSError as error:
        raise OutputError(f"{path_text(path)} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _beside(target: Path) -> Path:
    return target.with_name(f"{target.name}.{os.getpid()}.partial")


def _files(source: Path) -> list[Path]:
    """`source`, or the files in it if it is a folder; nothing if it does not exist (reading it reports that)."""
    if source.is_dir():
        return [file for file in source.rglob("*") if file.is_file()]
    return [source] if source.exists() else []
