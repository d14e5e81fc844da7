"""draft: a checkpoint's graph, traced in float32 and then at the precisions of the recipe."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from resift_export.build.first_look import first_look_file
from resift_export.graph.edit import lower_opset
from resift_export.graph.half import to_float16
from resift_export.graph.mask import add_mask, check_mask
from resift_export.graph.optimize import optimize
from resift_export.graph.trace import TRACERS
from resift_export.graph.weights import map_weights
from resift_export.int8.calibration import Calibration, operations_of, sample
from resift_export.int8.levels import VNNI_LEVELS, WEIGHT_LEVELS
from resift_export.int8.products import products
from resift_export.int8.quantize import quantize
from resift_export.int8.ranges import choose_ranges
from resift_export.recipe import VNNI_FILE, file_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import onnx_ir as ir
    from numpy.typing import NDArray

    from resift_export.checkpoint.load import Checkpoint
    from resift_export.int8.ranges import Range
    from resift_export.progress import Report
    from resift_export.recipe import CalibrationPair, Recipe

TRACE_SECONDS, TRACE_SECONDS_PER_LAYER = 3, 0.5
"""About what tracing takes, which reports no progress: MiniLM's 12 layers take 9 s."""

log = logging.getLogger(__name__)


class TracedModel(NamedTuple):
    """A checkpoint's float32 graph, whose weights are on disk."""

    checkpoint: Checkpoint
    model: ir.Model
    operations: int
    """per token"""
    scratch: Path
    """folder of its weights and sessions"""


class Draft(NamedTuple):
    """A checkpoint's graph at the recipe's precisions, before the gate."""

    calibration: Calibration
    ranges: Mapping[str, Mapping[str, Range]]
    """of the int8 files"""
    models: dict[str, ir.Model]
    """by file"""


def trace(checkpoint: Checkpoint, recipe: Recipe, scratch: Path) -> TracedModel:
    """Traces and optimizes the checkpoint's graph; its weights are written to the new folder `scratch`."""
    expected = TRACE_SECONDS + TRACE_SECONDS_PER_LAYER * checkpoint.layers
    log.info("trace     %s with %s, about %d s", checkpoint.architecture, recipe.tracer, expected)
    scratch.mkdir()
    model = map_weights(optimize(TRACERS[recipe.tracer](checkpoint), checkpoint.max_length), scratch)
    return TracedModel(checkpoint, model, operations_of(model, scratch), scratch)


def draft(traced: TracedModel, recipe: Recipe, pairs: Sequence[CalibrationPair], report: Report) -> Draft:
    """The graph of `traced`, which is modified, at the recipe's precisions."""
    feeds = list(feeds_of(traced.checkpoint, pairs)) if "int8" in recipe.precisions else []
    samples = _samples(traced.model, feeds, traced.scratch, report)
    ranges = {
        file: choose_ranges(traced.model, samples, levels=levels, step=f"ranges of {file}", report=report)
        for file, levels in levels_of(recipe).items()
    }
    original = traced.model.clone()
    calibration = Calibration(original, feeds, samples if recipe.search is not None else {}, traced.scratch)
    del samples
    masked = {file_of("float16"): _masked(traced)} if "float16" in recipe.precisions else {}
    return Draft(calibration, ranges, masked | _variants(traced.model, recipe, ranges, report))


def first_look_models(traced: TracedModel, recipe: Recipe, pairs: Sequence[CalibrationPair], report: Report) -> dict[str, ir.Model]:
    """A first look's graph at the recipe's precisions, by file."""

    def report_first_look(step: str, done: int, total: int) -> None:
        report(f"first look: {step}", done, total)

    return {first_look_file(file): model for file, model in draft(traced, recipe, pairs, report_first_look).models.items()}


def levels_of(recipe: Recipe) -> dict[str, int]:
    """The largest magnitude of a weight in each int8 file of the recipe."""
    levels = {file_of("int8"): WEIGHT_LEVELS, VNNI_FILE: VNNI_LEVELS}
    return {variant.file: levels[variant.file] for variant in recipe.variants() if variant.precision == "int8"}


def _samples(
    exact: ir.Model, inputs: Sequence[Mapping[str, NDArray[np.int64]]], scratch: Path, report: Report
) -> Mapping[str, NDArray[np.float32]]:
    """float32[rows, inputs]: sampled activations of each product of `exact`, by name; none if there are no inputs to sample."""
    if not inputs:
        return {}
    names = list(dict.fromkeys(str(product.source.name) for product in products(exact)))
    log.info("calibrate %d activations on %d pairs", len(names), len(inputs))
    return sample(exact, names, inputs, scratch, report=report)


def _masked(traced: TracedModel) -> ir.Model:
    """The graph for CUDA: in float16, with a mask. Raises ExportError like `check_mask`."""
    model = add_mask(traced.model.clone())
    check_mask(model, traced.model, traced.checkpoint, traced.scratch)
    return lower_opset(to_float16(model))


def _variants(exact: ir.Model, recipe: Recipe, ranges: Mapping[str, Mapping[str, Range]], report: Report) -> dict[str, ir.Model]:
    """The recipe's models by file, made from the float32 model `exact`, which is modified; `ranges` are those of the int8 files."""
    models: dict[str, ir.Model] = {}
    if "float32" in recipe.precisions:
        models[file_of("float32")] = lower_opset(exact.clone())
    if recipe.vnni:
        step = f"quantize {VNNI_FILE}"
        models[VNNI_FILE] = lower_opset(quantize(exact.clone(), ranges[VNNI_FILE], levels=VNNI_LEVELS, step=step, report=report))
    if "int8" in recipe.precisions:
        # In place and last: nodes added to a clone get other names, which would change the file's hash.
        file = file_of("int8")
        models[file] = lower_opset(quantize(exact, ranges[file], step=f"quantize {file}", report=report))
    return models


def feeds_of(checkpoint: Checkpoint, pairs: Sequence[CalibrationPair]) -> Iterator[dict[str, NDArray[np.int64]]]:
    """The graph's inputs for each pair, one pair at a time."""
    tokenizer = checkpoint.pair_tokenizer()
    for pair in pairs:
        ids, segment_ids = tokenizer.encode(pair.query, [pair.document]).row(0)
        inputs = {"input_ids": ids[None].astype(np.int64), "token_type_ids": segment_ids[None].astype(np.int64)}
        yield checkpoint.signature.feed(inputs)
