"""`resift distill TEACHER OUT --data POOLS`: trains a student of fewer or narrower layers. Needs the extra `export`."""

from __future__ import annotations

import argparse
from itertools import pairwise
from typing import TYPE_CHECKING

from resift.cli import values
from resift.cli.messages import show_messages
from resift.cli.options import EXIT_CODES
from resift.cli.stopping import StopCondition
from resift.cli.streams import paragraph, write_lines
from resift.errors import ExtraError
from resift.files.names import path_text

if TYPE_CHECKING:
    from resift.cli.options import Commands

EPILOG = f"""examples:
  resift distill ./teacher ./student --layers 6 --data pools.jsonl.gz
  resift distill ./teacher ./student --keep 3,7,11 --data pools.jsonl.gz
  resift distill ./teacher ./narrow --width 0.5 --pairs 0 --data pools.jsonl.gz
  resift distill ./teacher ./longer --from ./student --data pools.jsonl.gz
  resift export ./student ./artifact
  resift distill ./teacher ./split --split 6 --data pools.jsonl.gz
  resift export ./teacher ./artifact --first-look ./split

Pools are {{"query", "documents"}} or {{"query", "candidates": [{{"text", "label"?}}]}} per line; labels are not needed.
An interrupted or killed run continues if the same command is run again. OUT always holds the latest student, with recipe.json.
A finished student is trained further with --from STUDENT and another OUT.

{EXIT_CODES}"""


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "distill",
        help="train a student of fewer or narrower layers",
        description="Train a student of fewer or narrower layers on a cross-encoder's hidden states and logits, without labels.",
        epilog=EPILOG,
    )
    command.add_argument("teacher", metavar="TEACHER", help="a checkpoint's folder, or a hub id")
    command.add_argument("out", metavar="OUT", type=values.path, help="folder to write: a checkpoint that `resift export` takes")
    command.add_argument("--data", metavar="POOLS", type=values.path, nargs="+", required=True, help="files of candidate pools")
    command.add_argument(
        "--exclude",
        metavar="FILE",
        type=values.path,
        nargs="+",
        default=[],
        help="files of queries (or pools) to leave out, such as tests",
    )
    command.add_argument(
        "--revision", metavar="REV", help="a commit, tag or branch of a TEACHER on the hub; the commit is recorded"
    )
    command.add_argument(
        "--from",
        type=values.file_name,
        dest="start",
        metavar="STUDENT",
        help="continue from this student of TEACHER (default: start from TEACHER's layers)",
    )
    layers = command.add_mutually_exclusive_group()
    layers.add_argument(
        "--layers",
        type=values.whole(),
        metavar="N",
        help="layers, evenly spaced (default: all with --width, STUDENT's with --from, or 6)",
    )
    layers.add_argument("--keep", type=_numbers, metavar="I,J,K", help="the teacher's layers, from 0, whose outputs it learns")
    command.add_argument(
        "--width",
        type=values.part,
        metavar="SHARE",
        help="share of its layers' operations to keep (of their weights, with --split): heads and inner units are chosen and "
        "fitted before it is trained",
    )
    command.add_argument(
        "--split",
        type=values.whole(),
        metavar="K",
        help="keep query and document apart in its first K layers, for a first look of TEACHER whose documents can be prepared",
    )
    training = command.add_argument_group("training")
    training.add_argument(
        "--pairs", type=values.whole(0), default=100_000, metavar="N", help="pairs to train on (default: 100000; 0: fit only)"
    )
    training.add_argument(
        "--batch", type=values.whole(), default=32, metavar="N", help="minimum number of pairs in a step (default: 32)"
    )
    training.add_argument(
        "--max",
        type=values.whole(),
        default=8,
        metavar="N",
        help="maximum number of candidates of a query in one step (default: 8)",
    )
    training.add_argument(
        "--local",
        type=values.share,
        metavar="SHARE",
        help="share of --pairs that is trained layer by layer (default: 0.2; with --split: 0)",
    )
    training.add_argument(
        "--decay",
        type=values.share,
        default=0.2,
        metavar="SHARE",
        help="share of --pairs, at the end, with a falling rate (default: 0.2)",
    )
    training.add_argument("--lr", type=values.positive, default=3e-4, metavar="RATE", help="learning rate (default: 0.0003)")
    training.add_argument(
        "--max-length",
        type=values.setting("max_length"),
        default=128,
        metavar="N",
        help="maximum number of tokens in a pair (default: 128)",
    )
    training.add_argument(
        "--dev", type=values.part, default=0.02, metavar="SHARE", help="share of queries held out from training (default: 0.02)"
    )
    training.add_argument(
        "--dev-pools",
        type=values.whole(),
        default=64,
        metavar="N",
        help="maximum number of held-out pools to evaluate on (default: 64)",
    )
    training.add_argument(
        "--evaluate", type=values.whole(), default=10_000, metavar="N", help="pairs between two evaluations (default: 10000)"
    )
    training.add_argument("--seed", type=values.seed, default=0, metavar="N", help="seed of all random choices (default: 0)")
    training.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="type of matrix products (default: bfloat16 where it is fast)",
    )
    running = command.add_argument_group("execution")
    running.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to train (default: auto)")
    running.add_argument(
        "--threads", type=values.setting("threads"), metavar="N", help="threads of torch (default: the usable physical cores)"
    )
    running.add_argument(
        "--minutes", type=values.positive, metavar="N", help="save and stop after this time; the same command continues later"
    )
    running.add_argument(
        "--checkpoint-minutes", type=values.positive, default=10.0, metavar="N", help="time between two saved states (default: 10)"
    )
    command.set_defaults(run=run, usage_error=command.error)


def _numbers(text: str) -> tuple[int, ...]:
    if not all(word.strip().isdecimal() for word in text.split(",")):
        raise argparse.ArgumentTypeError(f"expected the numbers of layers, such as 1,3,5; found {text!r:.80}")
    numbers = tuple(int(word) for word in text.split(","))
    if any(second <= first for first, second in pairwise(numbers)):
        raise argparse.ArgumentTypeError(f"expected rising numbers of layers, from 0, such as 1,3,5; found {text!r:.80}")
    return numbers


def _default_local(split: int | None) -> float:
    return 0.2 if split is None else 0.0


def run(arguments: argparse.Namespace) -> int:
    """Trains, and prints the student's folder and its last figures."""
    if not arguments.pairs and arguments.width is None:
        arguments.usage_error("argument --pairs: 0 needs --width; expected 1 or more pairs to train on")
    try:
        from resift_export.distill.device import device_of, fast_dtype
        from resift_export.distill.distillation import distill
        from resift_export.distill.options import Options
    except ImportError as error:
        raise ExtraError(
            f"distilling needs PyTorch and other packages that are not installed ({error}): pip install 'resift[export]'"
        ) from error
    show_messages()
    options = Options(
        keep=arguments.keep or (),
        layers=arguments.layers,
        width=arguments.width,
        split=arguments.split,
        pairs=arguments.pairs,
        batch=arguments.batch,
        candidates=arguments.max,
        local=_default_local(arguments.split) if arguments.local is None else arguments.local,
        decay=arguments.decay,
        lr=arguments.lr,
        max_length=arguments.max_length,
        development=arguments.dev,
        development_pools=arguments.dev_pools,
        evaluate=arguments.evaluate,
        seed=arguments.seed,
        dtype=fast_dtype(device_of(arguments.device)) if arguments.dtype == "auto" else arguments.dtype,
    )
    with StopCondition(arguments.minutes) as stop:
        recipe = distill(
            arguments.teacher,
            arguments.out,
            arguments.data,
            options,
            exclude=arguments.exclude,
            start=arguments.start,
            revision=arguments.revision,
            device=arguments.device,
            threads=arguments.threads,
            checkpoint_minutes=arguments.checkpoint_minutes,
            should_continue=stop.should_continue,
        )
    done = f"{path_text(arguments.out)}  {recipe.pairs:,} of {recipe.options.pairs:,} pairs"
    next_time = "continues" if recipe.runs else "starts again: the fit of --width is saved only once it is complete"
    lines = [f"{done}, {'finished' if recipe.is_finished else f'the same command {next_time}'}"]
    if recipe.curve:
        lines += paragraph(recipe.curve[-1].summary())
    write_lines(lines)
    return stop.exit_code
