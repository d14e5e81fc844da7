"""Journal: the file that records a job and its finished pools, so that the job can resume."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import os
import zlib
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, Self

import msgspec

from resift.errors import OutputError
from resift.files import lock
from resift.files.json_decoding import decode_json
from resift.pools.outfiles import open_or_empty, size_of, write_all, writing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedIOBase, FileIO
    from pathlib import Path

    from resift.pools.outfiles import OutFiles
    from resift.pools.reading import CandidatePool

MAGIC = b'{"resift_job":1,'
DONE_LINE = b'["done"]\n'
LINE_LIMIT = 1 << 12
"""Maximum size of a line of the journal in bytes."""
BLOCK = 1 << 20
"""Bytes of the partial file that are read at once."""
DIGEST_BYTES = 12


class Entry(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """A finished pool."""

    digest: str
    """BLAKE2b of the pool, hexadecimal"""
    size: Annotated[int, msgspec.Meta(ge=0)]
    """bytes of its lines in the partial file"""
    checksum: int
    """CRC-32 of those bytes"""


class Journal:
    """OUT.job.jsonl: the job in the first line, an Entry in a line for each finished pool, and a last line when all are done.

    An open Journal holds the job's lock. A pool's entry is written just before its lines, both unbuffered, so after a kill at
    any byte the partial file is a prefix of the bytes that the journal describes: an incomplete entry or pool is cut off and ranked
    again. Nothing is synced to disk before the job is done, so a power cut may cost the pools of the last seconds: from the first
    byte that was lost or zeroed, everything is cut off and ranked again.

    A file next to OUT belongs to a job only if the journal has a first line; otherwise it is the user's and is never touched.
    A Journal that is closed before the first pool is done leaves no files behind.
    """

    def __init__(self, files: OutFiles) -> None:
        """Acquires the lock. Raises OutputError if another process holds it, or the file is not a journal."""
        self.files = files
        with writing(files.journal):
            self._file = lock.hold(files.journal)
        self._partial: FileIO | None = None
        try:
            self._job, self._begin = self._read_job()
            self.was_done = self._ends_with_done()
            """whether an earlier run was interrupted after the last pool"""
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._partial:
            self._partial.close()
        if self._file.closed:
            return
        with closing(self._file):
            if not lock.is_at(self._file, self.files.journal):
                return
            if self._job is None:
                self._delete()
            elif not self.was_done and self._is_blank():
                self._drop_work()
                self._delete()

    @property
    def is_whole(self) -> bool:
        """Whether an earlier run finished ranking and its complete result is in OUT or in the packed file."""
        return self.was_done and not self.files.partial.exists() and (self.files.packed.exists() or self.files.out.exists())

    def resume(self, job: dict[str, Any], pools: Iterator[CandidatePool], *, overwrite: bool) -> Iterator[CandidatePool]:
        """Starts the job, or skips the pools that are done; returns the remaining pools.

        With `overwrite`, unfinished work on another job or input is deleted; without it, such work raises OutputError.
        """
        if self._job is None:
            if orphans := [path for path in self.files.work if size_of(path)]:
                raise OutputError(f"{orphans[0]} exists without the journal of its job: move it away, or choose another OUT")
            self._start(job)
        elif (self._is_blank() and not self.was_done) or (overwrite and (self._job != job or self.is_whole)):
            self._start(job)
        else:
            self._check_same(job)
            if self.is_whole:
                self._check_whole(pools)
                return iter(())
            pools = self._skip_finished(pools, overwrite=overwrite)
        with writing(self.files.partial):
            self._partial = self.files.partial.open("ab", buffering=0)
        return pools

    def add(self, pool: CandidatePool, lines: bytes) -> None:
        """Writes a pool's lines of OUT."""
        assert self._partial, "call resume first"
        entry = msgspec.json.encode(Entry(_digest(pool), len(lines), zlib.crc32(lines))) + b"\n"
        with writing(self.files.journal):
            write_all(self._file, entry)
        with writing(self.files.partial):
            write_all(self._partial, lines)

    def finish(self, *, overwrite: bool) -> None:
        """Records that all pools are done, moves OUT to its place and deletes the journal.

        Raises OutputError if the job's files were deleted meanwhile or, without `overwrite`, OUT was created meanwhile.
        """
        if self._partial:
            for file, path in ((self._file, self.files.journal), (self._partial, self.files.partial)):
                if not lock.is_at(file, path):
                    raise OutputError(f"{path} was deleted or replaced while the job ran: run the same command again")
            with writing(self.files.partial), closing(self._partial):
                os.fsync(self._partial.fileno())
            if not overwrite:
                self.files.check_absent(self.files.out, *([] if self.was_done else [self.files.errors]))
            with writing(self.files.journal):
                write_all(self._file, DONE_LINE)
                os.fsync(self._file.fileno())
            self.was_done = True
        self.files.place()
        self._delete()

    def _read_job(self) -> tuple[dict[str, Any] | None, int]:
        """The job in the first line, and where that line ends; None and 0 if it was not written completely."""
        with writing(self.files.journal):
            self._file.seek(0)
            head = self._file.read(LINE_LIMIT)
        line, newline, _ = head.partition(b"\n")
        try:
            if newline and line.startswith(MAGIC):
                job = decode_json(line, dict[str, Any])
                del job["resift_job"]
                return job, len(line) + 1
        except ValueError as error:
            raise self._foreign_file(self.files.journal) from error
        if not newline and len(head) < LINE_LIMIT and (head.startswith(MAGIC) or MAGIC.startswith(head)):
            return None, 0
        raise self._foreign_file(self.files.journal)

    def _ends_with_done(self) -> bool:
        size = self._file.seek(0, os.SEEK_END)
        if self._job is None or size < self._begin + len(DONE_LINE):
            return False
        self._file.seek(size - len(DONE_LINE) - 1)
        return self._file.read() == b"\n" + DONE_LINE

    def _is_blank(self) -> bool:
        """Whether no pool is done. A partial file without an entry was not written by this job, so it does not count as blank."""
        size = size_of(self.files.partial)
        _, first = next(self._entries(), (0, None))
        return size < first.size if first else not size

    def _entries(self) -> Iterator[tuple[int, Entry]]:
        """Each entry with the offset of its end, up to the first incomplete entry."""
        if self._job is None:
            return
        with open_or_empty(self.files.journal) as file:
            end = file.seek(self._begin)
            while (line := file.readline(LINE_LIMIT)).endswith(b"\n"):
                end += len(line)
                try:
                    entry = decode_json(line, Entry)
                except ValueError:
                    return
                yield end, entry

    def _start(self, job: dict[str, Any]) -> None:
        """Starts from the beginning. The files of an earlier job are deleted while the journal's first line still claims them."""
        with writing(self.files.journal):
            self._file.truncate(self._begin)
        self.was_done = False
        self._drop_work()
        with writing(self.files.journal):
            self._file.truncate(0)
            self._begin = write_all(self._file, MAGIC + msgspec.json.encode(job)[1:] + b"\n")
        self._job = job

    def _drop_work(self) -> None:
        for path in self.files.work:
            with writing(path):
                path.unlink(missing_ok=True)

    def _check_same(self, job: dict[str, Any]) -> None:
        started = self._job or {}
        changed = [f"{name} was {started.get(name)}, now {value}" for name, value in job.items() if started.get(name) != value]
        if changed:
            raise OutputError(
                f"{self.files.partial} was started by another job ({'; '.join(changed)}); "
                "repeat that command to resume it, or use --overwrite to start over"
            )

    def _skip_finished(self, pools: Iterator[CandidatePool], *, overwrite: bool) -> Iterator[CandidatePool]:
        """Skips the pools that are done and returns the remaining ones.

        Entries and lines that are incomplete, or that belong to another input, are cut off.
        """
        if self._is_foreign() and not overwrite:
            raise self._foreign_file(self.files.partial)
        entries = self._entries()
        end, size = self._begin, 0
        remaining: Iterator[CandidatePool] = iter(())
        with open_or_empty(self.files.partial) as partial:
            for number, pool in enumerate(pools, 1):
                entry_end, entry = next(entries, (0, None))
                is_same = entry is not None and entry.digest == _digest(pool)
                if entry and not is_same and not overwrite:
                    raise self._changed_input(f"pool {number}, about {pool.query[:60]!r}, is not the one that was ranked")
                if not (entry and is_same and _is_next(partial, entry)):
                    remaining = itertools.chain([pool], pools)
                    break
                end, size = entry_end, size + entry.size
            else:
                if next(entries, None) and not overwrite:
                    raise self._changed_input("it has fewer pools than were ranked")
        if size_of(self.files.partial) > size:
            with writing(self.files.partial):
                os.truncate(self.files.partial, size)
        with writing(self.files.journal):
            self._file.truncate(end)
        return remaining

    def _check_whole(self, pools: Iterator[CandidatePool]) -> None:
        """Raises OutputError unless `pools` match the entries, and OUT, or the packed file, holds the bytes of the entries."""
        ready = self.files.packed if self.files.packed.exists() else self.files.out
        try:
            with gzip.open(ready) if self.files.out.suffix == ".gz" else ready.open("rb") as file:
                for number, (pool, item) in enumerate(itertools.zip_longest(pools, self._entries()), 1):
                    if not pool or not item:
                        raise self._changed_input(f"it has {'fewer' if item else 'more'} pools than were ranked")
                    _, entry = item
                    if entry.digest != _digest(pool):
                        raise self._changed_input(f"pool {number}, about {pool.query[:60]!r}, is not the one that was ranked")
                    if not _is_next(file, entry):
                        raise self._foreign_file(ready)
                if file.read(1):
                    raise self._foreign_file(ready)
        except (OSError, EOFError, zlib.error) as error:
            raise self._foreign_file(ready) from error

    def _is_foreign(self) -> bool:
        """Whether the partial file does not even begin with the journal's first pool."""
        with open_or_empty(self.files.partial) as partial:
            _, first = next(self._entries(), (0, None))
            return not self._is_blank() and not (first and _is_next(partial, first))

    def _foreign_file(self, path: Path) -> OutputError:
        return OutputError(f"{path} does not hold what a job of this resift wrote: move it away, or choose another OUT")

    def _changed_input(self, difference: str) -> OutputError:
        return OutputError(
            f"the input has changed since {self.files.journal} was started: {difference}; "
            "repeat the command with the old input, or use --overwrite to rank the changed pool and all after it again"
        )

    def _delete(self) -> None:
        with writing(self.files.journal):
            lock.delete(self._file, self.files.journal)


def _digest(pool: CandidatePool) -> str:
    content = msgspec.json.encode([pool.query, pool.qid, pool.documents, pool.fields])
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()


def _is_next(file: BufferedIOBase, entry: Entry) -> bool:
    """Reads the entry's bytes from the file and returns whether they match its checksum."""
    remaining, checksum = entry.size, 0
    while remaining:
        block = file.read(min(remaining, BLOCK))
        if not block:
            return False
        checksum = zlib.crc32(block, checksum)
        remaining -= len(block)
    return checksum == entry.checksum
