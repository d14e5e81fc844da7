"""Graph on disk: a checked graph whose files onnxruntime reads itself, and whether they are still those that were checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from resift.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path


class GraphOnDisk(NamedTuple):
    """A checked graph whose weights onnxruntime maps from files: the graph's own, or others in the same folder."""

    path: Path
    weights: tuple[Path, ...]
    file_states: tuple[tuple[int, ...], ...]
    """the state of the files before they were checked; it differs once a file has been written or replaced"""
    content: bytes | None = None
    """the graph without its weights; None: onnxruntime reads it from `path`"""

    @classmethod
    def of(cls, path: Path, *weights: Path) -> GraphOnDisk:
        """The graph as its files are now. Raises ArtifactError if they cannot be read."""
        return cls(path, weights, _file_states(path, *weights))

    def check_unchanged(self) -> None:
        """Raises ArtifactError if a file has changed since the check, so that onnxruntime may have read something else."""
        if _file_states(self.path, *self.weights) != self.file_states:
            raise ArtifactError(f"{self.path} or its weights were changed while they were being loaded; load the artifact again")


def _file_states(*paths: Path) -> tuple[tuple[int, ...], ...]:
    try:
        states = [path.stat() for path in paths]
    except OSError as error:
        raise ArtifactError(f"{error.filename} cannot be read: {error.strerror}") from error
    return tuple((state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns) for state in states)
