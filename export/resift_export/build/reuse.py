"""reuse: copies the full graphs of an earlier artifact of the same checkpoint, which therefore score as before."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from resift.artifact.manifest import WEIGHTS_SUFFIX
from resift.errors import ExportError
from resift_export.build.write import GraphFiles
from resift_export.graph.edit import oldest_onnxruntime

if TYPE_CHECKING:
    from pathlib import Path

    from resift.artifact.folder import Artifact
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.recipe import Recipe


def check_reusable(artifact: Artifact, checkpoint: Checkpoint, recipe: Recipe) -> None:
    """Raises ExportError unless the artifact's full graph can be this checkpoint's and has the recipe's variants."""
    full, pair = artifact.manifest.full, artifact.manifest.pair
    compared = {
        "layers": (full.layers, checkpoint.layers),
        "labels and inputs": (full.signature, checkpoint.signature),
        "relevance": (full.relevance, checkpoint.relevance),
        "activation": (full.activation, checkpoint.activation),
        "vocabulary": (pair.vocabulary, checkpoint.vocabulary),
        "max_length": (pair.max_length, checkpoint.max_length),
        "prompt": (pair.prompt, checkpoint.prompt),
        "variants": ([variant.file for variant in full.variants], [variant.file for variant in recipe.variants()]),
    }
    for name, (found, expected) in compared.items():
        if found != expected:
            raise ExportError(
                f"{artifact.folder} has the {name} {found}, but this export has {expected}; expected an artifact of the same "
                "checkpoint, exported with the same --precision and --vnni"
            )


def copy_graphs(artifact: Artifact, folder: Path) -> dict[str, GraphFiles]:
    """Copies the artifact's full graphs into `folder`, and returns them by file.

    Raises ArtifactError if one differs from the manifest's entry, and ExportError if they cannot be written.
    """
    graphs = {}
    files = artifact.manifest.files
    for variant in artifact.manifest.full.variants:
        artifact.read_graph(variant)
        names = [name for name in (variant.file, f"{variant.file}{WEIGHTS_SUFFIX}") if name in files]
        try:
            for name in names:
                shutil.copyfile(artifact.folder / name, folder / name)
        except OSError as error:
            raise ExportError(f"cannot write {folder}: {error.strerror}") from error
        model = onnx.load(folder / variant.file, load_external_data=False)
        oldest = oldest_onnxruntime(ir.from_proto(model))
        graphs[variant.file] = GraphFiles({name: files[name] for name in names}, oldest)
    return graphs
