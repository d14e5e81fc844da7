"""look: the graphs of a first look, split or not, from its checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resift_export.build.draft import TracedModel, first_look_models, trace
from resift_export.build.first_look import check_cheaper
from resift_export.build.graph_files import WrittenModel
from resift_export.build.split import split_models, split_references, trace_split
from resift_export.checkpoint.split import split_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

    from resift.artifact.agreement import Pool
    from resift_export.build.split import TracedHalves
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.progress import Report
    from resift_export.recipe import CalibrationPair, Recipe

    TracedLook = TracedModel | TracedHalves


def trace_look(student: Checkpoint, checkpoint: Checkpoint, operations: int, recipe: Recipe, scratch: Path) -> TracedLook:
    """The float32 graphs of the `student`, a first look of `checkpoint`, whose graph costs so many `operations` a token.

    Raises ExportError unless the student is cheaper, and if it cannot be traced.
    """
    layout = split_of(student.model, student.id)
    traced = trace(student, recipe, scratch) if layout is None else trace_split(student, layout, checkpoint.max_length, scratch)
    check_cheaper(student, traced.operations, checkpoint, operations)
    if layout is None:
        student.release()
    return traced


def look_references(
    traced: TracedLook, pools: Sequence[Pool], full: Sequence[NDArray[np.float32]], report: Report
) -> list[NDArray[np.float32]]:
    """A split first look's own logits of each pool, with which its graphs are compared; of another, none. Its weights are released.

    `full`: the logits of the full model.
    """
    return [] if isinstance(traced, TracedModel) else split_references(traced, pools, full, report)


def look_models(traced: TracedLook, recipe: Recipe, pairs: Sequence[CalibrationPair], report: Report) -> dict[str, ir.Model]:
    """The graphs at the recipe's precisions, by file. Raises ExportError like `split_models`."""
    if isinstance(traced, TracedModel):
        return first_look_models(traced, recipe, pairs, report)
    return split_models(traced, recipe, pairs, report)


def unwritten(traced: TracedLook) -> WrittenModel:
    """The first look before its graphs are in the artifact's folder."""
    split = None if isinstance(traced, TracedModel) else traced.split
    return WrittenModel(traced.checkpoint, {}, traced.operations, split=split)
