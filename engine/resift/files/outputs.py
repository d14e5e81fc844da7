"""Outputs: files that a command writes at its end, each complete or not at all, and that are checked before it begins."""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from resift.errors import OutputError
from resift.files.names import is_file_name, path_text
from resift.files.placing import place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


def check_outputs(
    outputs: Sequence[Path], inputs: Iterable[str | os.PathLike[str]], *, overwrite: bool, closed: Callable[[Path], str | None]
) -> None:
    """Raises OutputError if one of `outputs` cannot be written, is one of `inputs` or a file in one of them, or is named twice.

    `closed` returns why no file may be added to a folder, or None if one may. Without `overwrite`, no output may exist yet. A file
    is created next to each output and removed again; nothing else is changed.
    """
    input_files = [file for source in inputs for file in _files(Path(source))]
    targets = [_target(path) for path in outputs]
    for number, (path, target) in enumerate(zip(outputs, targets, strict=True)):
        name = path_text(path)
        if target in targets[:number]:
            raise OutputError(f"{name} is named for two outputs; expected a file for each")
        if not target.parent.is_dir():
            raise OutputError(
                f"{name} cannot be written: {path_text(target.parent)} is not a folder; create it, or name another file"
            )
        if reason := closed(target.parent):
            raise OutputError(f"{name} {reason}; name another file")
        try:
            if os.path.lexists(target) and not target.is_file():
                raise OutputError(f"{name} is not a regular file; name another one")
            if target.exists() and any(target.samefile(file) for file in input_files):
                raise OutputError(f"{name} is also an input; name another file")
            if target.exists() and not overwrite:
                raise OutputError(f"{name} already exists; choose another name, or use --overwrite")
            trial = _partial_path(target)
            trial.open("xb").close()
            trial.unlink()
        except OSError as error:
            raise OutputError(f"{name} cannot be written: {error.strerror or error}; name another file") from error


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file at once, as `writing_whole` does."""
    with writing_whole(path) as file:
        file.write(content)


@contextmanager
def writing_whole(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write, which appears at the end of the block, and then replaces an earlier one; not at all if the block fails.

    A symbolic link's target is written. The block may close the file. Raises OutputError if it cannot be written, or if the path is
    something other than a regular file.
    """
    target = _target(path)
    name = path_text(Path(path))
    if os.path.lexists(target) and not target.is_file():
        raise OutputError(f"{name} is not a regular file; choose another name")
    partial = _partial_path(target)
    try:
        with partial.open("xb") as file:
            yield file
        place(partial, target)
    except OSError as error:
        raise OutputError(f"{name} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _target(path: str | os.PathLike[str]) -> Path:
    """The path with symbolic links followed. Raises OutputError if no file can have it."""
    if not is_file_name(path):
        raise OutputError(f"{os.fspath(path)!r} is not a file name; expected one")
    return Path(os.path.realpath(path))


def _partial_path(target: Path) -> Path:
    """A path of its own for an output until it is complete; its name is short enough wherever the target's own name is.

    The process's number would not do: in a container, it is the same for each process, also for one that was killed.
    """
    return target.with_name(f".{target.name[:50]}.{secrets.token_hex(8)}.partial")


def _files(source: Path) -> list[Path]:
    """`source`, or the files in it and in its folders; nothing if it does not exist (reading it reports that)."""
    if source.is_dir():
        return [file for pattern in ("*", "*/*") for file in source.glob(pattern) if file.is_file()]
    return [source] if source.exists() else []
