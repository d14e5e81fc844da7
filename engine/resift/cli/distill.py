"""`resift distill TEACHER OUT --data POOLS`: trains a student of fewer or narrower layers. Needs the extra `train`."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from resift.cli.messages import show_messages
from resift.cli.options import EXIT_CODES, INTERRUPTED
from resift.cli.streams import complain, write_lines
from resift.errors import ExtraError, InputError
from resift.files.names import path_text

if TYPE_CHECKING:
    from types import FrameType

    from resift.cli.options import Commands

EPILOG = f"""examples:
  resift distill cross-encoder/ms-marco-MiniLM-L12-v2 ./student --layers 6 --data pools.jsonl.gz
  resift distill ./teacher ./first-look --keep 3,7,11 --data pools.jsonl.gz --exclude test.jsonl --pairs 300000
  resift distill ./teacher ./narrow --width 0.5 --pairs 0 --data pools.jsonl.gz
  resift distill ./teacher ./longer --layers 6 --from ./student --local 0 --data pools.jsonl.gz
  resift export ./student ./artifact

Pools are {{"query", "documents"}} or {{"query", "candidates": [{{"text", "label"?}}]}} per line; labels are not needed.
An interrupted or killed run goes on if the same command is given again. OUT always holds the student so far, with recipe.json.
A finished student is trained further with --from STUDENT and another OUT.

{EXIT_CODES}"""


class _Stop:
    """Whether to go on: until a signal or a time. A second signal ends the process at once."""

    def __init__(self, minutes: float | None) -> None:
        self.signal: int | None = None
        self._is_told = False
        self._end = None if minutes is None else time.monotonic() + 60 * minutes

    def listen(self) -> None:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            # What is ignored, as nohup has SIGHUP, stays so.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._stop)

    def should_continue(self) -> bool:
        if self.signal is not None and not self._is_told:
            self._is_told = True
            complain("stopping: saves first; a second signal stops at once")
        return self.signal is None and (self._end is None or time.monotonic() < self._end)

    def _stop(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            sys.exit(128 + number)
        self.signal = number  # and no message here, as the signal may have come amid one


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "distill",
        help="train a student of fewer or narrower layers",
        description="Train a student of fewer or narrower layers on a cross-encoder's hidden states and logits, without labels.",
        epilog=EPILOG,
    )
    command.add_argument("teacher", metavar="TEACHER", help="a checkpoint's folder, or a hub id")
    command.add_argument("out", metavar="OUT", type=Path, help="folder to write: a checkpoint that `resift export` takes")
    command.add_argument("--data", metavar="POOLS", type=Path, nargs="+", required=True, help="files of candidate pools")
    command.add_argument(
        "--exclude",
        metavar="FILE",
        type=Path,
        nargs="+",
        default=[],
        help="files of queries (or pools) to leave out, such as tests",
    )
    command.add_argument(
        "--revision", metavar="REV", help="a commit, tag or branch of a TEACHER on the hub; the commit is recorded"
    )
    command.add_argument(
        "--from", dest="start", metavar="STUDENT", help="go on from this student of TEACHER (default: its own layers)"
    )
    chosen = command.add_mutually_exclusive_group()
    chosen.add_argument(
        "--layers",
        type=int,
        metavar="N",
        help="layers, evenly spaced (default: all with --width, STUDENT's with --from, or 6)",
    )
    chosen.add_argument("--keep", type=_numbers, metavar="I,J,K", help="the teacher's layers, from 0, whose outputs it learns")
    command.add_argument(
        "--width",
        type=float,
        metavar="SHARE",
        help="share of its layers' operations to keep: heads and inner units are chosen and fitted before it is trained",
    )
    made = command.add_argument_group("what is made")
    made.add_argument("--pairs", type=int, default=100_000, metavar="N", help="pairs to train on (default: 100000; 0: fit only)")
    made.add_argument("--batch", type=int, default=32, metavar="N", help="least pairs of a step (default: 32)")
    made.add_argument("--max", type=int, default=8, metavar="N", help="most candidates of a query at each visit (default: 8)")
    made.add_argument("--local", type=float, default=0.2, metavar="SHARE", help="share of --pairs layer by layer (default: 0.2)")
    made.add_argument(
        "--decay", type=float, default=0.2, metavar="SHARE", help="share of --pairs, at the end, with a falling rate (default: 0.2)"
    )
    made.add_argument("--lr", type=float, default=3e-4, metavar="RATE", help="learning rate (default: 0.0003)")
    made.add_argument("--max-length", type=int, default=128, metavar="N", help="most tokens of a pair (default: 128)")
    made.add_argument("--dev", type=float, default=0.02, metavar="SHARE", help="share of queries never trained on (default: 0.02)")
    made.add_argument("--dev-pools", type=int, default=64, metavar="N", help="most of them that figures are of (default: 64)")
    made.add_argument("--evaluate", type=int, default=10_000, metavar="N", help="pairs between two figures (default: 10000)")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default: 0)")
    made.add_argument(
        "--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="of products (default: bfloat16 where it is fast)"
    )
    how = command.add_argument_group("how it runs")
    how.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to train (default: auto)")
    how.add_argument("--threads", type=int, metavar="N", help="threads of torch (default: the usable physical cores)")
    how.add_argument("--minutes", type=float, metavar="N", help="stop and save after this time; the same command goes on")
    how.add_argument("--checkpoint-minutes", type=float, default=10.0, metavar="N", help="time between two states (default: 10)")
    command.set_defaults(run=run)


def _numbers(text: str) -> tuple[int, ...]:
    if not all(word.strip().isdecimal() for word in text.split(",")):
        raise argparse.ArgumentTypeError(f"expected the numbers of layers, such as 1,3,5; found {text!r}")
    return tuple(int(word) for word in text.split(","))


def run(asked: argparse.Namespace) -> int:
    """Trains, and prints the student's folder and its last figures."""
    try:
        from resift_export.distill.distillation import device_of, distill, fast_dtype
        from resift_export.distill.options import Options
    except ImportError as error:
        raise ExtraError(
            f"distilling needs PyTorch and other packages that are not installed ({error}): pip install 'resift[train]'"
        ) from error
    for name in ("threads", "minutes", "checkpoint_minutes"):
        value = getattr(asked, name)
        if value is not None and not value > 0:
            raise InputError(f"--{name.replace('_', '-')} is {value}; expected a number above 0")
    show_messages()
    options = Options(
        keep=asked.keep or (),
        layers=asked.layers,
        width=asked.width,
        pairs=asked.pairs,
        batch=asked.batch,
        candidates=asked.max,
        local=asked.local,
        decay=asked.decay,
        lr=asked.lr,
        max_length=asked.max_length,
        development=asked.dev,
        development_pools=asked.dev_pools,
        evaluate=asked.evaluate,
        seed=asked.seed,
        dtype=fast_dtype(device_of(asked.device)) if asked.dtype == "auto" else asked.dtype,
    )
    stop = _Stop(asked.minutes)
    stop.listen()
    recipe = distill(
        asked.teacher,
        asked.out,
        asked.data,
        options,
        exclude=asked.exclude,
        start=asked.start,
        revision=asked.revision,
        device=asked.device,
        threads=asked.threads,
        checkpoint_minutes=asked.checkpoint_minutes,
        should_continue=stop.should_continue,
    )
    done = f"{path_text(asked.out)}  {recipe.pairs:,} of {recipe.options.pairs:,} pairs"
    next_time = "goes on" if recipe.runs else "begins anew: the fit of --width is saved once it is whole"
    lines = [f"{done}, {'finished' if recipe.is_finished else f'the same command {next_time}'}"]
    if recipe.curve:
        lines.append(recipe.curve[-1].summary())
    write_lines(lines)
    if stop.signal is None:
        return 0
    return INTERRUPTED if stop.signal == signal.SIGINT else 128 + stop.signal
