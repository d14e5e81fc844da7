"""convert: the whole pipeline, from checkpoint to artifact."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import onnx_ir as ir
from msgspec.structs import replace
from transformers.utils import logging as transformers_logging

from resift.artifact.certificate import Certificate, look_summary
from resift.artifact.folder import Artifact
from resift.encoding.long_pairs import with_long_pairs
from resift.plans import FIRST_LOOK, FULL
from resift_export.build.draft import draft, feeds_of, levels_of, trace
from resift_export.build.first_look import check_plan, check_student
from resift_export.build.freeze import Freezer, may_replace
from resift_export.build.gate import certify, check_runnable, faults_of, generate, look_further, references_of
from resift_export.build.graph_files import WrittenModel, frozen_file, with_short, write_first_look, write_frozen, write_graphs
from resift_export.build.look import look_models, look_references, trace_look, unwritten
from resift_export.build.reuse import check_reusable, check_search, copy_first_look, copy_graphs, first_look_of
from resift_export.build.short import ShortModel, short_models, tokens_to_mend
from resift_export.build.staging import staged
from resift_export.build.write import write
from resift_export.checkpoint import load as checkpoints
from resift_export.checkpoint.source import folder_of
from resift_export.checkpoint.split import check_whole
from resift_export.int8.search import Sensitivity, search, weight_names
from resift_export.progress import StepClock, no_report

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from resift.artifact.agreement import Pool
    from resift.errors import ParityError
    from resift_export.build.draft import Draft, TracedModel
    from resift_export.build.graph_files import CopiedGraph, FrozenGraphs, FrozenModels
    from resift_export.build.look import TracedLook
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.progress import Report
    from resift_export.recipe import Recipe

GENERATED_PAIRS = 1000
"""The most generated pairs on which the int8 files are compared with the checkpoint."""
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

    `first_look`: a cheaper checkpoint with the same tokenizer (folder or hub id) that decides which documents the full model
    scores. `plan`: the plan, as text, of calls that have a top_k and name no plan; None: the full model scores all their documents.
    `keep`: an earlier artifact of the checkpoint whose full graphs are copied unchanged, and so are its first look and its plan
    unless others are given; the gate measures them again. `report` is told the progress of every step that takes long.

    Raises ExportError if a checkpoint cannot be used or `out` cannot be written, InputError for bad calibration or gate files, for
    a plan whose graphs the artifact does not have or for `force` with a search, and ParityError, with nothing written, if the
    artifact does not rank as its checkpoint does or the recall of the first look is too low, and `force` is not set.
    """
    check_search(recipe, force=force, keep=keep)
    earlier = None if keep is None else Artifact.find(keep)
    if earlier is not None and first_look is None and plan is None:
        plan = earlier.manifest.plan
    has_copied_look = earlier is not None and first_look_of(earlier) is not None
    check_plan(plan, has_first_look=first_look is not None or has_copied_look)
    check_runnable(recipe.variants())
    transformers_logging.disable_progress_bar()  # it would draw bars of its own
    sources = [folder_of(each) for each in (source, first_look) if each is not None] + ([] if earlier is None else [earlier.folder])
    with staged(out, overwrite=overwrite, sources=[each for each in sources if each is not None]) as (folder, scratch):
        export = _Export(recipe, folder, scratch, earlier, report)
        with export.clock.step("load"):
            export.load(source, first_look, revision=revision, name=name, allow_pickle=allow_pickle)
        export.draft()
        certificate = export.freeze(export.look_further(export.mend_short_pairs(export.search(export.gate()))))
        if recipe.no_texts:
            certificate = certificate.without_texts()
        faults = export.faults(certificate)
        if faults and not force:
            raise faults[0]
        log.info("write     %s", out)
        export.write(certificate, is_forced=bool(faults), plan=plan)
        log.info("took      %s", export.clock.summary())
    return out


class _Export:
    """An export in progress: its steps, in their order, and what each of them leaves to the next."""

    def __init__(self, recipe: Recipe, folder: Path, scratch: Path, earlier: Artifact | None, report: Report) -> None:
        """`folder`: where the artifact is written. `earlier`: the artifact whose full graphs are copied; None: they are made."""
        self.clock = StepClock()
        self._recipe, self._folder, self._scratch, self._earlier, self._report = recipe, folder, scratch, earlier, report
        self._pairs, self._pools, self._short_pools = recipe.calibration_pairs(), recipe.gate_pools(), recipe.short_gate_pools()
        self._short_models: dict[str, ShortModel] = {}
        self._generated: list[Pool] = []
        self._generated_references: list[NDArray[np.float32]] = []
        self._draft: Draft | None = None
        self._exact: ir.Model | None = None
        self._first_look_models: dict[str, ir.Model] = {}
        self._look_references: list[NDArray[np.float32]] = []
        self._first_look: WrittenModel | CopiedGraph | None = None
        self._freezer: Freezer | None = None
        self._frozen_models: FrozenModels | None = None
        self._frozen: FrozenGraphs | None = None

    def load(self, source: str, first_look: str | None, *, revision: str | None, name: str | None, allow_pickle: bool) -> None:
        """Loads the checkpoints."""
        log.info("load      %s", source)
        self.checkpoint = checkpoints.load(
            source,
            revision=revision,
            name=name,
            allow_pickle=allow_pickle,
            relevant_label=self._recipe.relevant_label,
            prompt_name=self._recipe.prompt_name,
            activation=self._recipe.activation,
            texts=[text for pool in self._pools for text in (pool.query, *pool.documents)],
        )
        self._pools = with_long_pairs(self._pools, self.checkpoint.pair_tokenizer(), self.checkpoint.max_length)
        check_whole(self.checkpoint.model, self.checkpoint.id)
        self.student = None
        if first_look is not None:
            log.info("load      %s", first_look)
            self.student = checkpoints.load(first_look, allow_pickle=allow_pickle)
            check_student(self.student, self.checkpoint)

    def draft(self) -> None:
        """Makes the references and, unless they are copied, the graphs at the recipe's precisions; then weights are released."""
        recipe, checkpoint, student = self._recipe, self.checkpoint, self.student
        look = full = None
        if self._earlier is not None:
            check_reusable(self._earlier, checkpoint, recipe)
            self._operations = self._earlier.manifest.full.operations
        if self._earlier is None or recipe.freeze is not None:
            full = self._trace(checkpoint, FULL)
            self._operations = full.operations if self._earlier is None else self._operations
            if recipe.freeze is not None:
                self._freezer = Freezer(full.model.clone(), checkpoint, recipe, self._pairs, self._scratch / FULL)
        if student is not None:
            with self.clock.step("trace"):
                look = trace_look(student, checkpoint, self._operations, recipe, self._scratch / FIRST_LOOK)
        self._refer(look)
        if full is not None:
            self._weight_names = weight_names(full.model, checkpoint.parameters()) if recipe.search is not None else {}
            checkpoint.release()
            self._exact = full.model
        if full is not None and self._earlier is None:
            with self.clock.step("draft"):
                self._draft = draft(full, recipe, self._pairs, self._report)
            self._exact = self._draft.calibration.model
        if look is not None:
            self._first_look = unwritten(look)
            with self.clock.step("draft"):
                self._first_look_models = look_models(look, recipe, self._pairs, self._report)

    def _trace(self, checkpoint: Checkpoint, name: str) -> TracedModel:
        with self.clock.step("trace"):
            return trace(checkpoint, self._recipe, self._scratch / name)

    def _refer(self, look: TracedLook | None) -> None:
        """Computes the checkpoint's logits of the gate's pairs, those of a split `look` and, for int8, those of generated pairs."""
        checkpoint, pools = self.checkpoint, [*self._pools, *self._short_pools]
        log.info("reference %d pools with %s", len(pools), checkpoint.reference_name)
        with self.clock.step("reference"):
            self._references = references_of(checkpoint, self._pools, self._report, short_pools=self._short_pools)
            if look is not None:
                self._look_references = look_references(look, pools, self._references, self._report)
        if levels_of(self._recipe):
            with self.clock.step("generated pairs"):
                self._generated = generate(checkpoint, pools, GENERATED_PAIRS)
                log.info("reference %d generated pools", len(self._generated))
                generated = [(pool.query, pool.documents) for pool in self._generated]
                self._generated_references = checkpoint.references(generated, self._report_generated)

    def gate(self) -> Certificate:
        """Writes the graphs, and measures how well they rank the gate's pools."""
        log.info("verify    on %d pools, against %s", len(self._pools), self.checkpoint.reference_name)
        return self._measure()

    def search(self, certificate: Certificate) -> Certificate:
        """With a search in the recipe: replaces the int8 graphs that the gate refused, and measures again."""
        if self._recipe.search is None or self._draft is None:
            return certificate
        sensitivities = {
            file: Sensitivity(
                self._draft.calibration,
                self._draft.ranges[file],
                levels=levels,
                rule=self.checkpoint.relevance,
                bounds=self._recipe.bounds,
                budget=self._recipe.search,
                report=self._report,
            )
            for file, levels in levels_of(self._recipe).items()
        }
        with self.clock.step("search"):
            return search(self._draft.models, sensitivities, certificate, self._measure, self._weight_names)

    def mend_short_pairs(self, certificate: Certificate) -> Certificate:
        """Adds a graph for short pairs to each int8 file that scores some of them differently, and measures again."""
        search_records = certificate.search
        with self.clock.step("short pairs"):
            for file in levels_of(self._recipe):
                up_to = tokens_to_mend(certificate.classes[file], self._recipe.bounds)
                if up_to is not None and file not in self._full.short:
                    certificate = self._mend_pairs(file, up_to, certificate)
        self.checkpoint.release()  # again, but for copied graphs
        return replace(certificate, search=search_records)

    def _mend_pairs(self, file: str, up_to: int, certificate: Certificate) -> Certificate:
        """The certificate with a graph for pairs of up to `up_to` tokens beside `file`; without, if no pairs are so short."""
        feeds = feeds_of(self.checkpoint, self._recipe.short_calibration_pairs())
        short_feeds = [feed for feed in feeds if feed["input_ids"].shape[1] <= up_to]
        if not short_feeds:  # the tokenizer cuts words into many tokens
            return certificate
        self._exact = self._exact or self._trace(self.checkpoint, FULL).model  # a copied graph has not been traced
        models = short_models(
            self._exact,
            ir.load(self._folder / file),
            short_feeds,
            rule=self.checkpoint.relevance,
            bounds=self._recipe.bounds,
            scratch=self._scratch / FULL,
            report=self._report,
        )
        for model in models:
            self._short_models[file] = ShortModel(model, up_to)
            certificate = self._measure()
            if all(each.holds(self._recipe.bounds) for each in certificate.classes[file]):
                break
        return certificate

    def look_further(self, certificate: Certificate) -> Certificate:
        """Compares the int8 files with the checkpoint on pairs that no gate lists."""
        if not self._generated:
            return certificate
        log.info("verify    on %d generated pools", len(self._generated))
        with self.clock.step("generated pairs"):
            artifact = self.write(certificate, is_forced=False)
            return look_further(artifact, certificate, self._generated, self._generated_references, self._report_generated)

    def freeze(self, certificate: Certificate) -> Certificate:
        """With frozen layers in the recipe: adds graphs that have them, in place of the full ones if these rank nearly the same."""
        freezer, is_auto = self._freezer, self._recipe.freeze == "auto"
        if freezer is None:
            return certificate
        models = {variant.file: ir.load(self._folder / variant.file) for variant in self._recipe.variants()}
        kept, found, candidate = None, certificate, None
        for layers in freezer.numbers:
            with self.clock.step("freeze"):
                self._frozen_models = candidate = freezer.freeze(models, levels_of(self._recipe), layers, self._report)
            measured = self.look_further(self._measure())
            if not may_replace(certificate, measured, layers) or (self.faults(measured) and not self.faults(certificate)):
                break
            kept, found = candidate, measured
        if kept is None and candidate is not None and not is_auto:
            kept = candidate._replace(is_full=False)
        self._frozen_models = kept
        if kept is not None and not kept.is_full:
            return replace(self.look_further(self._measure()), search=certificate.search)
        self._write_graphs()
        searches = certificate.search.items()
        return found if kept is None else replace(found, search={frozen_file(file): record for file, record in searches})

    def faults(self, certificate: Certificate) -> list[ParityError]:
        """The bounds that do not hold."""
        return faults_of(certificate, self.checkpoint, self.student, self._recipe, is_kept=self._earlier is not None)

    def write(self, certificate: Certificate, *, is_forced: bool, plan: str | None = None) -> Artifact:
        """Writes the files around the graphs."""
        return write(
            self._folder,
            self._recipe,
            self._full,
            certificate,
            is_forced=is_forced,
            first_look=self._first_look,
            frozen=self._frozen,
            plan=plan,
        )

    def _report_generated(self, step: str, done: int, total: int) -> None:
        self._report(f"{step} on generated pairs", done, total)

    def _measure(self) -> Certificate:
        bounds = self._recipe.bounds
        self._write_graphs()
        artifact = self.write(Certificate(bounds=bounds, agreement={}, pools=[]), is_forced=False)
        with self.clock.step("verify"):
            certificate = certify(
                artifact,
                self._references,
                self._pools,
                bounds,
                self._report,
                short_pools=self._short_pools,
                look_references=self._look_references,
            )
        for file, agreement in certificate.agreement.items():
            log.info("          %s: %s", file, agreement.summary())
            for each in certificate.classes[file]:
                log.info("            up to %d tokens: %s", each.up_to, each.summary())
        for file, recalls in certificate.first_looks.items():
            log.info("          %s: %s", file, look_summary(recalls))
            for each in certificate.look_classes.get(file, []):
                log.info("            against its own checkpoint, up to %d tokens: %s", each.up_to, each.summary())
        return replace(certificate, reference=self.checkpoint.reference_name)

    def _write_graphs(self) -> None:
        earlier, short, fingerprint = self._earlier, {}, None
        if earlier is not None:
            graphs, fingerprint = copy_graphs(earlier, earlier.manifest.full, self._folder), earlier.fingerprint()
            short = {variant.file: variant.short for variant in earlier.manifest.full.variants if variant.short is not None}
            look = first_look_of(earlier)
            if look is not None and self.student is None:
                self._first_look = copy_first_look(earlier, look, self._folder)
        else:
            assert self._draft is not None
            graphs = write_graphs(self._folder, self._draft.models)
        full = WrittenModel(self.checkpoint, graphs, self._operations, fingerprint, short)
        self._full = with_short(self._folder, full, self._short_models)
        self._frozen = write_frozen(self._folder, self._frozen_models, graphs)
        if isinstance(self._first_look, WrittenModel):
            files = write_first_look(self._folder, self._first_look_models, graphs)
            self._first_look = self._first_look._replace(graphs=files)
