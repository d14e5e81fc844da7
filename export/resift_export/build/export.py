"""export: an export in progress, from checkpoint to written artifact."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import onnx_ir as ir
from msgspec.structs import replace

from resift.artifact.certificate import Certificate, look_summary
from resift.encoding.long_pairs import with_long_pairs
from resift.plans import FIRST_LOOK, FULL
from resift_export.build.class_pools import class_pools
from resift_export.build.contents import Contents
from resift_export.build.draft import draft, feeds_of, levels_of, trace
from resift_export.build.first_look import check_student, first_look_file
from resift_export.build.fitting_rows import fitting_rows
from resift_export.build.freeze import WHOLE_UP_TO, Freezer, FrozenJudge, check_freezable, choose_full, choose_look, frozen_layers
from resift_export.build.gate import certify, faults_of, references_of
from resift_export.build.generated import GeneratedPairs
from resift_export.build.look import look_models, look_references, trace_look, unwritten
from resift_export.build.losses import look_losses, tau_losses
from resift_export.build.packed import packed_models
from resift_export.build.reuse import check_reusable
from resift_export.build.short import ShortModel, short_models, tokens_to_mend
from resift_export.checkpoint import load as checkpoints
from resift_export.checkpoint.split import check_whole
from resift_export.int8.search import Sensitivity, search, weight_names
from resift_export.progress import StepClock
from resift_export.recipe import FEWEST_FROZEN

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from resift.artifact.agreement import Pool
    from resift.artifact.certificate import SearchRecord
    from resift.artifact.folder import Artifact
    from resift.errors import ParityError
    from resift_export.build.draft import Draft, TracedModel
    from resift_export.build.freeze import Losses, Measure
    from resift_export.build.gate import ScoredBy
    from resift_export.build.graph_files import FrozenModels
    from resift_export.build.look import TracedLook
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.graph.fit import CalibrationRow
    from resift_export.progress import Report
    from resift_export.recipe import Recipe

log = logging.getLogger(__name__)


class Export:
    """An export in progress: its steps, in their order, and what each of them leaves to the next."""

    def __init__(self, recipe: Recipe, folder: Path, scratch: Path, earlier: Artifact | None, report: Report) -> None:
        """`folder`: where the artifact is written. `earlier`: the artifact whose full graphs are copied; None: they are made."""
        self.clock, self.contents = StepClock(), Contents(folder, recipe, earlier)
        self._recipe, self._folder, self._scratch, self._earlier, self._report = recipe, folder, scratch, earlier, report
        self._pairs, self._pools, self._short_pools = recipe.calibration_pairs(), recipe.gate_pools(), recipe.short_gate_pools()
        self._class_pools: list[Pool] = []
        self._generated: GeneratedPairs | None = None
        self._look_references: list[NDArray[np.float32]] = []
        self._draft: Draft | None = None
        self._exact: ir.Model | None = None
        self._fitting_rows: list[CalibrationRow] = []
        self._known: dict[ScoredBy, list[NDArray[np.float32]]] = {}
        self._searches: dict[str, SearchRecord] = {}

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
        check_whole(self.checkpoint.model, self.checkpoint.id)
        tokenizer, max_length = self.checkpoint.pair_tokenizer(), self.checkpoint.max_length
        self._pools = with_long_pairs(self._pools, tokenizer, max_length)
        if self._recipe.freeze is not None:
            self._class_pools = class_pools(self._pools, tokenizer, max_length, longer_than=WHOLE_UP_TO)
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
            self._check_freezable(ir.load(self._earlier.folder / recipe.variants()[0].file))
        else:
            full = self._trace(checkpoint, FULL)
            self._operations = full.operations
            self._check_freezable(full.model)
        if student is not None:
            with self.clock.step("trace"):
                look = trace_look(student, checkpoint, self._operations, recipe, self._scratch / FIRST_LOOK)
        self._refer(look)
        if full is not None:
            self._weight_names = weight_names(full.model, checkpoint.parameters()) if recipe.search is not None else {}
            checkpoint.release()
            with self.clock.step("draft"):
                self._draft = draft(full, recipe, self._pairs, self._report)
            self.contents.models, self._exact = self._draft.models, self._draft.calibration.model
            self.contents.packed_models = packed_models(self._draft.models, full._replace(model=self._exact), recipe)
        if look is not None:
            self.contents.first_look = unwritten(look)
            with self.clock.step("draft"):
                self.contents.first_look_models = look_models(look, recipe, self._pairs, self._report)

    def _check_freezable(self, model: ir.Model) -> None:
        """With frozen layers in the recipe: chooses the pairs that they are fitted to. Raises ExportError if there can be none."""
        if self._recipe.freeze is not None:
            check_freezable(model, self._recipe.freeze, self._what())
            self._fitting_rows = fitting_rows(self.checkpoint, self._pairs, frozen_layers(FEWEST_FROZEN))

    def _what(self) -> str:
        """What messages call the full model."""
        return f"{self.checkpoint.architecture} of {self.checkpoint.id}"

    def _trace(self, checkpoint: Checkpoint, name: str) -> TracedModel:
        with self.clock.step("trace"):
            return trace(checkpoint, self._recipe, self._scratch / name)

    def _refer(self, look: TracedLook | None) -> None:
        """Computes the checkpoint's logits of the gate's pairs, those of a split `look` and, for int8, those of generated pairs."""
        checkpoint, pools = self.checkpoint, [*self._pools, *self._short_pools]
        log.info("reference %d pools with %s", len(pools), checkpoint.reference_name)
        with self.clock.step("reference"):
            others = [*self._short_pools, *self._class_pools]
            self._references = references_of(checkpoint, self._pools, self._report, short_pools=others)
            if look is not None:
                self._look_references = look_references(look, [*self._pools, *others], self._references, self._report)
        if levels_of(self._recipe):
            with self.clock.step("generated pairs"):
                self._generated = GeneratedPairs.of(checkpoint, pools, self._report)

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
            certificate = search(self.contents.models, sensitivities, certificate, self._measure, self._weight_names)
        self._searches = certificate.search
        return certificate

    def mend_short_pairs(self, certificate: Certificate) -> Certificate:
        """Adds a graph for short pairs to each int8 file that scores some of them differently, and measures again."""
        with self.clock.step("short pairs"):
            for file in levels_of(self._recipe):
                up_to = tokens_to_mend(certificate.classes[file], self._recipe.bounds)
                if up_to is not None and file not in self.contents.full.short:
                    certificate = self._mend_pairs(file, up_to, certificate)
        self.checkpoint.release()  # again, but for copied graphs
        return certificate

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
            self.contents.short_models[file] = ShortModel(model, up_to)
            certificate = self._measure()
            if all(each.holds(self._recipe.bounds) for each in certificate.classes[file]):
                break
        return certificate

    def freeze(self, certificate: Certificate) -> Certificate:
        """With frozen layers in the recipe: freezes the full graphs and the first look, as far as these rank nearly as before."""
        requested, levels = self._recipe.freeze, levels_of(self._recipe)
        if requested is None:
            return certificate
        with self.clock.step("freeze"):
            freezer, before = self._freezer(FULL, levels), self._measure(by_class=True)
            judge = self._judge(freezer.what, before, self._measure_frozen, tau_losses)
            certificate = self._with_frozen(choose_full(freezer, requested, judge, self._operations))
            look = self.contents.look
            if look is None or look.frozen is not None or look.split is not None:
                return certificate
            look_levels = {first_look_file(file): each for file, each in levels.items()}
            freezer = self._freezer(FIRST_LOOK, look_levels)
            judge = self._judge(freezer.what, certificate, self._measure_frozen_look, look_losses)
            return self._measure_frozen_look(choose_look(freezer, requested, judge, self._operations))

    def _freezer(self, name: str, levels: Mapping[str, int]) -> Freezer:
        """That of the full graphs or of the first look."""
        models, scratch = self.contents.models_of(name, self._scratch)
        what = self._what() if name == FULL else "the first look"
        return Freezer(models, levels, self._fitting_rows, what, scratch, self._report)

    def _judge(self, what: str, before: Certificate, measure: Measure, losses: Losses) -> FrozenJudge:
        surely = self._recipe.freeze == "auto"
        return FrozenJudge(what, before, measure, losses, self.faults, surely, self.contents.verdicts)

    def look_further(self, certificate: Certificate) -> Certificate:
        """Compares the int8 files with the checkpoint on pairs that no gate lists; gives frozen graphs up if they fail there."""
        found = self._look_further(certificate)
        frozen = self.contents.frozen_models
        if frozen is None or not frozen.is_full or not self.faults(found) or self.faults(certificate):
            return found
        self.contents.verdicts.append(f"{frozen.how.layers} layers, given up: too many generated pairs are too far off")
        log.info("freeze    %s", self.contents.verdicts[-1])
        is_auto = self._recipe.freeze == "auto"
        return self._look_further(self._with_frozen(None if is_auto else frozen._replace(is_full=False)))

    def _look_further(self, certificate: Certificate) -> Certificate:
        if self._generated is None:
            return certificate
        with self.clock.step("generated pairs"):
            return self._generated.compare(self.contents.write(certificate, is_forced=False), certificate, self._report)

    def faults(self, certificate: Certificate) -> list[ParityError]:
        """The bounds that do not hold."""
        return faults_of(certificate, self.checkpoint, self.student, self._recipe, is_kept=self._earlier is not None)

    def _measure_frozen(self, models: FrozenModels) -> Certificate:
        """What frozen graphs are judged by, in place of the full ones."""
        self.contents.frozen_models = models
        return self._measure(by_class=True)

    def _with_frozen(self, models: FrozenModels | None) -> Certificate:
        self.contents.frozen_models = models
        return self._measure()

    def _measure_frozen_look(self, models: FrozenModels | None) -> Certificate:
        self.contents.frozen_look = models
        return self._measure()

    def _measure(self, *, by_class: bool = False) -> Certificate:
        """The certificate; `by_class`: measured on the pools of each length class, too, for a judgement alone."""
        bounds, others = self._recipe.bounds, [*self._short_pools, *(self._class_pools if by_class else [])]
        references = self._references[: len(self._pools) + len(others)]
        self.contents.write_graphs(self.checkpoint, self._operations)
        artifact = self.contents.write(Certificate(bounds=bounds, agreement={}, pools=[]), is_forced=False)
        with self.clock.step("verify"):
            certificate = certify(
                artifact,
                references,
                self._pools,
                bounds,
                self._report,
                short_pools=others,
                look_references=self._look_references[: len(references)],
                known=self._known,
            )
        for file, agreement in certificate.agreement.items():
            log.info("          %s: %s", file, agreement.summary())
            for each in certificate.classes[file]:
                log.info("            up to %d tokens: %s", each.up_to, each.summary())
        for file, recalls in certificate.first_looks.items():
            log.info("          %s: %s", file, look_summary(recalls))
            for each in certificate.look_classes.get(file, []):
                log.info("            against its own checkpoint, up to %d tokens: %s", each.up_to, each.summary())
        searches = {self.contents.full_file(file): record for file, record in self._searches.items()}
        return replace(certificate, reference=self.checkpoint.reference_name, search=searches)
