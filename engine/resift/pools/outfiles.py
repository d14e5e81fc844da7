"""OutFiles: OUT and the files beside it, and what may not be one of them."""

from __future__ import annotations

import errno
import gzip
import io
import os
import shutil
import stat
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resift.errors import OutputError
from resift.files.placing import flush, place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedIOBase

GO_ON = "finished work is kept: fix this and run the same command again to resume"
ROW_LIMIT = 1 << 16
"""Bytes read of a bad line's row to recognize it."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError into an OutputError that names the file."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; {GO_ON}") from error


def opened(path: Path) -> BufferedIOBase:
    """Opens a file for reading; a missing one reads as empty. Raises OutputError if it cannot be read."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        return io.BytesIO()
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror}") from error


def size_of(path: Path) -> int:
    """Size of a file in bytes; 0 if it is missing."""
    return path.stat().st_size if path.exists() else 0


@dataclass(frozen=True, slots=True)
class OutFiles:
    """The paths of one OUT; if it is a symbolic link, those of its target, and the link stays."""

    out: Path

    @classmethod
    def of(cls, out: Path) -> OutFiles:
        """The files of `out`, with symbolic links followed."""
        return cls(Path(os.path.realpath(out)))

    @property
    def errors(self) -> Path:
        """Bad lines of the input that OUT was made from, {"line", "reason", "content"} each."""
        return self._beside(".errors.jsonl")

    @property
    def journal(self) -> Path:
        """The job and the finished pools; it carries the lock."""
        return self._beside(".job.jsonl")

    @property
    def partial(self) -> Path:
        """Finished lines of OUT, never compressed."""
        return self._beside(".partial")

    @property
    def partial_errors(self) -> Path:
        """Bad lines found in this run."""
        return self._beside(".errors.partial")

    @property
    def packed(self) -> Path:
        """The partial file compressed, for an OUT that ends in .gz."""
        return self._beside(".packed")

    @property
    def work(self) -> tuple[Path, Path, Path]:
        """The files that belong to an unfinished job's journal."""
        return self.partial, self.partial_errors, self.packed

    def _beside(self, suffix: str) -> Path:
        return self.out.with_name(self.out.name + suffix)

    def check(self, source: str) -> None:
        """Checks every path, changes nothing, and raises OutputError if one is not a regular file of its own, or is `source`."""
        if not self.out.name:
            raise OutputError(f"OUT is {self.out}, a folder; expected a file name")
        read = _stat_of_source(source)
        for path in (self.out, self.errors, self.journal, *self.work):
            found = _stat(path)
            if found is None:
                continue
            if not stat.S_ISREG(found.st_mode):
                raise OutputError(f"{path} is {_kind(found.st_mode)}; expected a regular file or nothing: choose another OUT")
            if read and os.path.samestat(found, read):
                raise OutputError(f"{path}, which this job would write, is also its input {source}: choose another OUT")
            if path not in {self.out, self.errors} and found.st_nlink > 1:
                raise OutputError(f"{path} has a second name (a hard link), whose content would change too: remove one of them")
        if not self.out.parent.is_dir():
            raise OutputError(f"{self.out.parent} is not a folder; create it, or choose another OUT")

    def check_absent(self, *paths: Path) -> None:
        """Raises OutputError if one of `paths` exists."""
        for path in paths:
            if path.exists():
                raise OutputError(f"{path} already exists; choose another OUT, or use --overwrite")

    def check_errors(self) -> None:
        """Raises OutputError if OUT.errors.jsonl exists and does not begin with a bad line of a job."""
        with opened(self.errors) as file:
            row = file.readline(ROW_LIMIT)
        if row and not (row.startswith(b'{"line":') and b'"reason":' in row):
            raise OutputError(f"{self.errors} would be replaced, but was not written by a job: move it away, or choose another OUT")

    def place(self) -> None:
        """Moves the bad lines and OUT into place. If it is interrupted anywhere, it can be run again from the start.

        OUT is in place once there is neither a partial nor a packed file.
        """
        with writing(self.errors):
            if self.partial_errors.exists():
                place(self.partial_errors, self.errors)
            else:
                self.errors.unlink(missing_ok=True)
        ready = self.partial
        if self.out.suffix == ".gz":
            ready = self.packed
            if self.partial.exists():
                self._pack()
        with writing(self.out):
            if ready.exists():
                place(ready, self.out)

    def _pack(self) -> None:
        """Compresses the partial file, then deletes it: without a partial file, the packed one is complete."""
        try:
            with opened(self.partial) as plain, writing(self.packed):
                with self.packed.open("wb") as raw, gzip.GzipFile(str(self.packed), "wb", fileobj=raw) as file:
                    shutil.copyfileobj(plain, file, 1 << 20)
                flush(self.packed)
        except OutputError:
            self.packed.unlink(missing_ok=True)
            raise
        with writing(self.partial):
            self.partial.unlink()


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise OutputError(f"{path.name} is too long for a file name: choose a shorter OUT") from error
        raise OutputError(f"{path}: {error.strerror}; choose another OUT") from error


def _stat_of_source(source: str) -> os.stat_result | None:
    """None if the source is missing or has no descriptor; reading it reports that."""
    try:
        return os.fstat(sys.stdin.fileno()) if source == "-" else Path(source).stat()
    except (OSError, ValueError, AttributeError):
        return None


def _kind(mode: int) -> str:
    names = {stat.S_IFDIR: "a folder", stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return names.get(stat.S_IFMT(mode), "a device")
