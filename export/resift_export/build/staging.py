"""staging: builds a folder next to its destination and moves it there once it is complete.

After an interruption at any moment, there is one complete artifact.

While an export to OUT runs, the workspace `.OUT.export` next to it holds the new folder and a lock; OUT itself is touched only at
the end. An artifact to be replaced is first renamed to `OUT.replaced`, where the user can see it if the process is killed between
the two renames; the next export to OUT moves it back. The lock ends with its process:
https://man7.org/linux/man-pages/man2/flock.2.html
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from resift.artifact.folder import MANIFEST_LIMIT
from resift.artifact.manifest import MANIFEST
from resift.errors import ExportError, OutputError
from resift.files import lock
from resift.files.names import is_file_name
from resift.files.placing import place, rename

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from io import FileIO

LOCK, NEW, OLD, SCRATCH, REPLACING = "lock", "new", "old", "scratch", "replacing"
"""Entries of the workspace; the last exists while an artifact is being replaced."""


@contextmanager
def staged(out: Path, *, overwrite: bool, sources: Sequence[Path] = ()) -> Iterator[tuple[Path, Path]]:
    """Yields a new folder, which is moved to `out` when the block ends and removed if the block fails, and a scratch folder.

    Both lie next to `out`. `sources` are the folders of checkpoints. Raises ExportError if `out` cannot be written, is being
    written by another export, is, contains or is inside a checkpoint, or exists and is not an artifact that may be replaced.
    """
    destination = _destination(out, sources)
    workspace = destination.with_name(f".{destination.name}.export")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        lock_file = _lock(workspace)
    except OSError as error:
        raise ExportError(f"cannot write next to {out}: {error.strerror}") from error
    with lock_file:
        _recover(workspace, destination)
        try:
            _check_replaceable(destination, out, overwrite=overwrite)
            folder, scratch = workspace / NEW, workspace / SCRATCH
            folder.mkdir()
            scratch.mkdir()
            yield folder, scratch
            _check_replaceable(destination, out, overwrite=overwrite)
            _move_into_place(workspace, destination, out)
        finally:
            _recover(workspace, destination)
            lock.delete(lock_file, workspace / LOCK)
            with suppress(OSError):  # another export may have started and may hold a lock in it
                workspace.rmdir()


def _destination(out: Path, sources: Sequence[Path]) -> Path:
    """The path of `out` with symbolic links resolved. Raises ExportError if no artifact may be written there."""
    if not is_file_name(out):
        raise ExportError(f"{str(out)!r} is not a folder name; expected one")
    destination = Path(os.path.realpath(out))
    current = Path.cwd()
    if os.path.ismount(destination) or current.is_relative_to(destination):
        raise ExportError(f"cannot write {out}: it is or contains the current folder, or is a mount point; choose another folder")
    if os.path.lexists(destination) and not destination.is_dir():
        raise ExportError(f"{out} already exists and is not a folder; choose another name")
    for source in sources:
        checkpoint = Path(os.path.realpath(source))
        if checkpoint.is_relative_to(destination) or destination.is_relative_to(checkpoint):
            raise ExportError(f"{out} is, contains or is inside the checkpoint {source}; choose a folder outside it")
    return destination


def _lock(workspace: Path) -> FileIO:
    """Creates `workspace` and takes its lock. Raises ExportError while another export holds it, OSError if it cannot be created."""
    while True:
        workspace.mkdir(exist_ok=True)
        try:
            return lock.hold(workspace / LOCK)
        except FileNotFoundError:
            continue  # its previous holder has just ended and removed `workspace`
        except OutputError as error:
            raise ExportError(str(error)) from error


def _recover(workspace: Path, destination: Path) -> None:
    """Empties the workspace of this export, or of one that was killed, and completes or reverts a replacement that it started."""
    if foreign := {entry.name for entry in workspace.iterdir()} - {LOCK, NEW, OLD, SCRATCH, REPLACING}:
        raise ExportError(f"{workspace} contains {', '.join(sorted(foreign))}, which no export put there; move it away")
    if (workspace / REPLACING).exists():
        old = _backup_of(destination)
        if not destination.exists() and old.exists():
            rename(old, destination)
        elif old.exists() and not _objections(old):
            rename(old, workspace / OLD)
        (workspace / REPLACING).unlink()
    for folder in (workspace / NEW, workspace / OLD, workspace / SCRATCH):
        if folder.exists():
            shutil.rmtree(folder)


def _check_replaceable(destination: Path, out: Path, *, overwrite: bool) -> None:
    """Raises ExportError unless `destination` does not exist, or is an artifact that may be replaced and holds no other files."""
    if not destination.exists():
        return
    if not overwrite:
        raise ExportError(f"{out} already exists; choose another folder, or use --overwrite")
    if objections := _objections(destination):
        raise ExportError(
            f"{out} already exists and is not a plain artifact: {objections[0]}; move it away, or choose another folder"
        )
    if _backup_of(destination).exists():
        raise ExportError(
            f"{_backup_of(destination)} already exists, but {out} must be kept there while it is replaced; move it away first"
        )


def _objections(destination: Path) -> list[str]:
    """Reasons not to replace `destination`: it has no manifest (of any format), or has entries that its manifest does not name."""
    named = _manifest_files(destination / MANIFEST)
    if not named:
        return [f"it has no {MANIFEST}"]
    entries = sorted(os.scandir(destination), key=lambda entry: entry.name)
    return [
        f"its {MANIFEST} does not name {entry.name}"
        for entry in entries
        if entry.name not in {MANIFEST, *named} or entry.is_dir(follow_symlinks=False)
    ]


def _manifest_files(manifest: Path) -> set[str]:
    """The names under `files` in a manifest of any format; empty if the file is not a manifest."""
    try:
        if manifest.is_symlink() or manifest.stat().st_size > MANIFEST_LIMIT:
            return set()
        content = json.loads(manifest.read_bytes())
    except (OSError, ValueError, RecursionError):
        return set()
    if not isinstance(content, dict) or not isinstance(content.get("format"), int) or not isinstance(content.get("files"), dict):
        return set()
    return set(content["files"])


def _backup_of(destination: Path) -> Path:
    return destination.with_name(f"{destination.name}.replaced")


def _move_into_place(workspace: Path, destination: Path, out: Path) -> None:
    """Moves the new folder to `destination`. Afterwards, `_recover` removes the old one, or moves it back if the move failed."""
    try:
        if destination.exists():
            (workspace / REPLACING).touch()
            rename(destination, _backup_of(destination))
        place(workspace / NEW, destination)
    except OSError as error:
        raise ExportError(f"cannot write {out}: {error.strerror}") from error
