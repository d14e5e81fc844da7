"""reuse: copies the graphs of an earlier artifact of the same checkpoint, which therefore score as before."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from resift.artifact.manifest import WEIGHTS_SUFFIX
from resift.errors import ExportError, InputError
from resift_export.build.graph_files import FROZEN, CopiedGraph, GraphFiles
from resift_export.graph.edit import oldest_onnxruntime
from resift_export.graph.weights import map_weights

if TYPE_CHECKING:
    from pathlib import Path

    from resift.artifact.folder import Artifact
    from resift.artifact.manifest import Graph
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.recipe import Recipe


def check_reusable(artifact: Artifact, checkpoint: Checkpoint, recipe: Recipe) -> None:
    """Raises ExportError unless the artifact's full graph can be this checkpoint's and has the recipe's variants."""
    full, pair = artifact.manifest.full, artifact.manifest.pair
    if full.frozen is not None:
        raise ExportError(
            f"{artifact.folder} has a frozen full graph, which --keep does not copy; expected an artifact exported without --freeze"
        )
    compared = {
        "layers": (full.layers, checkpoint.layers),
        "labels and inputs": (full.signature, checkpoint.signature),
        "relevance": (full.relevance, checkpoint.relevance),
        "activation": (full.activation, checkpoint.activation),
        "vocabulary": (pair.vocabulary, checkpoint.vocabulary),
        "max_length": (pair.max_length, checkpoint.max_length),
        "prompt": (pair.prompt, checkpoint.prompt),
        "variants": ([variant.file for variant in full.variants], [variant.file for variant in recipe.variants()]),
        "packed graphs": (
            [variant.packed is not None for variant in full.variants],
            [recipe.packed and variant.is_masked for variant in recipe.variants()],
        ),
    }
    for name, (found, expected) in compared.items():
        if found != expected:
            raise ExportError(
                f"{artifact.folder} has the {name} {found}, but this export has {expected}; expected an artifact of the same "
                "checkpoint, exported with the same --precision, --vnni and --packed"
            )


def check_search(recipe: Recipe, *, force: bool, keep: str | None) -> None:
    """Raises InputError if a search is asked for together with an option that excludes it."""
    if force and recipe.search is not None:
        raise InputError("--force writes what the gate refuses, --search what it accepts; expected one of them")
    if keep is not None and recipe.search is not None:
        raise InputError("--keep takes graphs over as they are, --search changes them; expected one of them")


def first_look_of(artifact: Artifact) -> Graph | None:
    """The artifact's first look; None if it has none."""
    return next((graph for graph in artifact.manifest.graphs if graph.role == "first-look" and graph.name != FROZEN), None)


def copy_first_look(artifact: Artifact, graph: Graph, folder: Path) -> CopiedGraph:
    """Copies the artifact's first look into `folder`. Raises like `copy_graphs`."""
    record = {name: value for name, value in artifact.manifest.recipe.items() if name.startswith("first_look")}
    return CopiedGraph(graph, copy_graphs(artifact, graph, folder), record)


def copy_graphs(artifact: Artifact, graph: Graph, folder: Path) -> dict[str, GraphFiles]:
    """Copies the files of one of the artifact's graphs into `folder`, and returns them by file, those for short pairs included.

    Raises ArtifactError if one differs from the manifest's entry, and ExportError if they cannot be written.
    """
    graphs = {}
    files = artifact.manifest.files
    for variant in (each for listed in graph.variants for each in listed.graphs()):
        artifact.read_graph(variant)
        names = [name for name in (variant.file, f"{variant.file}{WEIGHTS_SUFFIX}") if name in files]
        try:
            for name in names:
                shutil.copyfile(artifact.folder / name, folder / name)
        except OSError as error:
            raise ExportError(f"cannot write {folder}: {error.strerror}") from error
        model = onnx.load(folder / variant.file, load_external_data=False)
        oldest = oldest_onnxruntime(ir.from_proto(model))
        graphs[variant.file] = GraphFiles({name: files[name] for name in names}, oldest, variant.weights)
    return graphs


def models_of(artifact: Artifact, graph: Graph, scratch: Path) -> dict[str, ir.Model]:
    """One of the artifact's graphs by file, without those for short pairs; the weights are written to the new folder `scratch`."""
    scratch.mkdir()
    return {variant.file: map_weights(ir.load(artifact.folder / variant.file), scratch, variant.file) for variant in graph.variants}
