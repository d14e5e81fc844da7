"""OutFiles: OUT and the job's other files next to it, and the check that none of them is a file of the user."""

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
    from io import BufferedIOBase, FileIO

HOW_TO_RESUME = "finished work is kept: fix this and run the same command again to resume"
ROW_LIMIT = 1 << 16
"""Bytes that are read of the first row in a file of bad lines, to recognize it."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError into an OutputError that names the file."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; {HOW_TO_RESUME}") from error


def open_or_empty(path: Path) -> BufferedIOBase:
    """Opens a file for reading; a missing one reads as empty. Raises OutputError if it cannot be read."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        return io.BytesIO()
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror}") from error


def write_all(file: FileIO, content: bytes) -> int:
    """Writes all of `content`, in several writes if need be, and returns its length. Raises OSError."""
    remaining = memoryview(content)
    while remaining:
        remaining = remaining[file.write(remaining) :]
    return len(content)


def size_of(path: Path) -> int:
    """Size of a file in bytes; 0 if it is missing."""
    return path.stat().st_size if path.exists() else 0


@dataclass(frozen=True, slots=True)
class OutFiles:
    """The paths of a job's files. If OUT is a symbolic link, they are those of its target, and the link stays."""

    out: Path

    @classmethod
    def of(cls, out: Path) -> OutFiles:
        """The files of `out`, with symbolic links followed."""
        return cls(Path(os.path.realpath(out)))

    @property
    def errors(self) -> Path:
        """The bad lines of the input of OUT, {"line", "reason", "content"} each."""
        return self._with_suffix(".errors.jsonl")

    @property
    def journal(self) -> Path:
        """The job and its finished pools; this file is the one that is locked."""
        return self._with_suffix(".job.jsonl")

    @property
    def partial(self) -> Path:
        """Finished lines of OUT, never compressed."""
        return self._with_suffix(".partial")

    @property
    def partial_errors(self) -> Path:
        """The bad lines of this run."""
        return self._with_suffix(".errors.partial")

    @property
    def packed(self) -> Path:
        """The partial file compressed, for an OUT that ends in .gz."""
        return self._with_suffix(".packed")

    @property
    def work(self) -> tuple[Path, Path, Path]:
        """The files that belong to an unfinished job's journal."""
        return self.partial, self.partial_errors, self.packed

    def _with_suffix(self, suffix: str) -> Path:
        return self.out.with_name(self.out.name + suffix)

    def check(self, *sources: str) -> None:
        """Raises OutputError if a path is one of `sources`, has a second name or is not a regular file. Changes nothing."""
        if not self.out.name:
            raise OutputError(f"OUT is {self.out}, a folder; expected a file name")
        source_stats = {source: found for source in sources if (found := _stat_of_source(source))}
        for path in (self.out, self.errors, self.journal, *self.work):
            path_stat = _stat(path)
            if path_stat is None:
                continue
            if not stat.S_ISREG(path_stat.st_mode):
                raise OutputError(f"{path} is {_kind(path_stat.st_mode)}; expected a regular file or nothing: choose another OUT")
            for source, source_stat in source_stats.items():
                if os.path.samestat(path_stat, source_stat):
                    raise OutputError(f"{path}, which this job would write, is also its input {source}: choose another OUT")
            if path not in {self.out, self.errors} and path_stat.st_nlink > 1:
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
        with open_or_empty(self.errors) as file:
            row = file.readline(ROW_LIMIT)
        if row and not (row.startswith(b'{"line":') and b'"reason":' in row):
            raise OutputError(f"{self.errors} would be replaced, but was not written by a job: move it away, or choose another OUT")

    def place(self) -> None:
        """Moves the bad lines and OUT to their places. After an interruption anywhere, it can be run again from the start.

        OUT is complete once there is neither a partial nor a packed file.
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
            with open_or_empty(self.partial) as plain, writing(self.packed):
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
    """The stat of the source; None if it is missing or has no descriptor, which is reported when it is read."""
    try:
        return os.fstat(sys.stdin.fileno()) if source == "-" else Path(source).stat()
    except (OSError, ValueError, AttributeError):
        return None


def _kind(mode: int) -> str:
    names = {stat.S_IFDIR: "a folder", stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return names.get(stat.S_IFMT(mode), "a device")
