"""Vectors: the documents of a corpus whose embeddings lie nearest to a query's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from resift.errors import InputError
from resift.retrieval.bm25 import best_places

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

BLOCK = 1 << 24
"""Cosines that are in memory at once: 64 MB."""


class Vectors:
    """The vectors of a corpus and of the queries on it, in the order of their files."""

    def __init__(self, documents: NDArray[np.floating], queries: NDArray[np.floating], names: Sequence[str] = ("", "")) -> None:
        """`documents`: float[n, d]. `queries`: float[m, d]. `names`: of their files. Raises InputError for other arrays."""
        for array, name in zip((documents, queries), names, strict=True):
            if array.ndim != 2 or array.dtype.kind != "f":
                raise InputError(
                    f"{name or 'vectors'}: {array.dtype} of shape {list(array.shape)}; expected floats, a row for each text"
                )
        if documents.shape[1] != queries.shape[1]:
            sizes = f"{documents.shape[1]} numbers in {names[0] or 'documents'} and {queries.shape[1]} in {names[1] or 'queries'}"
            raise InputError(f"vectors of {sizes}; expected vectors of one model, as long as each other")
        self.documents = _unit(documents, names[0])
        self.queries = _unit(queries, names[1])

    @classmethod
    def read(cls, documents: str | os.PathLike[str], queries: str | os.PathLike[str]) -> Vectors:
        """From two files of numpy (.npy), which are not unpickled. Raises InputError if one cannot be read."""
        return cls(_read(documents), _read(queries), (os.fspath(documents), os.fspath(queries)))

    def check(self, documents: int, queries: int) -> None:
        """Raises InputError unless there are so many vectors."""
        for kind, found, expected in (("documents", self.documents, documents), ("queries", self.queries, queries)):
            if len(found) != expected:
                raise InputError(f"{len(found)} vectors for {expected} {kind}; expected one for each, in the order of their file")

    def best(self, rows: Sequence[int], depth: int) -> Iterator[NDArray[np.int64]]:
        """int64[depth] for each of these queries: positions of the documents by cosine, best first; equal ones in their order."""
        step = max(1, BLOCK // max(1, len(self.documents)))
        for start in range(0, len(rows), step):
            cosines = self.queries[list(rows[start : start + step])] @ self.documents.T
            for row in cosines:
                yield best_places(row, np.arange(len(row)), depth)


def _read(path: str | os.PathLike[str]) -> NDArray[np.floating]:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{os.fspath(path)} cannot be read as vectors: {reason}; expected a .npy file of numpy") from error
    if not isinstance(found, np.ndarray):
        found.close()
        raise InputError(f"{os.fspath(path)} is an archive of arrays; expected a .npy file, with a vector in each row")
    return found


def _unit(vectors: NDArray[np.floating], name: str) -> NDArray[np.float32]:
    """float32[n, d]: vectors of length 1; a vector of zeros stays one, as near to all as to none."""
    found = vectors.astype(np.float32)
    if not np.isfinite(found).all():
        raise InputError(f"{name or 'vectors'}: a number that is not finite; expected the vectors of an embedding model")
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (found / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return unit
