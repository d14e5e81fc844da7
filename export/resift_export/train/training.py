"""training: the whole pipeline, from a checkpoint and pairs to a checkpoint that ranks them better, or a refusal."""

from __future__ import annotations

import logging
import math
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from transformers.utils import logging as transformers_logging

from resift.encoding.tokenizer import PairTokenizer
from resift.errors import OutputError
from resift.files.names import path_text
from resift.machine import usable_cores
from resift.retrieval.words import key_of
from resift_export.checkpoint import load as checkpoints
from resift_export.distill.device import device_of
from resift_export.distill.distillation import weights_of
from resift_export.progress import no_report
from resift_export.train.course import Course, best_state, last_state, run, seconds_a_pair, seconds_a_part
from resift_export.train.development import BEST, DevelopmentEvaluator
from resift_export.train.encoder import encoder_of, load_start, logits_of
from resift_export.train.general import draw, read_general
from resift_export.train.judge import compare, held_out_dataset, read_guards, refusals
from resift_export.train.losses import activation_after, choose
from resift_export.train.pairs import answers_of, read_data
from resift_export.train.recipe import Figure, TrainingProcess, TrainRecipe
from resift_export.train.split import split_queries
from resift_export.train.state import TrainingFolder
from resift_export.train.trainer import Material, trainer_of
from resift_export.train.visits import rows, visits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from resift.evaluate.data.dataset import Dataset
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.distill.device import Device
    from resift_export.progress import Report
    from resift_export.train.options import TrainOptions

log = logging.getLogger(__name__)
LIBRARIES = ("resift", "sentence-transformers", "transformers", "accelerate", "datasets", "torch", "tokenizers", "numpy")
TRIAL_PARTS = 6
"""Parts of steps by which the time is estimated."""


@dataclass(frozen=True)
class Trained:
    """What a training came to."""

    recipe: TrainRecipe
    held_out: Dataset
    is_written: bool
    """whether OUT holds the checkpoint"""
    seconds: float = 0.0
    """the time that was expected, of a dry run"""


def train(  # noqa: PLR0913 - the options of the command line, by name
    source: str,
    out: Path,
    data: Sequence[Path],
    options: TrainOptions,
    *,
    general: Sequence[Path] = (),
    guards: Sequence[Path] = (),
    revision: str | None = None,
    device: Device = "auto",
    threads: int | None = None,
    dry_run: bool = False,
    force: bool = False,
    should_continue: Callable[[], bool] = lambda: True,
    report: Report = no_report,
) -> Trained:
    """Trains the checkpoint `source` (a folder or hub id) on the pairs of `data`, and writes `out` if nothing speaks against it.

    `general`: candidate pools whose scores are to stay (none: the built-in pairs). `guards`: labelled pools on which the checkpoint
    must not lose more than a point of nDCG@10 beyond the interval, beside the built-in ones. `threads`: torch's (None: the usable
    cores). `dry_run`: only measures the time. `force`: writes `out` in any case. `should_continue` is called after every step; once
    it returns False, the state is saved. The same call resumes from there, and after any kill; on a CPU of the same kind, with the
    same number of threads and the same versions, its weights are the same to the bit as without the interruption.

    Raises ExportError for a checkpoint that cannot be trained, InputError for bad data and options, and OutputError if `out` cannot
    be written or was begun with other options.
    """
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(threads or usable_cores())
    job = _Job(source, revision, options, device_of(device))
    job.read(data, general, guards)
    workspace = TrainingFolder(out)
    if dry_run:
        workspace.check()
        return job.estimate()
    with workspace.locked():
        finished = workspace.finished()
        if finished is not None:
            job.check_same(finished, out)
            job.check_guards(finished, out)
            workspace.clear()
            log.info("finished  before: nothing to do")
            return Trained(finished, job.held_out, is_written=True)
        begun = workspace.begun()
        if begun is not None:
            job.check_same(begun, out)
        else:
            workspace.begin(job.recipe)
        return job.run(workspace, begun, force=force, should_continue=should_continue, report=report)


class _Job:
    """A training: its checkpoint, its data, and what comes of them."""

    def __init__(self, source: str, revision: str | None, options: TrainOptions, device: torch.device) -> None:
        self._options, self._device = options, device
        self._checkpoint: Checkpoint = load_start(source, revision, options.max_length)
        self._encoder = encoder_of(self._checkpoint, options.max_length, device)

    def read(self, paths: Sequence[Path], general: Sequence[Path], guards: Sequence[Path]) -> None:
        """Reads and splits the data, and makes the plan of the training."""
        options, checkpoint = self._options, self._checkpoint
        tokenizer = PairTokenizer(checkpoint.tokenizer_json(), options.max_length)
        data = read_data(paths, tokenizer)
        split = split_queries(data.queries, options)
        self._guards = read_guards(guards, tokenizer)
        closed = {key_of(pairs.query) for pairs in (*split.development, *split.held_out)}
        closed |= {key_of(pool.query) for guard in self._guards for pool in guard.pools}
        loss = choose(split.train, options, lambda pairs: logits_of(self._encoder, pairs))
        found = list(visits(split.train, options))
        batch = options.pairs_at_once if loss == "bce" else options.queries_at_once
        own_rows = rows(found, loss, options.negatives)
        parts = math.ceil(len(own_rows) / batch)
        general_pairs = round(parts * options.general / (1 - options.general)) * options.pairs_at_once
        pool = read_general(general, closed, answers_of([*split.development, *split.held_out]), tokenizer)
        self._general_pairs = [pool.pairs[place] for place in draw(pool.pairs, general_pairs, options.seed)]
        self._rows, self._batch, self._split = own_rows, batch, split
        self.held_out = held_out_dataset(split.held_out)
        self._development = DevelopmentEvaluator(split.development)
        self.recipe = TrainRecipe(
            checkpoint=weights_of(checkpoint),
            options=options,
            loss=loss,
            data=data.files,
            general=pool.files,
            train_queries=len(split.train),
            development_queries=len(split.development),
            held_out_queries=len(split.held_out),
            groups=split.groups,
            left_out=dict(data.left_out) | ({"no negative but held-out answers": split.unused} if split.unused else {}),
            siblings=data.siblings,
            steps=math.ceil((parts + general_pairs // options.pairs_at_once) / options.accumulation),
            general_pairs=general_pairs,
        )
        self._log(tokenizer)

    def check_same(self, existing: TrainRecipe, out: Path) -> None:
        """Raises OutputError if `existing`, the recipe in or for OUT, differs in a choice."""
        if differences := existing.differences(self.recipe):
            raise OutputError(f"{out} was begun with {'; '.join(differences)}; use the same choices, or choose another OUT")

    def check_guards(self, finished: TrainRecipe, out: Path) -> None:
        """Raises OutputError for a guard on which the `finished` training was not measured."""
        measured = {guard.name for guard in finished.guards}
        if missing := [name for guard in self._guards if (name := path_text(guard.name)) not in measured]:
            raise OutputError(
                f"{out} was finished without the guard {missing[0]}; choose another OUT, or compare both checkpoints on it with "
                "`resift eval`"
            )

    def estimate(self) -> Trained:
        """Only measures the time."""
        with TemporaryDirectory() as folder:
            trainer = self._trainer(self._material([0.0] * len(self._general_pairs)), Path(folder))
            return Trained(self.recipe, self.held_out, is_written=False, seconds=self._seconds(trainer, self.recipe.steps))

    def run(
        self,
        workspace: TrainingFolder,
        begun: TrainRecipe | None,
        *,
        force: bool,
        should_continue: Callable[[], bool],
        report: Report,
    ) -> Trained:
        """Trains, measures and writes."""
        begin = time.monotonic()
        recipe = begun or self.recipe
        if not recipe.is_finished:
            if not self._train(workspace, should_continue, report):
                return Trained(recipe, self.held_out, is_written=False)
            best, record = best_state(workspace.folder)
            recipe = msgspec.structs.replace(self.recipe, best_step=record.best_global_step, curve=_curve(record.log_history))
        else:
            best, _ = best_state(workspace.folder)
        names = [guard.name for guard in self._guards]
        if recipe.held_out is None or [guard.name for guard in recipe.guards] != names:
            recipe = self._judged(recipe, best, report, begin)
            workspace.begin(recipe)
        is_written = force or not recipe.refusals
        if is_written:
            workspace.write(lambda folder: self._save(best, folder), recipe)
        return Trained(recipe, self.held_out, is_written=is_written)

    def _train(self, workspace: TrainingFolder, should_continue: Callable[[], bool], report: Report) -> bool:
        """Whether the training is at its end."""
        logits = workspace.general(len(self._general_pairs), lambda: logits_of(self._encoder, self._general_pairs))
        trainer = self._trainer(self._material(logits.tolist()), workspace.folder)
        last = last_state(workspace.folder)
        steps = self.recipe.steps - (0 if last is None else int(last.name.rpartition("-")[2]))
        if steps > 0:
            self._seconds(trainer, steps)
        return run(trainer, workspace.folder, self.recipe.steps, self._options.seed, Course(should_continue, report))

    def _material(self, logits: Sequence[float]) -> Material:
        general = [(query, document, logit) for (query, document), logit in zip(self._general_pairs, logits, strict=True)]
        return Material(self._rows, self._batch, general, self._options.pairs_at_once, self._options.accumulation)

    def _trainer(self, material: Material, folder: Path) -> Any:
        return trainer_of(self._encoder, self.recipe.loss, material, self._development, self._options, folder, self._device)

    def _seconds(self, trainer: Any, steps: int) -> float:
        """The expected time of `steps` steps and all measurements, which is logged."""
        step = seconds_a_part(trainer, TRIAL_PARTS) * self._options.accumulation
        pairs = (self._options.evaluations + 1) * len(self._development.pairs)
        pairs += 2 * sum(len(pool.documents) for each in (self.held_out, *self._guards) for pool in each.pools)
        measuring = seconds_a_pair(self._encoder, self._development.pairs) * (pairs + len(self._general_pairs))
        seconds = steps * step + measuring
        log.info(
            "time      about %s: %d steps of %.2f s, and %s for measurements",
            _words(seconds),
            steps,
            step,
            _words(measuring),
        )
        return seconds

    def _judged(self, recipe: TrainRecipe, best: Path, report: Report, begin: float) -> TrainRecipe:
        held_out, *guards = (
            compare(dataset, self._checkpoint.folder, best, self._options.max_length, self._device.type, report)
            for dataset in (self.held_out, *self._guards)
        )
        process = TrainingProcess(
            seconds=round(time.monotonic() - begin, 1),
            device=torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else f"cpu ({platform.machine()})",
            threads=torch.get_num_threads(),
            versions={name: version(name) for name in LIBRARIES},
        )
        return msgspec.structs.replace(
            recipe, held_out=held_out, guards=tuple(guards), refusals=refusals(held_out, guards), runs=(process,)
        )

    def _save(self, best: Path, folder: Path) -> None:
        """Writes the best state as a plain checkpoint, with the tokenizer and the length of the one that was trained."""
        model = checkpoints.load(str(best)).model
        activation = activation_after(self.recipe.loss, self._checkpoint.activation)
        name = "linear.Identity" if activation == "identity" else "activation.Sigmoid"
        model.config.sentence_transformers = {"activation_fn": f"torch.nn.modules.{name}"}
        model.save_pretrained(folder)
        tokenizer = self._checkpoint.tokenizer
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.save_pretrained(folder)

    def _log(self, tokenizer: PairTokenizer) -> None:
        recipe, split = self.recipe, self._split
        reasons = "".join(f", {count} {reason}" for reason, count in recipe.left_out.items() if count)
        log.info(
            "queries   %d to train on, %d to choose by, %d held out, in %d groups of shared answers%s",
            len(split.train),
            len(split.development),
            len(split.held_out),
            split.groups,
            reasons,
        )
        if recipe.siblings:
            log.info("negatives %d answer their query elsewhere in the data: not used", recipe.siblings)
        pairs = [(pairs.query, [document.text for document in (*pairs.positive, *pairs.negative)]) for pairs in split.train[:200]]
        cut = [encoded.tokens_cut > 0 for encoded in (tokenizer.encode(query, documents) for query, documents in pairs)]
        share = sum(int(each.sum()) for each in cut) / max(1, sum(map(len, cut)))
        log.info(
            "pairs     %.0f %% are longer than %d tokens and lose the end of the document", 100 * share, self._options.max_length
        )
        log.info("loss      %s, with %d general pairs that keep their scores", recipe.loss, recipe.general_pairs)


def _curve(history: Sequence[dict[str, Any]]) -> tuple[Figure, ...]:
    losses = {entry["step"]: entry["loss"] for entry in history if "loss" in entry}
    return tuple(Figure(step=entry["step"], ndcg=entry[BEST], loss=losses.get(entry["step"])) for entry in history if BEST in entry)


def _words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
