"""convert: the whole pipeline, from checkpoint to artifact."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from resift.errors import InputError, ParityError
from resift.parity import Certificate, look_summary, refuse, refuse_first_look
from resift_export import checkpoint as checkpoints
from resift_export.aside import aside
from resift_export.calibration import operations_of, sample
from resift_export.first_look import check_cheaper, check_plan, check_student, file_of_look
from resift_export.graph import lower_opset
from resift_export.longpairs import with_long_pairs
from resift_export.optimize import optimize
from resift_export.parity import certify, check_runnable, references_of
from resift_export.quantize import VNNI_LEVELS, WEIGHT_LEVELS, choose_ranges, products, quantize
from resift_export.recipe import VNNI_FILE, file_of
from resift_export.search import Sensitivity, search, weight_names
from resift_export.source import folder_of
from resift_export.trace import TRACERS
from resift_export.write import FirstLook, write

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    import onnx_ir as ir
    from numpy.typing import NDArray

    from resift_export.checkpoint import Checkpoint
    from resift_export.quantize import Range
    from resift_export.recipe import CalibrationPair, Recipe

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
    allow_pickle: bool = False,
    force: bool = False,
    overwrite: bool = False,
) -> Path:
    """Turns the checkpoint `source` (folder or hub id) into a verified artifact at `out`, and returns `out`.

    `first_look`: a cheaper checkpoint of the same tokenizer (folder or hub id) that decides who is read in full. `plan`: as text,
    what serves calls with a top_k that name no plan; None: they are read in full.

    Raises ExportError if a checkpoint cannot be used or `out` cannot be written, InputError for bad calibration or gate files, for
    a plan that the artifact has no graphs for or for `force` with a search, and ParityError, with nothing written, if the artifact
    does not rank as its checkpoint does or the first look loses too much of the best, and `force` is not set.
    """
    if force and recipe.search is not None:
        raise InputError("--force writes what the gate refuses, --search what it accepts; expected one of them")
    check_plan(plan, has_look=first_look is not None)
    check_runnable(recipe.variants())
    sources = [folder_of(each) for each in (source, first_look) if each is not None]
    with aside(out, overwrite=overwrite, sources=[each for each in sources if each is not None]) as folder:
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
        full = _Draft.of(checkpoint, recipe, pairs)
        models = full.models
        look = None if student is None else _first_look(student, checkpoint, full.operations, recipe, pairs)
        log.info("verify    on %d pools, against %s", len(pools), checkpoint.referee)
        references = references_of(checkpoint, pools)

        def gate() -> Certificate:
            plain = Certificate(bounds=recipe.bounds, agreement={}, pools=[])
            draft = write(folder, checkpoint, recipe, models, plain, operations=full.operations, forced=force, first_look=look)
            certificate = replace(certify(draft, references, pools, recipe.bounds), reference=checkpoint.referee)
            for file, agreement in certificate.agreement.items():
                log.info("          %s: %s", file, agreement.summary())
            for file, kept in certificate.first_looks.items():
                log.info("          %s: %s", file, look_summary(kept))
            return certificate

        certificate = gate()
        if recipe.search is not None:
            inputs = list(feeds(checkpoint, pairs))
            sensitivities = {
                file: Sensitivity(
                    full.original,
                    full.samples,
                    full.ranges[file],
                    levels=levels,
                    feeds=inputs,
                    rule=checkpoint.relevance,
                    bounds=recipe.bounds,
                    budget=recipe.search,
                )
                for file, levels in _levels(recipe).items()
            }
            certificate = search(models, sensitivities, certificate, gate, weight_names(full.original, checkpoint.parameters()))
        faults = _faults(certificate, checkpoint, student)
        if faults and not force:
            raise faults[0]
        log.info("write     %s", out)
        write(
            folder,
            checkpoint,
            recipe,
            models,
            certificate,
            operations=full.operations,
            forced=bool(faults),
            first_look=look,
            plan=plan,
        )
    return out


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


@dataclass(frozen=True, slots=True)
class _Draft:
    """A checkpoint's graph on its way to its variants."""

    original: ir.Model
    """in float32"""
    operations: int
    samples: Mapping[str, NDArray[np.float32]]
    ranges: Mapping[str, Mapping[str, Range]]
    models: dict[str, ir.Model]
    """by file"""

    @classmethod
    def of(cls, checkpoint: Checkpoint, recipe: Recipe, pairs: Sequence[CalibrationPair]) -> Self:
        log.info("trace     %s with %s", checkpoint.architecture, recipe.tracer)
        exact = optimize(TRACERS[recipe.tracer](checkpoint), checkpoint.max_length)
        operations = operations_of(exact)
        samples = _samples(exact, recipe, checkpoint, pairs)
        ranges = {file: choose_ranges(exact, samples, levels=levels) for file, levels in _levels(recipe).items()}
        original = exact.clone()
        return cls(original, operations, samples, ranges, _variants(exact, recipe, ranges))


def _student(source: str, checkpoint: Checkpoint, *, allow_pickle: bool) -> Checkpoint:
    log.info("load      %s", source)
    student = checkpoints.load(source, allow_pickle=allow_pickle)
    check_student(student, checkpoint)
    return student


def _first_look(
    student: Checkpoint, checkpoint: Checkpoint, operations: int, recipe: Recipe, pairs: Sequence[CalibrationPair]
) -> FirstLook:
    """The student's graph at the recipe's precisions. `operations`: those of the full graph a token."""
    draft = _Draft.of(student, recipe, pairs)
    check_cheaper(student, draft.operations, checkpoint, operations)
    return FirstLook(student, {file_of_look(file): model for file, model in draft.models.items()}, draft.operations)


def _levels(recipe: Recipe) -> dict[str, int]:
    """The largest magnitude of a weight in each int8 file of the recipe."""
    levels = {file_of("int8"): WEIGHT_LEVELS, VNNI_FILE: VNNI_LEVELS}
    return {variant.file: levels[variant.file] for variant in recipe.variants() if variant.precision == "int8"}


def _samples(
    exact: ir.Model, recipe: Recipe, checkpoint: Checkpoint, pairs: Sequence[CalibrationPair]
) -> Mapping[str, NDArray[np.float32]]:
    """float32[rows, inputs]: sampled activations of each product of `exact`, by name; empty if the recipe quantizes nothing."""
    if "int8" not in recipe.precisions:
        return {}
    names = list(dict.fromkeys(str(product.source.name) for product in products(exact)))
    log.info("calibrate %d activations on %d pairs", len(names), len(pairs))
    return sample(exact, names, feeds(checkpoint, pairs))


def _variants(exact: ir.Model, recipe: Recipe, ranges: Mapping[str, Mapping[str, Range]]) -> dict[str, ir.Model]:
    """The recipe's models by file, made from the float32 model `exact`, which is modified; `ranges` are those of the int8 files."""
    models: dict[str, ir.Model] = {}
    if "float32" in recipe.precisions:
        models[file_of("float32")] = lower_opset(exact.clone())
    if recipe.vnni:
        models[VNNI_FILE] = lower_opset(quantize(exact.clone(), ranges[VNNI_FILE], levels=VNNI_LEVELS))
    if "int8" in recipe.precisions:
        # In place and last: nodes added to a clone get other names, which would change the file's hash.
        models[file_of("int8")] = lower_opset(quantize(exact, ranges[file_of("int8")]))
    return models


def feeds(checkpoint: Checkpoint, pairs: Sequence[CalibrationPair]) -> Iterator[dict[str, NDArray[np.int64]]]:
    """The graph's inputs for each pair, one pair at a time."""
    tokenizer = checkpoint.pair_tokenizer()
    for pair in pairs:
        ids, segment_ids = tokenizer.encode(pair.query, [pair.document]).row(0)
        inputs = {"input_ids": ids[None].astype(np.int64), "token_type_ids": segment_ids[None].astype(np.int64)}
        yield checkpoint.signature.feed(inputs)
