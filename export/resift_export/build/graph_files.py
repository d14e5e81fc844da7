"""graph_files: the files of an artifact's graphs, which share weights."""

from __future__ import annotations

import hashlib
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from resift.artifact.manifest import FileEntry
from resift.artifact.variant import PackedGraph, ShortGraph
from resift.errors import ExportError
from resift_export.build.first_look import first_look_file
from resift_export.graph.edit import oldest_onnxruntime
from resift_export.graph.weights import save, save_with_shared_weights

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx_ir as ir

    from resift.artifact.manifest import Graph
    from resift.artifact.signature import Frozen, Split
    from resift.artifact.variant import Weights
    from resift_export.build.short import ShortModel
    from resift_export.checkpoint.load import Checkpoint

MIN_SHARED_PART = 1024
"""Size in bytes of the smallest tensor that a graph shares with the one that it was made from: all but a few."""
FROZEN_SUFFIX, DOCUMENT_SUFFIX = ".frozen.onnx", ".document.onnx"
FROZEN = "frozen"
"""The name, in plans, of frozen graphs that do not take the place of the full ones."""


class GraphFiles(NamedTuple):
    """The files of a graph in the artifact's folder."""

    files: dict[str, FileEntry]
    """the graph's file, and the file of its weights if the graph's file does not hold them"""
    min_onnxruntime: str
    """oldest version of onnxruntime that runs the graph, x.y.z"""
    weights: Weights = None
    """other graphs' files that hold some of its weights"""


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
    packed: Mapping[str, PackedGraph] = MappingProxyType({})
    """the graphs that compute no padding, likewise"""
    frozen: Frozen | None = None
    """how the graphs of a first look read, if its last layers are frozen"""
    split: Split | None = None
    """how the graphs are split; then there is a document half, at `document_file`, to each of the other files"""


class FrozenModels(NamedTuple):
    """Frozen graphs of the full model, or of a first look, before they are written."""

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

    @property
    def frozen(self) -> Frozen | None:
        """How it reads, if its last layers are frozen."""
        return self.graph.frozen

    @property
    def split(self) -> Split | None:
        """How the graph is split; None if it is not."""
        return self.graph.split


def write_graphs(folder: Path, models: Mapping[str, ir.Model]) -> dict[str, GraphFiles]:
    """Writes the models, by file, into `folder`. Raises ExportError if they cannot be written."""
    try:
        return {file: write_graph(folder / file, model) for file, model in models.items()}
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror}") from error


def write_first_look(folder: Path, models: Mapping[str, ir.Model], graphs: Mapping[str, GraphFiles]) -> dict[str, GraphFiles]:
    """Writes a first look's models, by file, into `folder`, without the weights that the full `graphs` already hold there.

    Of a split first look, a document half also does without those that its query half, which is written before it, holds. Raises
    ExportError if they cannot be written.
    """
    full_files = {first_look_file(file): [*graph_files.files][-1] for file, graph_files in graphs.items()}
    written: dict[str, GraphFiles] = {}
    try:
        for file, model in models.items():
            query_file = query_file_of(file)
            is_split = document_file(query_file) in models
            shared = [full_files[query_file]] if file == query_file else [[*written[query_file].files][-1], full_files[query_file]]
            written[file] = write_graph(folder / file, model, *shared, min_shared=MIN_SHARED_PART if is_split else None)
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror}") from error
    return written


def document_file(file: str) -> str:
    """The file of the document half that belongs to the query half in `file`."""
    return f"{file.removesuffix('.onnx')}{DOCUMENT_SUFFIX}"


def query_file_of(file: str) -> str:
    """The file of the query half that a document half belongs to, or the file itself if it holds another graph."""
    return f"{file.removesuffix(DOCUMENT_SUFFIX)}.onnx" if file.endswith(DOCUMENT_SUFFIX) else file


def short_file(file: str) -> str:
    """The file of the graph for short pairs that belongs to the variant `file`."""
    return f"{file.removesuffix('.onnx')}.short.onnx"


def packed_file(file: str) -> str:
    """The file of the graph that computes no padding, which belongs to the variant `file`."""
    return f"{file.removesuffix('.onnx')}.packed.onnx"


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
            frozen_file(file): write_graph(folder / frozen_file(file), model, [*graphs[file].files][-1], min_shared=MIN_SHARED_PART)
            for file, model in frozen.models.items()
        }
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror}") from error
    return FrozenGraphs(files, frozen.how, frozen.operations, frozen.is_full)


def write_frozen_look(
    folder: Path, look: WrittenModel | CopiedGraph, frozen: FrozenModels, graphs: Mapping[str, GraphFiles]
) -> WrittenModel | CopiedGraph:
    """Writes the frozen models of a first look in place of its graphs, like `write_first_look`, and returns it with them."""
    files = write_first_look(folder, frozen.models, graphs)
    if isinstance(look, WrittenModel):
        return look._replace(graphs=files, operations=frozen.operations, frozen=frozen.how)
    graph = msgspec.structs.replace(
        look.graph,
        operations=frozen.operations,
        signature=look.graph.signature.frozen(),
        frozen=frozen.how,
        variants=[msgspec.structs.replace(each, weights=files[each.file].weights) for each in look.graph.variants],
    )
    return look._replace(graph=graph, graphs=files)


def with_short(folder: Path, full: WrittenModel, models: Mapping[str, ShortModel]) -> WrittenModel:
    """Writes the graphs for short pairs, by the file of their variant, into `folder`, and returns `full` with them.

    Raises ExportError if they cannot be written.
    """
    graphs, short = dict(full.graphs), dict(full.short)
    try:
        for file, (model, up_to) in models.items():
            path = folder / short_file(file)
            graphs[path.name] = written = write_graph(path, model, [*graphs[file].files][-1], min_shared=MIN_SHARED_PART)
            short[file] = ShortGraph(file=path.name, up_to=up_to, weights=written.weights)
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror}") from error
    return full._replace(graphs=graphs, short=short)


def write_graph(path: Path, model: ir.Model, *weights_files: str, min_shared: int | None = None) -> GraphFiles:
    """Writes one graph. `weights_files`: files of the same folder that may hold weights of it, of at least `min_shared` bytes."""
    min_onnxruntime = oldest_onnxruntime(model)
    shared = save_with_shared_weights(model, path, [path.with_name(name) for name in weights_files], min_shared)
    if shared:
        return GraphFiles({path.name: _entry(path)}, min_onnxruntime, shared[0] if len(shared) == 1 else shared)
    return GraphFiles({path.name: _entry(path) for path in save(model, path)}, min_onnxruntime)


def _entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(size=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def with_packed(folder: Path, full: WrittenModel, models: Mapping[str, ir.Model]) -> WrittenModel:
    """Writes the graphs that compute no padding, by the file of their variant, into `folder`, and returns `full` with them.

    Raises ExportError if they cannot be written.
    """
    graphs, packed = dict(full.graphs), dict(full.packed)
    try:
        for file, model in models.items():
            path = folder / packed_file(file)
            graphs[path.name] = written = write_graph(path, model, [*graphs[file].files][-1], min_shared=MIN_SHARED_PART)
            packed[file] = PackedGraph(file=path.name, weights=written.weights)
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror}") from error
    return full._replace(graphs=graphs, packed=packed)
