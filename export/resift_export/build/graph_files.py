"""graph_files: the files of an artifact's graphs, which share weights."""

from __future__ import annotations

import hashlib
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from resift.artifact.manifest import FileEntry
from resift.artifact.variant import ShortGraph
from resift.errors import ExportError
from resift_export.build.first_look import first_look_file
from resift_export.graph.edit import oldest_onnxruntime
from resift_export.graph.weights import save, save_with_shared_weights

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx_ir as ir

    from resift.artifact.manifest import Graph
    from resift.artifact.signature import Frozen
    from resift_export.build.short import ShortModel
    from resift_export.checkpoint.load import Checkpoint

MIN_SHARED_PART = 1024
"""Size in bytes of the smallest tensor that a graph shares with the one that it was made from: all but a few."""
FROZEN_SUFFIX = ".frozen.onnx"
FROZEN = "frozen"
"""The name, in plans, of frozen graphs that do not take the place of the full ones."""


class GraphFiles(NamedTuple):
    """The files of a graph in the artifact's folder."""

    files: dict[str, FileEntry]
    """the graph's file, and the file of its weights if the graph's file does not hold them"""
    min_onnxruntime: str
    """oldest version of onnxruntime that runs the graph, x.y.z"""
    weights_file: str | None = None
    """another graph's file that holds some of its weights"""


class WrittenModel(NamedTuple):
    """A checkpoint whose graphs are in the artifact's folder: the full model or a first look."""

    checkpoint: Checkpoint
    graphs: Mapping[str, GraphFiles]
    """by file"""
    operations: int
    """per token"""
    reused_from: str | None = None
    """fingerprint of the artifact that the graphs were copied from"""
    short: Mapping[str, ShortGraph] = MappingProxyType({})
    """the graphs for short pairs, which are among the `graphs`, by the file of the variant that they belong to"""


class FrozenModels(NamedTuple):
    """Frozen graphs of the full model, before they are written."""

    models: Mapping[str, ir.Model]
    """by the file of the variant that they were made from"""
    how: Frozen
    operations: int
    """per token of a document"""
    is_full: bool = True
    """whether they take the place of the full graphs; otherwise only plans that name them use them"""


class FrozenGraphs(NamedTuple):
    """The frozen graphs of the full model, in the artifact's folder."""

    graphs: Mapping[str, GraphFiles]
    """by file"""
    how: Frozen
    operations: int
    is_full: bool


class CopiedGraph(NamedTuple):
    """A first look that was copied from another artifact, without its checkpoint."""

    graph: Graph
    graphs: Mapping[str, GraphFiles]
    """by file"""
    record: Mapping[str, str | int | float | bool | list[str] | None]
    """what that artifact's manifest records of its export"""


def write_graphs(folder: Path, models: Mapping[str, ir.Model]) -> dict[str, GraphFiles]:
    """Writes the models, by file, into `folder`. Raises ExportError if they cannot be written."""
    try:
        return {file: _write_graph(folder / file, model) for file, model in models.items()}
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror}") from error


def write_first_look(folder: Path, models: Mapping[str, ir.Model], graphs: Mapping[str, GraphFiles]) -> dict[str, GraphFiles]:
    """Writes a first look's models, by file, into `folder`, without the weights that the full `graphs` already hold there.

    Raises ExportError if they cannot be written.
    """
    weights_files = {first_look_file(file): [*graph_files.files][-1] for file, graph_files in graphs.items()}
    try:
        return {file: _write_graph(folder / file, model, weights_files[file]) for file, model in models.items()}
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror}") from error


def short_file(file: str) -> str:
    """The file of the graph for short pairs that belongs to the variant `file`."""
    return f"{file.removesuffix('.onnx')}.short.onnx"


def frozen_file(file: str) -> str:
    """The file of the frozen graph that was made from the variant `file`."""
    return f"{file.removesuffix('.onnx')}{FROZEN_SUFFIX}"


def unfrozen_file(file: str) -> str:
    """The file of the variant that a frozen graph was made from, or the file itself if it holds another graph."""
    return f"{file.removesuffix(FROZEN_SUFFIX)}.onnx" if file.endswith(FROZEN_SUFFIX) else file


def write_frozen(folder: Path, frozen: FrozenModels | None, graphs: Mapping[str, GraphFiles]) -> FrozenGraphs | None:
    """Writes frozen graphs into `folder`, without the weights that the full `graphs` hold there, in place of any others.

    Raises ExportError if they cannot be written.
    """
    try:
        for path in folder.glob(f"*{FROZEN_SUFFIX}"):
            path.unlink()
        if frozen is None:
            return None
        files = {
            frozen_file(file): _write_graph(folder / frozen_file(file), model, [*graphs[file].files][-1], MIN_SHARED_PART)
            for file, model in frozen.models.items()
        }
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror}") from error
    return FrozenGraphs(files, frozen.how, frozen.operations, frozen.is_full)


def with_short(folder: Path, full: WrittenModel, models: Mapping[str, ShortModel]) -> WrittenModel:
    """Writes the graphs for short pairs, by the file of their variant, into `folder`, and returns `full` with them.

    Raises ExportError if they cannot be written.
    """
    graphs, short = dict(full.graphs), dict(full.short)
    try:
        for file, (model, up_to) in models.items():
            path = folder / short_file(file)
            graphs[path.name] = written = _write_graph(path, model, [*graphs[file].files][-1], MIN_SHARED_PART)
            short[file] = ShortGraph(file=path.name, up_to=up_to, weights=written.weights_file)
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror}") from error
    return full._replace(graphs=graphs, short=short)


def _write_graph(path: Path, model: ir.Model, weights_file: str | None = None, min_shared: int | None = None) -> GraphFiles:
    """Writes one graph. `weights_file`: a file of the same folder that may hold weights of it, of at least `min_shared` bytes."""
    min_onnxruntime = oldest_onnxruntime(model)
    if weights_file is not None and save_with_shared_weights(model, path, path.with_name(weights_file), min_shared):
        return GraphFiles({path.name: _entry(path)}, min_onnxruntime, weights_file)
    return GraphFiles({path.name: _entry(path) for path in save(model, path)}, min_onnxruntime)


def _entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(size=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())
