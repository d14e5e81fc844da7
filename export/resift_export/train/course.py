"""course: a training from its beginning, or from the last state that was saved whole, to its end."""

from __future__ import annotations

import logging
import math
import re
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import TrainerCallback, set_seed
from transformers.trainer_callback import TrainerState

from resift.errors import ExportError, OutputError, first_line
from resift.files.outputs import write_whole
from resift.files.placing import flush
from resift_export.train.development import BEST
from resift_export.train.encoder import logits_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from resift_export.progress import Report

WHOLE, STATE, PREFIX = "whole", "trainer_state.json", "checkpoint-"
"""A file in the folder of each state that was saved whole; the trainer's record in it; the beginning of the folder's name."""
log = logging.getLogger(__name__)


class Course(TrainerCallback):  # type: ignore[misc]
    """Follows a training: marks whole states, ends it on request, and reports."""

    def __init__(self, should_continue: Callable[[], bool], report: Report) -> None:
        self._should_continue, self._report = should_continue, report

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - transformers'
        """Reports the step, and ends the training after it if requested."""
        self._report("train", state.global_step, state.max_steps)
        if state.global_step >= state.max_steps:
            control.should_log = True  # the trainer logs every few steps only
        if not self._should_continue():
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - transformers'
        """Marks the state that has just been saved."""
        folder = Path(args.output_dir) / f"{PREFIX}{state.global_step}"
        for path in folder.rglob("*"):
            if path.is_file():
                flush(path)
        write_whole(folder / WHOLE, b"")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:  # noqa: ARG002
        """Logs a measurement. Raises ExportError for a loss that is not finite."""
        if logs and not math.isfinite(logs.get("loss", 0.0)):
            raise ExportError(f"the loss at step {state.global_step} is not finite; expected it to fall: try a lower --lr")
        if logs and BEST in logs:
            log.info("          step %d of %d: nDCG@10 %.4f on development queries", state.global_step, state.max_steps, logs[BEST])


def run(trainer: Any, folder: Path, steps: int, seed: int, course: Course) -> bool:
    """Trains on, from the last whole state in `folder`; whether the end was reached. Raises ExportError, see Course."""
    state = last_state(folder)
    if state is not None and steps_of(state) >= steps:
        return True
    for path in states(folder):
        if not (path / WHOLE).is_file():
            shutil.rmtree(path)
    trainer.add_callback(course)
    trainer.args.eval_on_start = state is None
    set_seed(seed % (1 << 32))
    if state is not None:
        log.info("resume    after step %d of %d", steps_of(state), steps)
    with _failures(folder):
        trainer.train(resume_from_checkpoint=None if state is None else str(state))
    return bool(trainer.state.global_step >= steps)


@contextmanager
def _failures(folder: Path) -> Iterator[None]:
    """Turns what torch and the trainer raise for a full disk, and for too little memory, into one line."""
    again = "mend that, and the same command goes on"
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"{folder} cannot be written: {getattr(error, 'strerror', None) or first_line(error)}; {again}"
        ) from error
    except RuntimeError as error:
        if "PytorchStreamWriter" in str(error):
            raise OutputError(f"{folder} cannot be written: {first_line(error)}; {again}") from error
        if re.search("out of memory|allocate memory", str(error)):
            raise ExportError("memory is short for this training: use a smaller --batch, --negatives or --max-length") from error
        raise


def states(folder: Path) -> list[Path]:
    """The folders of states, the first step first."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal()]
    return sorted(found, key=steps_of)


def last_state(folder: Path) -> Path | None:
    """The last state that was saved whole; None if there is none."""
    return next((path for path in reversed(states(folder)) if (path / WHOLE).is_file()), None)


def steps_of(state: Path) -> int:
    """The number of steps before a state."""
    return int(state.name.removeprefix(PREFIX))


def best_state(folder: Path) -> tuple[Path, TrainerState]:
    """The state with the best figure on the development queries, and the record of the last one. Raises OutputError."""
    last = last_state(folder)
    try:
        record = TrainerState.load_from_json(str((last or folder) / STATE))
        best = folder / f"{PREFIX}{record.best_global_step}"
        if not (best / WHOLE).is_file():
            raise FileNotFoundError(2, "no whole state", str(best))
    except (OSError, ValueError, TypeError) as error:
        raise OutputError(f"the states in {folder} cannot be read ({error}); delete it to start anew") from error
    return best, record


def seconds_a_part(trainer: Any, count: int) -> float:
    """Seconds of a part of an optimizer step, measured on the first batches; weights and random numbers stay as they were."""
    devices = [torch.cuda.current_device()] if trainer.args.device.type == "cuda" else []
    times = []
    with torch.random.fork_rng(devices):
        for _, inputs in zip(range(count), trainer.get_train_dataloader(), strict=False):
            begin = time.perf_counter()
            trainer.model.train()
            with torch.autocast(trainer.args.device.type, torch.bfloat16, enabled=trainer.args.bf16):
                loss = trainer.compute_loss(trainer.model, inputs)
            loss.backward()
            if devices:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
            trainer.model.zero_grad()
    return _middle(times)


def seconds_a_pair(encoder: Any, pairs: Sequence[tuple[str, str]]) -> float:
    """Seconds of scoring one of the pairs, measured on a few."""
    logits_of(encoder, pairs[:4])
    begin = time.perf_counter()
    logits_of(encoder, pairs[:32])
    return (time.perf_counter() - begin) / max(1, len(pairs[:32]))


def _middle(times: Iterable[float]) -> float:
    """The median; the first one, which warms up, is left out if there are more."""
    measured = sorted(list(times)[1:] or times)
    return measured[len(measured) // 2]
