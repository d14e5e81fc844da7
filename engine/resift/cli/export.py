"""`resift export CHECKPOINT OUT`: turns a cross-encoder into a verified artifact. Needs the extra `export`."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from resift.artifact.folder import Artifact
from resift.cli import values
from resift.cli.messages import show_messages
from resift.cli.meter import StageMeter
from resift.cli.options import EXIT_CODES
from resift.cli.streams import write_lines
from resift.errors import ExtraError, InputError
from resift.files.names import path_text
from resift.settings import PRECISIONS

if TYPE_CHECKING:
    import argparse

    from resift.cli.options import Commands

SEARCH_EVALUATIONS = 100
"""Default limit of evaluations in a search; to find one or two damaged products takes about ten."""
EPILOG = f"""examples:
  resift export ./my-cross-encoder ./my-artifact
  resift export cross-encoder/ms-marco-MiniLM-L6-v2 ./l6 --revision c5ee24c
  resift export ./my-cross-encoder ./my-artifact --vnni
  resift export ./my-cross-encoder ./my-artifact --search
  resift export ./my-cross-encoder ./my-artifact --first-look ./my-student
  resift export ./my-cross-encoder ./my-artifact --freeze auto
  resift export ./my-nli-model ./my-artifact --relevant-label entailment
  resift export ./mine ./artifact --calibration pairs.jsonl --gate pools.jsonl

--calibration: {{"query": "...", "document": "..."}} per line, a hundred or more, of texts like those you will serve.
--gate: pools as {{"query", "documents"}} or {{"query", "candidates": [{{"text", "label"?}}]}} per line, 30 or more of 10 documents.

{EXIT_CODES}"""


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "export",
        help="turn a checkpoint into an artifact",
        description="Trace, optimize, quantize and verify a Hugging Face cross-encoder. Exit code 3 if the artifact does not rank "
        "like its checkpoint.",
        epilog=EPILOG,
    )
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder, or a hub id")
    command.add_argument("out", metavar="OUT", type=values.path, help="folder to write")
    command.add_argument(
        "--first-look",
        type=values.file_name,
        metavar="STUDENT",
        help="add a cheaper model of the same tokenizer, a folder or a hub id, that selects candidates for the full model",
    )
    command.add_argument(
        "--plan",
        type=values.plan,
        metavar="PLAN",
        help="plan of calls with a top_k that name no plan, such as balanced (default: full)",
    )
    command.add_argument(
        "--keep",
        type=values.file_name,
        metavar="ARTIFACT",
        help="copy the graphs of an earlier export unchanged, for example to add a first look",
    )
    command.add_argument("--revision", metavar="REV", help="a commit, tag or branch on the hub; the commit is recorded")
    command.add_argument(
        "--precision", default="int8", metavar="LIST", help=f"precisions to write, from {','.join(PRECISIONS)} (default: int8)"
    )
    command.add_argument(
        "--vnni",
        action="store_true",
        help="add 8-bit weights, closer to the checkpoint, for VNNI and ARM; other processors use the 7-bit ones",
    )
    command.add_argument(
        "--search",
        metavar="N",
        type=values.whole(),
        nargs="?",
        const=SEARCH_EVALUATIONS,
        help=f"if the gate refuses int8, find the products to leave in float32, in N evaluations (default: {SEARCH_EVALUATIONS})",
    )
    command.add_argument(
        "--freeze",
        metavar="M",
        type=values.whole_or_auto(2),
        help="update only the query's tokens in the last M layers; auto: as many as surely change little (default: none)",
    )
    command.add_argument(
        "--packed",
        action="store_true",
        help="with float16: add a graph that computes no padding, which CUDA runs if it computes the same there",
    )
    command.add_argument("--calibration", metavar="FILE", type=values.path, help="your own calibration pairs (default: built in)")
    command.add_argument("--gate", metavar="FILE", type=values.path, help="your own gate pools (default: built in)")
    command.add_argument(
        "--no-texts",
        action="store_true",
        help="leave the texts of your gate out of the certificate; `resift verify` then needs them",
    )
    command.add_argument(
        "--relevant-label",
        type=values.text,
        metavar="LABEL",
        help="name or number of the label that means relevant, for a checkpoint with several labels (default: the second of two)",
    )
    command.add_argument(
        "--prompt-name",
        type=values.text,
        metavar="NAME",
        help="which of the checkpoint's prompts to put before every query, '' for none (default: its default prompt)",
    )
    command.add_argument(
        "--activation",
        choices=["identity", "sigmoid", "softmax"],
        help="the function that turns logits into scores (default: the one that the checkpoint declares)",
    )
    command.add_argument("--tracer", choices=["torch", "optimum"], default="torch", help="how the graph is traced (default: torch)")
    command.add_argument(
        "--name", type=values.text, metavar="ID", help="model id to record (default: the hub id or the folder's name)"
    )
    command.add_argument("--origin", type=values.text, metavar="TEXT", help="where the weights come from, for `resift info`")
    command.add_argument(
        "--attach",
        metavar="FILE",
        type=values.path,
        nargs="+",
        default=[],
        help="files to add to the artifact, such as LICENSE; a README.md becomes the beginning of its card",
    )
    command.add_argument("--allow-pickle", action="store_true", help="load weights from pickle files, which can run code")
    command.add_argument("--force", action="store_true", help="write OUT even if it fails the gate; the manifest records this")
    command.add_argument("--overwrite", action="store_true", help="replace OUT if it is an artifact and contains nothing else")
    command.set_defaults(run=run, usage_error=command.error)


def _stop(number: int, _: object) -> NoReturn:
    """Exits with cleanup, as on Ctrl-C, and with the exit code that shells report for a process killed by this signal."""
    sys.exit(128 + number)


def run(arguments: argparse.Namespace) -> int:
    """Converts, and prints the artifact's folder and size."""
    from resift_export.recipe import Recipe

    try:
        recipe = Recipe(
            precisions=tuple(dict.fromkeys(arguments.precision.split(","))),
            vnni=arguments.vnni,
            packed=arguments.packed,
            tracer=arguments.tracer,
            calibration=arguments.calibration,
            gate=arguments.gate,
            attached=tuple(arguments.attach),
            origin=arguments.origin,
            no_texts=arguments.no_texts,
            search=arguments.search,
            freeze=arguments.freeze,
            relevant_label=arguments.relevant_label,
            prompt_name=arguments.prompt_name,
            activation=arguments.activation,
        )
    except InputError as error:
        arguments.usage_error(str(error))
    try:
        from resift_export.convert import convert
    except ImportError as error:
        raise ExtraError(
            f"exporting needs PyTorch and other packages that are not installed ({error}): pip install 'resift[export]'"
        ) from error
    show_messages()
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _stop)
    with StageMeter() as meter:
        out = convert(
            arguments.checkpoint,
            arguments.out,
            recipe,
            revision=arguments.revision,
            name=arguments.name,
            first_look=arguments.first_look,
            plan=arguments.plan,
            keep=arguments.keep,
            allow_pickle=arguments.allow_pickle,
            force=arguments.force,
            overwrite=arguments.overwrite,
            report=meter,
        )
    write_lines([f"{path_text(out)}  {Artifact.open(out).size() / 1e6:.1f} MB"])
    return 0
