"""Parts: ranges of rows of Parquet files, and the folder that gets one ranked file for each.

OUT/_job.json says what is ranked and how. A part is written as OUT/_NAME.*, and renamed to OUT/NAME once it is complete; its footer
names the job. So OUT holds complete parts of one job at any time, whichever process was killed, and two processes that write the
same part write the same rows. Readers of Parquet folders skip names that begin with an underscore.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from resift.errors import InputError, OutputError
from resift.files.names import is_file_name
from resift.integrations.ray.table import check_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

JOB, SUCCESS = "_job.json", "_SUCCESS"
VERSION = 1
DIGEST = b"resift_job"
"""The key in a part's footer that names its job."""
FOOTERS = 16
"""Footers that are read at once: on an object store, each waits for the network."""
BATCH_ROWS = 32
"""Rows that are decoded at once."""
BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class PoolFile:
    """A Parquet file of pools."""

    path: str
    name: str
    """its path below the folder of the input"""
    size: int
    """bytes"""
    modified: int
    """nanoseconds since 1970; 0 if the storage does not tell"""
    rows: int


@dataclass(frozen=True, slots=True)
class Part:
    """Rows `start` to `stop` (exclusive) of the Parquet file at `path`, and the name of their ranked file."""

    path: str
    start: int
    stop: int
    name: str


def locate(location: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of a local path or a URI that pyarrow knows (s3://, gs://, hdfs://, file://), and the path on it.

    Raises InputError for anything else.
    """
    if not is_file_name(location):
        raise InputError(f"{location!r:.200} is not a location of Parquet files; expected a path or a URI")
    try:
        filesystem, path = pafs.FileSystem.from_uri(location if "://" in location else str(Path(location).absolute()))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{location!r:.200} is not a location of Parquet files: {error}") from error
    return filesystem, path


def find_sources(location: str) -> list[PoolFile]:
    """A Parquet file, or those below a folder, by path. Raises InputError if there is none or one does not hold pools.

    As usual for Parquet folders, only names that end in .parquet count, and those beginning with _ or . do not.
    """
    filesystem, path = locate(location)
    with _reading(location):
        [info] = filesystem.get_file_info([path])
        if info.type == pafs.FileType.NotFound:
            raise InputError(f"{location} does not exist; expected a Parquet file, or a folder of them")
        files = [info]
        if info.type == pafs.FileType.Directory:
            descendants = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
            files = sorted((file for file in descendants if _is_pools(file, path)), key=lambda file: file.path)
    if not files:
        raise InputError(f"no files that end in .parquet in {location}; expected a Parquet file, or a folder of them")

    def read(file: pafs.FileInfo) -> PoolFile:
        with _open_parquet(filesystem, file.path) as parquet:
            check_columns(parquet.schema_arrow, file.path)
            name = file.path[len(path) :].strip("/") or file.base_name
            return PoolFile(file.path, name, file.size or 0, file.mtime_ns or 0, parquet.metadata.num_rows)

    with ThreadPoolExecutor(FOOTERS) as threads:
        return list(threads.map(read, files))


def split(sources: Sequence[PoolFile], pools: int) -> list[Part]:
    """Parts of at most `pools` pools, whose names sort as the rows do. A file without rows is one part."""
    return [
        Part(source.path, start, min(start + pools, source.rows), f"part-{number:06}-{start:012}.parquet")
        for number, source in enumerate(sources)
        for start in range(0, max(source.rows, 1), pools)
    ]


def read_rows(filesystem: pafs.FileSystem, part: Part) -> Iterator[pa.RecordBatch]:
    """The part's rows. Raises InputError if they cannot be read."""
    with _open_parquet(filesystem, part.path) as parquet:
        starts = [0]
        for group in range(parquet.num_row_groups):
            starts.append(starts[-1] + parquet.metadata.row_group(group).num_rows)
        groups = [group for group in range(parquet.num_row_groups) if starts[group] < part.stop and starts[group + 1] > part.start]
        if not groups:
            yield pa.RecordBatch.from_pylist([], schema=parquet.schema_arrow)
            return
        row = starts[groups[0]]
        for batch in parquet.iter_batches(BATCH_ROWS, row_groups=groups):
            begin, end = max(part.start - row, 0), min(part.stop - row, batch.num_rows)
            if begin < end:
                yield batch.slice(begin, end - begin)
            row += batch.num_rows


class OutFolder:
    """OUT: the ranked parts of one job."""

    def __init__(self, location: str, job: dict[str, Any]) -> None:
        """`job`: everything that the parts depend on, as JSON."""
        self._location = location
        self._filesystem, self._path = locate(location)
        self._job = {"resift_parts": VERSION} | job
        self._digest = hashlib.sha256(json.dumps(self._job, sort_keys=True).encode()).hexdigest()

    def begin(self) -> None:
        """Starts the job, or checks that it was started here. Raises OutputError if OUT holds anything else."""
        with self._writing():
            self._filesystem.create_dir(self._path)
            names = self._names()
        if JOB not in names:
            if other_files := [name for name in names if not name.startswith(("_", "."))]:
                raise OutputError(f"{self._location} holds {other_files[0]} and no {JOB}: choose an empty or new OUT")
            self._put(JOB, json.dumps(self._job, indent=1).encode())
            return
        with _reading(f"{self._location}/{JOB}"), self._filesystem.open_input_stream(f"{self._path}/{JOB}") as stream:
            content = stream.read()
        try:
            begun = dict(json.loads(content))
        except (ValueError, TypeError) as error:
            raise OutputError(f"{self._location}/{JOB} is no job: {error}; choose another OUT") from error
        for name in {**self._job, **begun}:  # the caller's names come first
            if begun.get(name) != self._job.get(name):
                was, now = (f"{job.get(name)!r:.100}" for job in (begun, self._job))
                raise OutputError(f"{self._location} was begun as another job: its {name} is {was}, not {now}; choose another OUT")

    def finished_parts(self, parts: Sequence[Part]) -> set[str]:
        """The names of the parts that are complete. Raises OutputError if OUT holds other Parquet files."""
        expected = {part.name: part for part in parts}
        with self._writing():
            names = [name for name in self._names() if name.endswith(".parquet") and not name.startswith(("_", "."))]
        if foreign := [name for name in names if name not in expected]:
            raise OutputError(f"{self._location} holds {foreign[0]}, which is not of this job: move it away, or choose another OUT")
        with ThreadPoolExecutor(FOOTERS) as threads:
            completeness = threads.map(lambda name: self._is_complete(expected[name]), names)
            return {name for name, is_complete in zip(names, completeness, strict=True) if is_complete}

    def write(self, part: Part, rows: pa.Table) -> None:
        """Writes a ranked part, which appears once it is complete. Raises OutputError if it cannot be written."""
        sink = pa.BufferOutputStream()
        pq.write_table(rows.replace_schema_metadata({DIGEST: self._digest}), sink, compression="zstd")
        self._put(part.name, sink.getvalue())

    def finish(self, parts: Sequence[Part]) -> None:
        """Checks that every part is complete, deletes temporary files and marks OUT as complete."""
        finished = self.finished_parts(parts)
        if missing := [part.name for part in parts if part.name not in finished]:
            raise OutputError(
                f"{len(missing)} of {len(parts)} parts are not in {self._location}, such as {missing[0]}: "
                "OUT must be on storage that all machines share"
            )
        with self._writing():
            for name in self._names():
                if name.startswith("_part-"):
                    self._filesystem.delete_file(f"{self._path}/{name}")
        self._put(SUCCESS, b"")

    def _is_complete(self, part: Part) -> bool:
        """Whether the part has its footer, which is written last, and all rows."""
        try:
            with _open_parquet(self._filesystem, f"{self._path}/{part.name}") as parquet:
                metadata = parquet.metadata
                if (metadata.metadata or {}).get(DIGEST) != self._digest.encode():
                    raise OutputError(f"{self._location}/{part.name} was written by another job: choose another OUT")
                return bool(metadata.num_rows == part.stop - part.start)
        except InputError:
            return False

    def _put(self, name: str, content: bytes | pa.Buffer) -> None:
        temporary = f"{self._path}/_{name}.{uuid.uuid4().hex}"
        with self._writing():
            with self._filesystem.open_output_stream(temporary) as stream:
                stream.write(content)
            self._filesystem.move(temporary, f"{self._path}/{name}")

    def _names(self) -> list[str]:
        return sorted(file.base_name for file in self._filesystem.get_file_info(pafs.FileSelector(self._path)))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise OutputError(f"{self._location} cannot be written: {error}; fix this and run the same again to resume") from error


@contextmanager
def _open_parquet(filesystem: pafs.FileSystem, path: str) -> Iterator[pq.ParquetFile]:
    with _reading(path), filesystem.open_input_file(path) as file, pq.ParquetFile(file, buffer_size=BUFFER_BYTES) as parquet:
        yield parquet


@contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from error


def _is_pools(file: pafs.FileInfo, folder: str) -> bool:
    names = file.path[len(folder) :].strip("/").split("/")
    return bool(file.is_file and names[-1].endswith(".parquet") and not any(name.startswith(("_", ".")) for name in names))
