"""aside: a folder made beside its place and put there when whole; whatever interrupts it, one whole artifact is left.

While an export to OUT runs there is `.OUT.export` beside it, which holds the new folder and a lock; OUT itself is touched at the
end only. An artifact that is replaced is first renamed to `OUT.replaced`, in sight of the user should a kill come between the two
renames; the next export to OUT puts it back. A lock ends with its process: https://man7.org/linux/man-pages/man2/flock.2.html
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from resift import lock
from resift.artifact import MANIFEST_LIMIT
from resift.errors import ExportError, OutputError
from resift.manifest import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO

LOCK, NEW, OLD, REPLACING = "lock", "new", "old", "replacing"
"""What `.OUT.export` may hold; the last is there while an artifact is being replaced."""


@contextmanager
def aside(out: Path, *, overwrite: bool, source: Path | None = None) -> Iterator[Path]:
    """A new folder beside `out` that takes its place when the block ends, and is removed if it fails.

    `source` is the checkpoint's folder, if it is one. Raises ExportError if `out` cannot be written, is being written by another
    export, lies in the checkpoint or around it, or is there and is not an artifact that may be replaced.
    """
    place = _place(out, source)
    home = place.with_name(f".{place.name}.export")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        held = _lock(home)
    except OSError as error:
        raise ExportError(f"cannot write beside {out}: {error.strerror}") from error
    with held:
        _settle(home, place)
        try:
            _check_replaceable(place, out, overwrite=overwrite)
            fresh = home / NEW
            fresh.mkdir()
            yield fresh
            _check_replaceable(place, out, overwrite=overwrite)
            _put_in_place(home, place, out)
        finally:
            _settle(home, place)
            lock.delete(held, home / LOCK)
            with suppress(OSError):  # an export that has begun since holds a lock in there
                home.rmdir()


def _place(out: Path, source: Path | None) -> Path:
    """Where `out` leads, links followed."""
    place = Path(os.path.realpath(out))
    current = Path.cwd()
    if os.path.ismount(place) or current.is_relative_to(place):
        raise ExportError(f"cannot write {out}: it is the current folder, holds it, or is a mount point; name a folder of its own")
    if os.path.lexists(place) and not place.is_dir():
        raise ExportError(f"{out} exists already and is no folder; choose another name")
    if source is not None:
        checkpoint = Path(os.path.realpath(source))
        if checkpoint.is_relative_to(place) or place.is_relative_to(checkpoint):
            raise ExportError(f"{out} is the checkpoint {source}, lies in it or holds it; choose a folder apart from it")
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
    """Removes what an export has left in `home`, this one or one that was killed, and ends a replacement that it had begun."""
    if foreign := {entry.name for entry in home.iterdir()} - {LOCK, NEW, OLD, REPLACING}:
        raise ExportError(f"{home} holds {', '.join(sorted(foreign))}, which no export has left; move it away")
    if (home / REPLACING).exists():
        old = _replaced(place)
        if not place.exists() and old.exists():
            old.rename(place)
        elif old.exists() and not _unnamed(old):
            old.rename(home / OLD)
        (home / REPLACING).unlink()
    for folder in (home / NEW, home / OLD):
        if folder.exists():
            shutil.rmtree(folder)


def _check_replaceable(place: Path, out: Path, *, overwrite: bool) -> None:
    """Raises ExportError unless `place` is free, or an artifact that is to be replaced and holds nothing else."""
    if not place.exists():
        return
    if not overwrite:
        raise ExportError(f"{out} exists already; choose another folder, or say --overwrite")
    if extra := _unnamed(place):
        raise ExportError(
            f"{out} exists already and is not an artifact alone, as {extra[0]}; move it away, or choose another folder"
        )
    if _replaced(place).exists():
        raise ExportError(f"{_replaced(place)} is where {out} is kept while it is replaced, and exists already; move it away first")


def _unnamed(place: Path) -> list[str]:
    """What `place` holds that its manifest, of any format, does not name as a file; or that it has no manifest."""
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
    """The names under `files` in a manifest of any format; none where it is no manifest."""
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
    """Leaves it to `_settle` to remove the old one, or to put it back where the new one could not take its place."""
    try:
        if place.exists():
            (home / REPLACING).touch()
            place.rename(_replaced(place))
        (home / NEW).rename(place)
    except OSError as error:
        raise ExportError(f"cannot write {out}: {error.strerror}") from error
