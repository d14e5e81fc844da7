"""distillation: the whole pipeline, from a teacher and pools to a student's checkpoint folder."""

from __future__ import annotations

import logging
import platform
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec
import torch
from transformers.utils import logging as transformers_logging

from resift.encoding.tokenizer import PairTokenizer
from resift.errors import InputError, OutputError
from resift.machine import usable_cores
from resift_export.checkpoint import load as checkpoints
from resift_export.checkpoint.layers import compact, resize
from resift_export.checkpoint.split import split_of
from resift_export.distill.data import Draws, read_split, sha256_of
from resift_export.distill.development import Development
from resift_export.distill.device import device_of
from resift_export.distill.initial import Beginning, blank_student
from resift_export.distill.options import DOCUMENT_POSITION
from resift_export.distill.recipe import DistillRecipe, Losses, TrainingRun, Weights, read_recipe
from resift_export.distill.split_train import SplitTrainer
from resift_export.distill.state import Workspace
from resift_export.distill.student import check_teacher
from resift_export.distill.train import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from resift_export.checkpoint.load import Checkpoint
    from resift_export.distill.data import PoolSplit
    from resift_export.distill.device import Device
    from resift_export.distill.options import Options

log = logging.getLogger(__name__)
LIBRARIES = ("resift", "torch", "transformers", "tokenizers", "safetensors", "numpy")
LOG_SECONDS = 60.0
"""Time between two lines of progress."""


def distill(  # noqa: PLR0913 - the options of the command line, by name
    source: str,
    out: Path,
    data: Sequence[Path],
    options: Options,
    *,
    exclude: Sequence[Path] = (),
    start: str | None = None,
    revision: str | None = None,
    device: Device = "auto",
    threads: int | None = None,
    checkpoint_minutes: float = 10.0,
    should_continue: Callable[[], bool] = lambda: True,
) -> DistillRecipe:
    """Distils the teacher `source` (a folder or hub id) into a student at `out`, and returns its recipe.

    `data`: files of candidate pools. `exclude`: files of queries to leave out. `start`: a student from which training starts; None:
    from the teacher's own layers. These are fitted first if the student is to be narrower, and so is a split `start`. `threads`:
    torch's threads in this process (None: the usable cores). `checkpoint_minutes`: time between two saved states. `should_continue`
    is called before every step; once it returns False, the state and the student so far are saved, and the recipe's `is_finished`
    is False. The same call resumes from there, and after any kill; on a CPU of the same kind, with the same number of threads and
    the same versions, its weights are the same to the bit as without the interruption. The fit of a narrower student is saved only
    when it is complete: if it is ended earlier, the recipe has no `runs`, and the call begins again.

    Raises ExportError for a teacher or a start that cannot be used, InputError for bad data and options, OutputError if `out`
    cannot be written or was made with other options.
    """
    # transformers would draw a progress bar each time the student is saved.
    transformers_logging.disable_progress_bar()
    workspace = Workspace(out)
    torch.set_num_threads(threads or usable_cores())
    torch_device = device_of(device)
    with workspace.locked():
        teacher = checkpoints.load(source, revision=revision)
        check_teacher(teacher)
        compact(teacher.model)
        if torch_device.type == "cpu":
            # On a CPU, torch's fused attention is slower than plain products, above all in its backward pass.
            teacher.model.set_attn_implementation("eager")
        start_checkpoint = None if start is None else checkpoints.load(start)
        keep = options.retained_layers(teacher.layers, () if start_checkpoint is None else _learnt_layers(start_checkpoint))
        _check_options(options, teacher, start_checkpoint)
        tokenizer = PairTokenizer(teacher.tokenizer_json(), options.max_length)
        split = read_split(data, exclude, options)
        if options.layout is not None:
            split = split.without_long_queries(tokenizer, options.layout.document_position)
        recipe = _recipe(teacher, start_checkpoint, options, keep, split)
        log.info(
            "pools     %d to train on, %d for the figures, %d excluded, %d unused%s",
            len(split.train),
            len(split.development),
            split.excluded,
            split.unused,
            f", {split.long} with a query of more than {DOCUMENT_POSITION} tokens" if options.layout else "",
        )
        state = workspace.load()
        existing = workspace.finished_recipe() if state is None else state.recipe
        if existing is not None:
            _check_same_recipe(existing, recipe, out, has_state=state is not None)
        if existing is not None and state is None:
            log.info("finished  before: nothing to do")
            return existing
        draws = Draws(split.train, options.candidates, options.seed)
        student = blank_student(teacher, keep, options)
        if state is not None:
            resize(student, state.weights())
        else:
            beginning = Beginning(teacher, start_checkpoint, draws, tokenizer, torch_device)
            if not beginning.complete(student, keep, options.width, should_continue):
                return recipe
        trainer = (Trainer if options.layout is None else SplitTrainer)(teacher, student, recipe, draws, tokenizer, torch_device)
        if state is not None:
            trainer.restore(state)
            log.info("resume    after %s pairs", f"{trainer.recipe.pairs:,}")
        encodings = [tokenizer.encode(pool.query, pool.documents) for pool in split.development]
        development = Development(teacher, split.development, encodings)
        Distillation(trainer, development, workspace, checkpoint_minutes, should_continue).run()
        return trainer.recipe


class Distillation:
    """The training loop, which measures figures and saves states."""

    def __init__(
        self,
        trainer: Trainer,
        development: Development,
        workspace: Workspace,
        checkpoint_minutes: float,
        should_continue: Callable[[], bool],
    ) -> None:
        self._trainer = trainer
        self._development = development
        self._workspace = workspace
        self._save_seconds = checkpoint_minutes * 60
        self._should_continue = should_continue
        self._first_pair = trainer.recipe.pairs
        self._runs = trainer.recipe.runs
        self._started_at = self._saved_at = self._logged_at = time.monotonic()

    def run(self) -> None:
        """Trains until the budget is spent or `should_continue` ends it, and saves."""
        trainer = self._trainer
        if self._score_with_teacher():
            while self._measure() and not trainer.recipe.is_finished and self._should_continue():
                trainer.step()
                now = time.monotonic()
                if now - self._logged_at >= LOG_SECONDS:
                    self._log_progress(now)
                if now - self._saved_at >= self._save_seconds:
                    self._save()
        self._save()
        if trainer.recipe.is_finished and not self._is_due():
            self._workspace.clear()

    def _score_with_teacher(self) -> bool:
        """Scores the development pools with the teacher, unless the state has its scores; False once `should_continue` does."""
        trainer = self._trainer
        if trainer.reference is None:
            with trainer.autocast():
                reference = self._development.reference(trainer.teacher, trainer.recipe.keep, trainer.device, self._should_continue)
            if reference is None:
                return False
            trainer.reference = reference
            trainer.recipe = msgspec.structs.replace(
                trainer.recipe, logit_variance=reference.logit_variance, hidden_variances=reference.hidden_variances
            )
        return True

    def _is_due(self) -> bool:
        recipe = self._trainer.recipe
        if not recipe.curve:
            return True
        last = recipe.curve[-1].pairs
        every = recipe.options.evaluate
        return recipe.pairs // every > last // every or (recipe.is_finished and recipe.pairs > last)

    def _measure(self) -> bool:
        """Adds figures to the curve if they are due; False once `should_continue` returns False."""
        if not self._is_due():
            return True
        trainer = self._trainer
        assert trainer.reference is not None
        with trainer.autocast():
            figures = self._development.figures(
                trainer.run_student, trainer.recipe, trainer.reference, trainer.device, self._should_continue
            )
        if figures is None:
            return False
        log.info("figures   %s", figures.summary())
        trainer.recipe = msgspec.structs.replace(trainer.recipe, curve=(*trainer.recipe.curve, figures), losses=Losses())
        return True

    def _log_progress(self, now: float) -> None:
        recipe = self._trainer.recipe
        speed = (recipe.pairs - self._first_pair) / (now - self._started_at)
        losses = recipe.losses
        parts = [
            f"{name} {loss:.4f}"
            for name, loss in (("hidden", losses.mean_hidden), ("logits", losses.mean_logits))
            if loss is not None
        ]
        log.info(
            "          %s of %s pairs, %.1f pairs/s, loss: %s",
            f"{recipe.pairs:,}",
            f"{recipe.options.pairs:,}",
            speed,
            ", ".join(parts),
        )
        self._logged_at = now

    def _save(self) -> None:
        trainer = self._trainer
        now = time.monotonic()
        run = TrainingRun(
            first_pair=self._first_pair,
            last_pair=trainer.recipe.pairs,
            seconds=round(now - self._started_at, 1),
            device=torch.cuda.get_device_name(trainer.device) if trainer.device.type == "cuda" else f"cpu ({platform.machine()})",
            threads=torch.get_num_threads(),
            versions={name: version(name) for name in LIBRARIES},
        )
        trainer.recipe = msgspec.structs.replace(trainer.recipe, runs=(*self._runs, run))
        self._workspace.save(trainer.recipe, trainer.tensors())
        self._workspace.write_student(trainer.checkpoint, trainer.student, trainer.recipe)
        self._saved_at = time.monotonic()


def _check_options(options: Options, teacher: Checkpoint, start: Checkpoint | None) -> None:
    """Raises InputError for options that the teacher, or the student from which training starts, does not allow."""
    if options.max_length > teacher.max_length:
        raise InputError(f"max_length is {options.max_length}, but the teacher reads at most {teacher.max_length} tokens")
    if options.layout is not None and options.max_length > teacher.max_length - options.layout.document_position:
        raise InputError(
            f"max_length is {options.max_length}, but the teacher has {teacher.max_length} positions, and the document of a split "
            f"student begins at {options.layout.document_position}; expected at most "
            f"{teacher.max_length - options.layout.document_position}"
        )
    if start is None:
        return
    split = split_of(start.model, start.id)
    if split is None and options.width is not None:
        raise InputError(f"width is {options.width}, but {start.id} has a width of its own, which it retains; leave width out")
    if split is not None and split != options.layout:
        raise InputError(f"{start.id} is split after layer {split.layers}; expected split {split.layers} to go on from it")


def _learnt_layers(start: Checkpoint) -> tuple[int, ...]:
    """The teacher's layers whose outputs the student `start` has learnt, by its recipe; none if it has no recipe."""
    recipe = read_recipe(start.folder)
    return () if recipe is None else tuple(recipe["keep"])


def _recipe(
    teacher: Checkpoint, start: Checkpoint | None, options: Options, keep: tuple[int, ...], split: PoolSplit
) -> DistillRecipe:
    return DistillRecipe(
        teacher=weights_of(teacher),
        start=None if start is None else weights_of(start),
        options=options,
        keep=keep,
        data=split.files,
        exclude=split.exclusions,
        train_pools=len(split.train),
        development_pools=len(split.development),
        excluded_pools=split.excluded,
        unused_pools=split.unused,
        long_pools=split.long,
    )


def weights_of(checkpoint: Checkpoint) -> Weights:
    """The record of a checkpoint. Raises InputError if a file cannot be read."""
    files = sorted([*checkpoint.folder.glob("*.safetensors"), checkpoint.folder / "config.json"])
    return Weights(
        id=checkpoint.id,
        revision=checkpoint.revision,
        architecture=type(checkpoint.model).__name__,
        layers=checkpoint.layers,
        sha256={path.name: sha256_of(path) for path in files},
        recipe=read_recipe(checkpoint.folder),
    )


def _check_same_recipe(existing: DistillRecipe, expected: DistillRecipe, out: Path, *, has_state: bool) -> None:
    """Raises OutputError if `existing`, the recipe in or for OUT, differs from the `expected` one or cannot be resumed."""
    if differences := existing.differences(expected):
        raise OutputError(f"{out} was begun with {'; '.join(differences)}; use the same choices, or choose another OUT")
    if not existing.is_finished and not has_state:
        raise OutputError(f"{out} is unfinished, but its state is gone; choose another OUT, or start from it with --from {out}")
