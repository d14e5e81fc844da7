"""distillation: the whole line, from a teacher and pools to a student's checkpoint folder."""

from __future__ import annotations

import logging
import platform
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

import msgspec
import torch
from transformers.utils import logging as transformers_logging

from resift.encoding.tokenizer import PairTokenizer
from resift.errors import InputError, OutputError
from resift.machine import instruction_sets, usable_cores
from resift_export.checkpoint import load as checkpoints
from resift_export.checkpoint.layers import compact, resize
from resift_export.distill.batches import padded
from resift_export.distill.data import Draws, read, sha256_of
from resift_export.distill.development import Development
from resift_export.distill.narrow import narrow
from resift_export.distill.recipe import DistillRecipe, Losses, Run, Weights, own_recipe
from resift_export.distill.state import Home
from resift_export.distill.student import check_teacher, keep_activation, start_from, student_of
from resift_export.distill.train import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from resift.encoding.encodings import Encodings
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.distill.data import Split
    from resift_export.distill.options import Dtype, Options

log = logging.getLogger(__name__)
LIBRARIES = ("resift", "torch", "transformers", "tokenizers", "safetensors", "numpy")
FITTED_PAIRS = 1_000
"""Pairs that a narrower student is fitted on."""
LINE_SECONDS = 60.0
"""Time between two lines of progress."""
Device = Literal["auto", "cpu", "cuda"]


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
    go_on: Callable[[], bool] = lambda: True,
) -> DistillRecipe:
    """Distils the teacher `source` (a folder or hub id) into a student at `out`, and returns its recipe.

    `data`: files of candidate pools. `exclude`: files of queries that are left out. `start`: a student to go on from instead of
    the teacher's own layers, which are fitted first if they are to be narrower. `threads`: torch's in this process (None: the
    usable cores). `checkpoint_minutes`: time between two states. `go_on` is asked before every step; once it returns False, state
    and student so far are saved, and the recipe is not `finished`. The same call goes on from there, and from any kill; on a CPU
    with the same number of threads and the same versions, it gives the same weights to the bit as without the interruption. Only
    the fit of a narrower student is saved once it is whole: ended before, the recipe has no `runs`, and the call begins anew.

    Raises ExportError for a teacher or a start that cannot be used, InputError for bad data and options, OutputError if `out`
    cannot be written or was made with other options.
    """
    # It would draw a bar each time the student is saved.
    transformers_logging.disable_progress_bar()
    home = Home(out)
    torch.set_num_threads(threads or usable_cores())
    place = device_of(device)
    with home.held():
        teacher = checkpoints.load(source, revision=revision)
        check_teacher(teacher)
        compact(teacher.model)
        if place.type == "cpu":
            # Torch's fused attention, in its backward pass above all, is slower there than the plain products.
            teacher.model.set_attn_implementation("eager")
        begun = None if start is None else checkpoints.load(start)
        keep = options.kept(teacher.layers, () if begun is None else _learnt(begun))
        _check_options(options, teacher, start)
        split = read(data, exclude, options)
        recipe = _recipe(teacher, begun, options, keep, split)
        log.info(
            "pools     %d to train on, %d for the figures, %d excluded, %d unused",
            len(split.train),
            len(split.development),
            split.excluded,
            split.unused,
        )
        state = home.load()
        made = home.finished() if state is None else state.recipe
        if made is not None:
            _refuse_others(made, recipe, out, has_state=state is not None)
        if made is not None and state is None:
            log.info("finished  before: nothing to do")
            return made
        tokenizer = PairTokenizer(teacher.tokenizer_json(), options.max_length)
        draws = Draws(split.train, options.candidates, options.seed)
        student = student_of(teacher.model, keep)
        keep_activation(student, teacher)
        if state is not None:
            resize(student, state.weights())
        elif begun is not None:
            start_from(student, begun.model, str(start))
        elif options.width is not None:
            batches = padded(teacher, _sample(draws, tokenizer), place)
            if not narrow(student.to(place), teacher.model.to(place), keep, options.width, batches, go_on):
                return recipe
        trainer = Trainer(teacher, student, recipe, draws, tokenizer, place)
        if state is not None:
            trainer.restore(state)
            log.info("resume    after %s pairs", f"{trainer.recipe.pairs:,}")
        encodings = [tokenizer.encode(pool.query, pool.documents) for pool in split.development]
        development = Development(teacher, split.development, encodings)
        Distillation(trainer, development, home, checkpoint_minutes, go_on).run()
        return trainer.recipe


class Distillation:
    """The loop: steps, figures and states."""

    def __init__(
        self, trainer: Trainer, development: Development, home: Home, checkpoint_minutes: float, go_on: Callable[[], bool]
    ) -> None:
        self._trainer = trainer
        self._development = development
        self._home = home
        self._seconds = checkpoint_minutes * 60
        self._go_on = go_on
        self._first = trainer.recipe.pairs
        self._runs = trainer.recipe.runs
        self._begin = self._saved = self._said = time.monotonic()

    def run(self) -> None:
        """Trains until the budget is spent or `go_on` ends it, and saves."""
        trainer = self._trainer
        if self._refer():
            while self._measure() and not trainer.recipe.finished and self._go_on():
                trainer.step()
                now = time.monotonic()
                if now - self._said >= LINE_SECONDS:
                    self._say(now)
                if now - self._saved >= self._seconds:
                    self._save()
        self._save()
        if trainer.recipe.finished and not self._is_due():
            self._home.clear()

    def _refer(self) -> bool:
        """Has the teacher score the development pools, unless the state has it; False if `go_on` ended it."""
        trainer = self._trainer
        if trainer.reference is None:
            with trainer.autocast():
                found = self._development.reference(trainer.teacher, trainer.recipe.keep, trainer.device, self._go_on)
            if found is None:
                return False
            trainer.reference = found
            trainer.recipe = msgspec.structs.replace(
                trainer.recipe, logit_variance=found.logit_variance, hidden_variances=found.hidden_variances
            )
        return True

    def _is_due(self) -> bool:
        recipe = self._trainer.recipe
        if not recipe.curve:
            return True
        last = recipe.curve[-1].pairs
        every = recipe.options.evaluate
        return recipe.pairs // every > last // every or (recipe.finished and recipe.pairs > last)

    def _measure(self) -> bool:
        """Adds figures to the curve if they are due; False if `go_on` ended it."""
        if not self._is_due():
            return True
        trainer = self._trainer
        assert trainer.reference is not None
        with trainer.autocast():
            found = self._development.figures(trainer.student, trainer.recipe, trainer.reference, trainer.device, self._go_on)
        if found is None:
            return False
        log.info("figures   %s", found.summary())
        trainer.recipe = msgspec.structs.replace(trainer.recipe, curve=(*trainer.recipe.curve, found), losses=Losses())
        return True

    def _say(self, now: float) -> None:
        recipe = self._trainer.recipe
        speed = (recipe.pairs - self._first) / (now - self._begin)
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
        self._said = now

    def _save(self) -> None:
        trainer = self._trainer
        now = time.monotonic()
        this = Run(
            first_pair=self._first,
            last_pair=trainer.recipe.pairs,
            seconds=round(now - self._begin, 1),
            device=torch.cuda.get_device_name(trainer.device) if trainer.device.type == "cuda" else f"cpu ({platform.machine()})",
            threads=torch.get_num_threads(),
            versions={name: version(name) for name in LIBRARIES},
        )
        trainer.recipe = msgspec.structs.replace(trainer.recipe, runs=(*self._runs, this))
        self._home.save(trainer.recipe, trainer.tensors())
        self._home.place(trainer.checkpoint, trainer.student, trainer.recipe)
        self._saved = time.monotonic()


def device_of(asked: Device) -> torch.device:
    """The device; "auto" is CUDA where there is one. Raises InputError if there is none, but it was asked for."""
    if asked == "cuda" and not torch.cuda.is_available():
        raise InputError("device is cuda, but torch finds none; expected a CUDA GPU and a torch built for it, or use --device cpu")
    return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")


def fast_dtype(device: torch.device) -> Dtype:
    """bfloat16 where the device multiplies it faster: CUDA that has it, and CPUs with AMX or AVX-512's bfloat16.

    With the rest of AVX-512 alone it was slower. Processors with AMX have it for both int8 and bfloat16.
    """
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if {"amx_int8", "avx512_bf16"} & instruction_sets() else "float32"


def _check_options(options: Options, teacher: Checkpoint, start: str | None) -> None:
    """Raises InputError for options that the teacher or the student to go on from does not allow."""
    if options.max_length > teacher.max_length:
        raise InputError(f"max_length is {options.max_length}, but the teacher reads at most {teacher.max_length} tokens")
    if options.width is not None and start is not None:
        raise InputError(f"width is {options.width}, but {start} has a width of its own, at which it goes on; leave width out")


def _learnt(start: Checkpoint) -> tuple[int, ...]:
    """The teacher's layers whose outputs a student has learnt, by its recipe; none if it has no recipe."""
    recipe = own_recipe(start.folder)
    return () if recipe is None else tuple(recipe["keep"])


def _sample(draws: Draws, tokenizer: PairTokenizer) -> list[Encodings]:
    """The first FITTED_PAIRS pairs that are drawn, or a few more."""
    log.info("narrow    fitted on %d pairs", FITTED_PAIRS)
    parts: list[Encodings] = []
    while sum(len(part) for part in parts) < FITTED_PAIRS:
        parts.append(tokenizer.encode(*draws.at(len(parts))))
    return parts


def _recipe(teacher: Checkpoint, start: Checkpoint | None, options: Options, keep: tuple[int, ...], split: Split) -> DistillRecipe:
    return DistillRecipe(
        teacher=_weights(teacher),
        start=None if start is None else _weights(start),
        options=options,
        keep=keep,
        data=split.files,
        exclude=split.exclusions,
        train_pools=len(split.train),
        development_pools=len(split.development),
        excluded_pools=split.excluded,
        unused_pools=split.unused,
    )


def _weights(checkpoint: Checkpoint) -> Weights:
    files = sorted([*checkpoint.folder.glob("*.safetensors"), checkpoint.folder / "config.json"])
    return Weights(
        id=checkpoint.id,
        revision=checkpoint.revision,
        architecture=type(checkpoint.model).__name__,
        layers=checkpoint.layers,
        sha256={path.name: sha256_of(path) for path in files},
        recipe=own_recipe(checkpoint.folder),
    )


def _refuse_others(made: DistillRecipe, asked: DistillRecipe, out: Path, *, has_state: bool) -> None:
    """Raises OutputError if `made`, which is in or for OUT, would not be made by what is asked, or cannot go on."""
    if differences := made.differences(asked):
        raise OutputError(f"{out} was begun otherwise: {'; '.join(differences)}; ask for the same, or choose another OUT")
    if not made.finished and not has_state:
        raise OutputError(f"{out} is unfinished, but its state is gone; choose another OUT, or go on from it with --from {out}")
