"""aside: builds a folder next to its destination and moves it there once complete; any interruption leaves one complete artifact.

While an export to OUT runs, `.OUT.export` next to it holds the new folder and a lock; OUT itself is touched only at the end. An
artifact to be replaced is first renamed to `OUT.replaced`, where the user can see it if the process is killed between the two
renames; the next export to OUT moves it back. The lock ends with its process: https://man7.org/linux/man-pages/man2/flock.2.html
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
from resift.files.placing import place as put

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from io import FileIO

LOCK, NEW, OLD, SCRATCH, REPLACING = "lock", "new", "old", "scratch", "replacing"
"""What `.OUT.export` may hold; the last exists while an artifact is being replaced."""


@contextmanager
def aside(out: Path, *, overwrite: bool, sources: Sequence[Path] = ()) -> Iterator[tuple[Path, Path]]:
    """A new folder next to `out` that is moved to `out` when the block ends, and removed if the block fails; and one for scratch.

    `sources` are the folders of checkpoints. Raises ExportError if `out` cannot be written, is being written by another export, is
    a checkpoint, inside it or around it, or exists and is not an artifact that may be replaced.
    """
    place = _place(out, sources)
    home = place.with_name(f".{place.name}.export")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        held = _lock(home)
    except OSError as error:
        raise ExportError(f"cannot write next to {out}: {error.strerror}") from error
    with held:
        _settle(home, place)
        try:
            _check_replaceable(place, out, overwrite=overwrite)
            fresh, scratch = home / NEW, home / SCRATCH
            fresh.mkdir()
            scratch.mkdir()
            yield fresh, scratch
            _check_replaceable(place, out, overwrite=overwrite)
            _put_in_place(home, place, out)
        finally:
            _settle(home, place)
            lock.delete(held, home / LOCK)
            with suppress(OSError):  # an export that has started since holds a lock in it
                home.rmdir()


def _place(out: Path, sources: Sequence[Path]) -> Path:
    """The path of `out` with symbolic links resolved."""
    if not is_file_name(out):
        raise ExportError(f"{str(out)!r} is not a folder name; expected one")
    place = Path(os.path.realpath(out))
    current = Path.cwd()
    if os.path.ismount(place) or current.is_relative_to(place):
        raise ExportError(f"cannot write {out}: it is or contains the current folder, or is a mount point; choose another folder")
    if os.path.lexists(place) and not place.is_dir():
        raise ExportError(f"{out} already exists and is not a folder; choose another name")
    for source in sources:
        checkpoint = Path(os.path.realpath(source))
        if checkpoint.is_relative_to(place) or place.is_relative_to(checkpoint):
            raise ExportError(f"{out} is, contains or is inside the checkpoint {source}; choose a folder outside it")
    return place


def _lock(home: Path) -> FileIO:
    """Creates `home` and takes its lock. Raises ExportError while another export holds it, OSError if it cannot be created."""
    while True:
        home.mkdir(exist_ok=True)
        try:
            return lock.hold(home / LOCK)
        except FileNotFoundError:
            continue  # its previous holder has just ended and removed `home`
        except OutputError as error:
            raise ExportError(str(error)) from error


def _settle(home: Path, place: Path) -> None:
    """Removes what this export, or one that was killed, left in `home`, and completes or reverts a replacement it had started."""
    if foreign := {entry.name for entry in home.iterdir()} - {LOCK, NEW, OLD, SCRATCH, REPLACING}:
        raise ExportError(f"{home} contains {', '.join(sorted(foreign))}, which no export put there; move it away")
    if (home / REPLACING).exists():
        old = _replaced(place)
        if not place.exists() and old.exists():
            old.rename(place)
        elif old.exists() and not _unnamed(old):
            old.rename(home / OLD)
        (home / REPLACING).unlink()
    for folder in (home / NEW, home / OLD, home / SCRATCH):
        if folder.exists():
            shutil.rmtree(folder)


def _check_replaceable(place: Path, out: Path, *, overwrite: bool) -> None:
    """Raises ExportError unless `place` is free, or is an artifact that may be replaced and contains nothing else."""
    if not place.exists():
        return
    if not overwrite:
        raise ExportError(f"{out} already exists; choose another folder, or use --overwrite")
    if extra := _unnamed(place):
        raise ExportError(f"{out} already exists and is not a plain artifact: {extra[0]}; move it away, or choose another folder")
    if _replaced(place).exists():
        raise ExportError(
            f"{_replaced(place)} already exists, but {out} must be kept there while it is replaced; move it away first"
        )


def _unnamed(place: Path) -> list[str]:
    """Why `place` is not just an artifact: it has no manifest (of any format), or entries that are not files named in it."""
    named = _listed(place / MANIFEST)
    if not named:
        return [f"it has no {MANIFEST}"]
    entries = sorted(os.scandir(place), key=lambda entry: entry.name)
    return [
        f"its {MANIFEST} does not name {entry.name}"
        for entry in entries
        if entry.name not in {MANIFEST, *named} or entry.is_dir(follow_symlinks=False)
    ]


def _listed(manifest: Path) -> set[str]:
    """The names under `files` in a manifest of any format; empty if this is not a manifest."""
    try:
        if manifest.is_symlink() or manifest.stat().st_size > MANIFEST_LIMIT:
            return set()
        found = json.loads(manifest.read_bytes())
    except (OSError, ValueError, RecursionError):
        return set()
    if not isinstance(found, dict) or not isinstance(found.get("format"), int) or not isinstance(found.get("files"), dict):
        return set()
    return set(found["files"])


def _replaced(place: Path) -> Path:
    return place.with_name(f"{place.name}.replaced")


def _put_in_place(home: Path, place: Path, out: Path) -> None:
    """Moves the new folder to `place`. `_settle` then removes the old one, or moves it back if this failed."""
    try:
        if place.exists():
            (home / REPLACING).touch()
            place.rename(_replaced(place))
        put(home / NEW, place)
    except OSError as error:
        raise ExportError(f"cannot write {out}: {error.strerror}") from error
