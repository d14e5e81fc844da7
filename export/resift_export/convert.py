"""convert: the whole pipeline, from checkpoint to artifact."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from msgspec.structs import replace
from transformers.utils import logging as transformers_logging

from resift.artifact.agreement import refuse
from resift.artifact.certificate import Certificate, look_summary, refuse_first_look
from resift.artifact.folder import Artifact
from resift.errors import InputError, ParityError
from resift.plans import FIRST_LOOK
from resift_export.build.first_look import check_cheaper, check_plan, check_student, first_look_file
from resift_export.build.gate import certify, check_runnable, references_of
from resift_export.build.long_pairs import with_long_pairs
from resift_export.build.reuse import check_reusable, copy_graphs
from resift_export.build.staging import staged
from resift_export.build.write import FirstLook, write, write_first_look, write_graphs
from resift_export.checkpoint import load as checkpoints
from resift_export.checkpoint.source import folder_of
from resift_export.graph.edit import lower_opset
from resift_export.graph.optimize import optimize
from resift_export.graph.trace import TRACERS
from resift_export.graph.weights import map_weights
from resift_export.int8.calibration import operations_of, sample
from resift_export.int8.levels import VNNI_LEVELS, WEIGHT_LEVELS
from resift_export.int8.products import products
from resift_export.int8.quantize import quantize
from resift_export.int8.ranges import choose_ranges
from resift_export.int8.search import Sensitivity, search, weight_names
from resift_export.progress import no_report
from resift_export.recipe import VNNI_FILE, file_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    import onnx_ir as ir
    from numpy.typing import NDArray

    from resift_export.build.write import GraphFiles
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.int8.ranges import Range
    from resift_export.progress import Report
    from resift_export.recipe import CalibrationPair, Recipe

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
    first_look: str | None = None,
    plan: str | None = None,
    keep: str | None = None,
    allow_pickle: bool = False,
    force: bool = False,
    overwrite: bool = False,
    report: Report = no_report,
) -> Path:
    """Turns the checkpoint `source` (folder or hub id) into a verified artifact at `out`, and returns `out`.

    `first_look`: a cheaper checkpoint of the same tokenizer (folder or hub id) that decides who is read in full. `plan`: as text,
    what serves calls with a top_k that name no plan; None: they are read in full. `keep`: an earlier artifact of the
    checkpoint whose full graphs are taken over to the bit; the gate measures them again. `report` is told of the progress of every
    step that takes long.

    Raises ExportError if a checkpoint cannot be used or `out` cannot be written, InputError for bad calibration or gate files, for
    a plan that the artifact has no graphs for or for `force` with a search, and ParityError, with nothing written, if the artifact
    does not rank as its checkpoint does or the first look loses too much of the best, and `force` is not set.
    """
    _check_search(recipe, force=force, keep=keep)
    check_plan(plan, has_first_look=first_look is not None)
    check_runnable(recipe.variants())
    transformers_logging.disable_progress_bar()  # it would draw bars of its own
    earlier = None if keep is None else Artifact.find(keep)
    sources = [folder_of(each) for each in (source, first_look) if each is not None] + ([] if earlier is None else [earlier.folder])
    with staged(out, overwrite=overwrite, sources=[each for each in sources if each is not None]) as (folder, scratch):
        pairs, pools = recipe.calibration_pairs(), recipe.gate_pools()
        log.info("load      %s", source)
        checkpoint = checkpoints.load(
            source,
            revision=revision,
            name=name,
            allow_pickle=allow_pickle,
            relevant_label=recipe.relevant_label,
            prompt_name=recipe.prompt_name,
        )
        pools = with_long_pairs(pools, checkpoint)
        student = None if first_look is None else _student(first_look, checkpoint, allow_pickle=allow_pickle)
        traced = None
        if earlier is None:
            traced = _Traced.of(checkpoint, recipe, scratch / "full")
            operations = traced.operations
        else:
            check_reusable(earlier, checkpoint, recipe)
            operations = earlier.manifest.full.operations
        traced_look = None if student is None else _traced_look(student, checkpoint, operations, recipe, scratch)
        log.info("reference %d pools with %s", len(pools), checkpoint.reference_name)
        references = references_of(checkpoint, pools, report)
        names = weight_names(traced.model, checkpoint.parameters()) if traced is not None and recipe.search is not None else {}
        checkpoint.release()
        full = None if traced is None else _Draft.of(traced, recipe, pairs, report)
        models = {} if full is None else full.models
        look_models = {} if traced_look is None else _look_models(traced_look, recipe, pairs, report)
        log.info("verify    on %d pools, against %s", len(pools), checkpoint.reference_name)
        graphs: dict[str, GraphFiles] = {}
        looks: dict[str, GraphFiles] = {}
        look = None if traced_look is None else FirstLook(traced_look.checkpoint, looks, traced_look.operations)

        def gate() -> Certificate:
            graphs.update(write_graphs(folder, models) if earlier is None else copy_graphs(earlier, folder))
            looks.update(write_first_look(folder, look_models, graphs))
            plain = Certificate(bounds=recipe.bounds, agreement={}, pools=[])
            draft = write(folder, checkpoint, recipe, graphs, plain, operations=operations, is_forced=force, first_look=look)
            certificate = replace(certify(draft, references, pools, recipe.bounds, report), reference=checkpoint.reference_name)
            for file, agreement in certificate.agreement.items():
                log.info("          %s: %s", file, agreement.summary())
            for file, kept in certificate.first_looks.items():
                log.info("          %s: %s", file, look_summary(kept))
            return certificate

        certificate = gate()
        if recipe.search is not None and traced is not None and full is not None:
            sensitivities = {
                file: Sensitivity(
                    full.original,
                    full.samples,
                    full.ranges[file],
                    levels=levels,
                    feeds=full.inputs,
                    rule=checkpoint.relevance,
                    bounds=recipe.bounds,
                    budget=recipe.search,
                    scratch=traced.scratch,
                    report=report,
                )
                for file, levels in _levels(recipe).items()
            }
            certificate = search(models, sensitivities, certificate, gate, names)
        faults = _faults(certificate, checkpoint, student)
        if faults and not force:
            raise faults[0]
        log.info("write     %s", out)
        write(
            folder,
            checkpoint,
            recipe,
            graphs,
            certificate,
            operations=operations,
            is_forced=bool(faults),
            first_look=look,
            plan=plan,
            reused_from=None if earlier is None else earlier.fingerprint(),
        )
    return out


def _check_search(recipe: Recipe, *, force: bool, keep: str | None) -> None:
    """Raises InputError if a search is asked for beside what excludes it."""
    if force and recipe.search is not None:
        raise InputError("--force writes what the gate refuses, --search what it accepts; expected one of them")
    if keep is not None and recipe.search is not None:
        raise InputError("--keep takes graphs over as they are, --search changes them; expected one of them")


def _faults(certificate: Certificate, checkpoint: Checkpoint, student: Checkpoint | None) -> list[ParityError]:
    """What the gate refuses."""
    checks = [
        partial(refuse, agreement, certificate.bounds, f"{checkpoint.id} in {file}")
        for file, agreement in certificate.agreement.items()
    ]
    for file, kept in certificate.first_looks.items():
        assert student is not None
        checks.append(partial(refuse_first_look, kept, f"{student.id} in {file}"))
    faults = []
    for check in checks:
        try:
            check()
        except ParityError as error:
            faults.append(error)
    return faults


class _Traced(NamedTuple):
    """A checkpoint's float32 graph, whose weights are on disk."""

    checkpoint: Checkpoint
    model: ir.Model
    operations: int
    """per token"""
    scratch: Path
    """where its weights and its sessions are"""

    @classmethod
    def of(cls, checkpoint: Checkpoint, recipe: Recipe, scratch: Path) -> Self:
        expected = TRACE_SECONDS + TRACE_SECONDS_PER_LAYER * checkpoint.layers
        log.info("trace     %s with %s, about %d s", checkpoint.architecture, recipe.tracer, expected)
        scratch.mkdir()
        model = map_weights(optimize(TRACERS[recipe.tracer](checkpoint), checkpoint.max_length), scratch)
        return cls(checkpoint, model, operations_of(model, scratch), scratch)


class _Draft(NamedTuple):
    """A checkpoint's graph on its way to its variants."""

    original: ir.Model
    """in float32"""
    inputs: Sequence[Mapping[str, NDArray[np.int64]]]
    """of the calibration pairs; none if no variant is calibrated"""
    samples: Mapping[str, NDArray[np.float32]]
    """sampled activations, for a search; otherwise none, as they take as much memory as the weights"""
    ranges: Mapping[str, Mapping[str, Range]]
    models: dict[str, ir.Model]
    """by file"""

    @classmethod
    def of(cls, traced: _Traced, recipe: Recipe, pairs: Sequence[CalibrationPair], report: Report) -> Self:
        """The graph of `traced`, which is modified, at the recipe's precisions."""
        inputs = list(feeds(traced.checkpoint, pairs)) if "int8" in recipe.precisions else []
        samples = _samples(traced.model, inputs, traced.scratch, report)
        ranges = {
            file: choose_ranges(traced.model, samples, levels=levels, step=f"ranges of {file}", report=report)
            for file, levels in _levels(recipe).items()
        }
        original = traced.model.clone()
        kept = samples if recipe.search is not None else {}
        del samples
        return cls(original, inputs, kept, ranges, _variants(traced.model, recipe, ranges, report))


def _student(source: str, checkpoint: Checkpoint, *, allow_pickle: bool) -> Checkpoint:
    log.info("load      %s", source)
    student = checkpoints.load(source, allow_pickle=allow_pickle)
    check_student(student, checkpoint)
    return student


def _traced_look(student: Checkpoint, checkpoint: Checkpoint, operations: int, recipe: Recipe, scratch: Path) -> _Traced:
    """The student's graph; its own weights are released. `operations`: those of the full graph a token."""
    traced = _Traced.of(student, recipe, scratch / FIRST_LOOK)
    check_cheaper(student, traced.operations, checkpoint, operations)
    student.release()
    return traced


def _look_models(traced: _Traced, recipe: Recipe, pairs: Sequence[CalibrationPair], report: Report) -> dict[str, ir.Model]:
    """The student's graph at the recipe's precisions, by file."""

    def of_look(step: str, done: int, total: int) -> None:
        report(f"first look: {step}", done, total)

    return {first_look_file(file): model for file, model in _Draft.of(traced, recipe, pairs, of_look).models.items()}


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
    tokenizer = checkpoint.pair_tokenizer()
    for pair in pairs:
        ids, segment_ids = tokenizer.encode(pair.query, [pair.document]).row(0)
        inputs = {"input_ids": ids[None].astype(np.int64), "token_type_ids": segment_ids[None].astype(np.int64)}
        yield checkpoint.signature.feed(inputs)
