"""Parquet, read in this process: a pool, a document or a pair in each row, these grouped as in tables (needs pyarrow)."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from resift.errors import ExtraError, InputError
from resift.files.names import is_file_name
from resift.pools.reading import to_pool
from resift.pools.tables import Item, TableRow, check_columns, pools_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resift.documents import DocumentTemplate

BATCH_ROWS = 64
"""Rows that are decoded at once."""


class ParquetRows:
    """The rows of a local Parquet file, as a stream, and the share of them that has been read."""

    def __init__(self, path: str) -> None:
        """Opens the file. Raises ExtraError without pyarrow, and InputError if it cannot be read."""
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise ExtraError(f"{path}: reading Parquet needs pyarrow, which cannot be imported: pip install pyarrow") from error
        if not is_file_name(path):
            raise InputError(f"{path!r} is not a file name; expected one")
        self._path = path
        self._faults = (pa.ArrowException, OSError, UnicodeDecodeError)
        with self._reading():
            self._file = pq.ParquetFile(path)
        self._rows, self._done = self._file.metadata.num_rows, 0
        self.names: list[str] = self._file.schema_arrow.names
        """of the columns"""

    def rows(self) -> Iterator[TableRow]:
        """Every row, numbered from 0."""
        with self._reading():
            for batch in self._file.iter_batches(BATCH_ROWS):
                for cells in batch.to_pylist():
                    self._done += 1
                    number = self._done - 1
                    yield TableRow(number, f"{self._path}, row {number} (from 0)", b"", cells)

    def share(self) -> float:
        """Share of the rows that has been read, 0 to 1."""
        return self._done / self._rows if self._rows else 1.0

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except self._faults as error:
            raise InputError(f"{self._path} cannot be read as Parquet: {error}") from error


class ParquetPools(ParquetRows):
    """The pools of a local Parquet file, as a stream."""

    def __init__(self, path: str, template: DocumentTemplate | None = None) -> None:
        """Opens the file. Raises ExtraError without pyarrow, and InputError for columns that hold neither pools nor pairs."""
        super().__init__(path)
        self._template = template
        self._has_pools = "documents" in self.names or "candidates" in self.names
        if not self._has_pools:
            check_columns(self.names, path, template)

    def __iter__(self) -> Iterator[Item]:
        if not self._has_pools:
            yield from pools_of(self.rows(), self._template)
            return
        for number, where, content, cells in self.rows():
            assert not isinstance(cells, InputError)
            try:
                yield Item(number, where, content, to_pool(cells, where, self._template))
            except InputError as error:
                yield Item(number, where, content, error)
