"""convert: the whole pipeline, from checkpoint to artifact."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from transformers.utils import logging as transformers_logging

from resift.errors import InputError
from resift.pairs import PairTokenizer
from resift.parity import Certificate, refuse
from resift_export import checkpoint as checkpoints
from resift_export.aside import aside
from resift_export.calibration import operations_of, sample
from resift_export.graph import lower_opset
from resift_export.optimize import optimize
from resift_export.parity import certify, check_runnable, references_of
from resift_export.progress import unreported
from resift_export.quantize import VNNI_LEVELS, WEIGHT_LEVELS, products, quantize
from resift_export.ranges import choose_ranges
from resift_export.recipe import VNNI_FILE, file_of
from resift_export.search import Sensitivity, search, weight_names
from resift_export.trace import TRACERS
from resift_export.weights import on_disk
from resift_export.write import write, write_graphs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import onnx_ir as ir
    from numpy.typing import NDArray

    from resift_export.checkpoint import Checkpoint
    from resift_export.progress import Report
    from resift_export.ranges import Range
    from resift_export.recipe import CalibrationPair, Recipe
    from resift_export.write import Written

TRACE_SECONDS, TRACE_SECONDS_PER_LAYER = 3, 0.5
"""About what tracing takes, whose progress cannot be told: MiniLM's 12 layers take 9 s."""

log = logging.getLogger(__name__)


def convert(  # noqa: PLR0913 - the options of the command line, by name
    source: str,
    out: Path,
    recipe: Recipe,
    *,
    revision: str | None = None,
    name: str | None = None,
    allow_pickle: bool = False,
    force: bool = False,
    overwrite: bool = False,
    report: Report = unreported,
) -> Path:
    """Turns the checkpoint `source` (folder or hub id) into a verified artifact at `out`, and returns `out`.

    `report` is told of the progress of every step that takes long. Raises ExportError if the checkpoint cannot be used or `out`
    cannot be written, InputError for bad calibration or gate files or for `force` with a search, and ParityError, with nothing
    written, if the artifact does not rank as its checkpoint does and `force` is not set.
    """
    if force and recipe.search is not None:
        raise InputError("--force writes what the gate refuses, --search what it accepts; expected one of them")
    check_runnable(recipe.variants())
    transformers_logging.disable_progress_bar()  # it would draw bars of its own
    with aside(out, overwrite=overwrite, source=checkpoints.folder_of(source)) as (folder, scratch):
        pairs, pools = recipe.calibration_pairs(), recipe.gate_pools()
        log.info("load      %s", source)
        checkpoint = checkpoints.load(source, revision=revision, name=name, allow_pickle=allow_pickle)
        expected = TRACE_SECONDS + TRACE_SECONDS_PER_LAYER * checkpoint.layers
        log.info("trace     %s with %s, about %d s", type(checkpoint.model).__name__, recipe.tracer, expected)
        exact = on_disk(optimize(TRACERS[recipe.tracer](checkpoint), checkpoint.max_length), scratch)
        log.info("reference %d pools with PyTorch", len(pools))
        references = references_of(checkpoint, pools, report)
        names = weight_names(exact, checkpoint.parameters()) if recipe.search is not None else {}
        checkpoint.release()
        operations = operations_of(exact, scratch)
        inputs = list(feeds(checkpoint, pairs)) if "int8" in recipe.precisions else []
        samples = _samples(exact, inputs, scratch, report)
        ranges = {
            file: choose_ranges(exact, samples, levels=levels, step=f"ranges of {file}", report=report)
            for file, levels in _levels(recipe).items()
        }
        original = exact.clone()
        models = _variants(exact, recipe, ranges, report)
        log.info("verify    on %d pools", len(pools))
        graphs: dict[str, Written] = {}

        def gate() -> Certificate:
            graphs.update(write_graphs(folder, models))
            plain = Certificate(bounds=recipe.bounds, agreement={}, pools=[])
            draft = write(folder, checkpoint, recipe, graphs, plain, operations=operations, forced=force)
            certificate = certify(draft, references, pools, recipe.bounds, report)
            for file, agreement in certificate.agreement.items():
                log.info("          %s: %s", file, agreement.summary())
            return certificate

        certificate = gate()
        if recipe.search is not None:
            sensitivities = {
                file: Sensitivity(
                    original,
                    samples,
                    ranges[file],
                    levels=levels,
                    feeds=inputs,
                    rule=checkpoint.relevance,
                    bounds=recipe.bounds,
                    budget=recipe.search,
                    scratch=scratch,
                    report=report,
                )
                for file, levels in _levels(recipe).items()
            }
            certificate = search(models, sensitivities, certificate, gate, names)
        forced = False
        for file, agreement in certificate.agreement.items():
            if not force:
                refuse(agreement, recipe.bounds, f"{checkpoint.id} in {file}")
            forced = forced or bool(agreement.violations(recipe.bounds))
        log.info("write     %s", out)
        write(folder, checkpoint, recipe, graphs, certificate, operations=operations, forced=forced)
    return out


def _levels(recipe: Recipe) -> dict[str, int]:
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


def feeds(checkpoint: Checkpoint, pairs: Sequence[CalibrationPair]) -> Iterator[dict[str, NDArray[np.int64]]]:
    """The graph's inputs for each pair, one pair at a time."""
    tokenizer = PairTokenizer(checkpoint.tokenizer_json(), checkpoint.max_length)
    for pair in pairs:
        ids, segment_ids = tokenizer.encode(pair.query, [pair.document]).row(0)
        inputs = {"input_ids": ids[None].astype(np.int64), "token_type_ids": segment_ids[None].astype(np.int64)}
        yield checkpoint.signature.feed(inputs)
