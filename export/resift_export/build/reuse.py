"""kept: the full graphs of an earlier artifact of the same checkpoint, taken over to the bit, so that scores stay as they were."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from resift.artifact.manifest import WEIGHTS_SUFFIX
from resift.errors import ExportError
from resift_export.build.write import Written
from resift_export.graph.edit import oldest_onnxruntime

if TYPE_CHECKING:
    from pathlib import Path

    from resift.artifact.folder import Artifact
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.recipe import Recipe


def check_kept(artifact: Artifact, checkpoint: Checkpoint, recipe: Recipe) -> None:
    """Raises ExportError unless the artifact's full graph can be one of this checkpoint, in the recipe's variants."""
    own, pair = artifact.manifest.full, artifact.manifest.pair
    compared = {
        "layers": (own.layers, checkpoint.layers),
        "labels and inputs": (own.signature, checkpoint.signature),
        "relevance": (own.relevance, checkpoint.relevance),
        "activation": (own.activation, checkpoint.activation),
        "vocabulary": (pair.vocabulary, checkpoint.vocabulary),
        "max_length": (pair.max_length, checkpoint.max_length),
        "prompt": (pair.prompt, checkpoint.prompt),
        "variants": ([variant.file for variant in own.variants], [variant.file for variant in recipe.variants()]),
    }
    for what, (found, expected) in compared.items():
        if found != expected:
            raise ExportError(
                f"{artifact.folder} has the {what} {found}, but this export {expected}; expected an artifact of the same "
                "checkpoint, exported with the same --precision and --vnni"
            )


def kept_graphs(artifact: Artifact, folder: Path) -> dict[str, Written]:
    """Copies the artifact's full graphs into `folder`, and returns them by file.

    Raises ArtifactError if one is not what the manifest says, and ExportError if they cannot be written.
    """
    found = {}
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
        found[variant.file] = Written({name: files[name] for name in names}, oldest)
    return found
