"""`resift train CHECKPOINT OUT --data PAIRS`: trains a cross-encoder further on your own pairs. Needs the extra `train`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resift.cli import values
from resift.cli.comparison import aligned, share_cells
from resift.cli.messages import show_messages
from resift.cli.meter import StageMeter
from resift.cli.options import CHECK, EXIT_CODES
from resift.cli.stopping import StopCondition
from resift.cli.streams import complain, paragraph, write_json, write_lines
from resift.errors import ExtraError
from resift.files.names import path_text

if TYPE_CHECKING:
    import argparse
    from typing import Any

    from resift.cli.options import Commands

EPILOG = f"""examples:
  resift train ./my-cross-encoder ./trained --data pairs.jsonl.gz --dry-run
  resift train ./my-cross-encoder ./trained --data pairs.jsonl.gz
  resift train ./my-cross-encoder ./trained --data pairs.jsonl.gz \\
    --general pools.jsonl.gz --guard labelled.jsonl --artifact ./artifact

PAIRS are lines of {{"query", "positive": [{{"text"}}], "negative": [{{"text"}}]}}, as `resift mine` writes them; a document's
"score" is a teacher's logit. Queries that share an answer stay together: they are all trained on, or all held out.

OUT appears at the end, with recipe.json, unless it ranks worse than CHECKPOINT: then the exit code is 3, nothing is written, and
the same command with --force writes it. An interrupted or killed run continues if the same command is run again.

{EXIT_CODES}"""


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "train",
        help="train a cross-encoder further on your own pairs",
        description="Train a cross-encoder further on queries with documents that answer them and documents that do not, and "
        "measure the gain on queries that were held out.",
        epilog=EPILOG,
    )
    command.add_argument(
        "checkpoint", metavar="CHECKPOINT", type=values.file_name, help="a trained cross-encoder: a folder, or a hub id"
    )
    command.add_argument("out", metavar="OUT", type=values.path, help="folder to write: a checkpoint that `resift export` takes")
    command.add_argument("--data", metavar="PAIRS", type=values.path, nargs="+", required=True, help="files of training pairs")
    command.add_argument(
        "--general",
        metavar="POOLS",
        type=values.path,
        nargs="+",
        default=[],
        help="candidate pools of other subjects, whose scores are to stay; labels are not needed (default: built-in pairs)",
    )
    command.add_argument(
        "--guard",
        metavar="POOLS",
        type=values.path,
        nargs="+",
        default=[],
        help="labelled data on which OUT must not lose a point of nDCG@10, beside the built-in pools",
    )
    command.add_argument("--revision", metavar="REV", help="a commit, tag or branch of a CHECKPOINT on the hub")
    command.add_argument(
        "--artifact",
        metavar="OUT2",
        type=values.path,
        help="also export OUT as this artifact, and fit its probabilities on the held-out queries: OUT2.toml",
    )
    command.add_argument("--dry-run", action="store_true", help="only print the plan, and the time that it would take")
    command.add_argument("--force", action="store_true", help="write OUT even if it ranks worse; recipe.json records this")
    command.add_argument("--json", action="store_true", help="print recipe.json instead of tables")
    _add_training(command)
    running = command.add_argument_group("execution")
    running.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to train (default: auto)")
    running.add_argument(
        "--threads", type=values.setting("threads"), metavar="N", help="threads of torch (default: the usable physical cores)"
    )
    running.add_argument(
        "--minutes", type=values.positive, metavar="N", help="save and stop after this time; the same command continues later"
    )
    command.set_defaults(run=run)


def _add_training(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("training")
    group.add_argument(
        "--loss",
        choices=["auto", "bce", "infonce", "marginmse"],
        default="auto",
        help="auto: marginmse if another model scored all documents, otherwise bce (default)",
    )
    numbers: tuple[tuple[str, Any, object, str, str], ...] = (
        ("epochs", values.whole(), 2, "N", "visits to each query"),
        ("batch", values.whole(), 4, "N", "queries in a step"),
        ("negatives", values.whole(), 7, "N", "maximum number of a query's negatives at a visit"),
        ("lr", values.positive, 2e-5, "RATE", "learning rate"),
        ("warmup", values.share, 0.1, "SHARE", "share of the steps over which the rate rises"),
        ("max-length", values.setting("max_length"), 192, "N", "maximum number of tokens in a pair"),
        ("general-share", values.share, 0.25, "SHARE", "share of the steps on general pairs"),
        ("dev", values.part, 0.1, "SHARE", "share of the queries to choose the best weights by"),
        ("held-out", values.part, 0.2, "SHARE", "share of the queries to measure the gain on"),
        ("evaluations", values.whole(), 6, "N", "measurements, and saved states, during the training"),
        ("seed", values.seed, 0, "N", "seed of all random choices"),
    )
    for name, kind, default, metavar, words in numbers:
        group.add_argument(f"--{name}", type=kind, default=default, metavar=metavar, help=f"{words} (default: {default})")
    group.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="type of matrix products (default: bfloat16 where it is fast)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Trains, and prints what it gained."""
    try:
        from resift_export.distill.device import device_of, fast_dtype
        from resift_export.train.artifact import Delivery
        from resift_export.train.options import TrainOptions
        from resift_export.train.training import train
    except ImportError as error:
        raise ExtraError(
            f"training needs PyTorch and other packages that are not installed ({error}): pip install 'resift[train]'"
        ) from error
    show_messages()
    options = TrainOptions(
        loss=arguments.loss,
        epochs=arguments.epochs,
        batch=arguments.batch,
        negatives=arguments.negatives,
        lr=arguments.lr,
        warmup=arguments.warmup,
        max_length=arguments.max_length,
        general=arguments.general_share,
        development=arguments.dev,
        held_out=arguments.held_out,
        evaluations=arguments.evaluations,
        seed=arguments.seed,
        dtype=fast_dtype(device_of(arguments.device)) if arguments.dtype == "auto" else arguments.dtype,
    )
    delivery = None if arguments.artifact is None else Delivery(arguments.artifact)
    if delivery is not None:
        delivery.check(arguments.out)
    with StageMeter() as meter:
        with StopCondition(arguments.minutes) as stop:
            trained = train(
                arguments.checkpoint,
                arguments.out,
                arguments.data,
                options,
                general=arguments.general,
                guards=arguments.guard,
                revision=arguments.revision,
                device=arguments.device,
                threads=arguments.threads,
                dry_run=arguments.dry_run,
                force=arguments.force,
                should_continue=stop.should_continue,
                report=meter,
            )
        is_due = delivery is not None and trained.is_written and not stop.exit_code
        calibrated = delivery.make(arguments.out, trained.held_out, meter) if delivery and is_due else None
    recipe = trained.recipe
    if arguments.json:
        write_json(recipe)
    elif recipe.is_finished:
        write_lines(_lines(recipe, arguments.out))
    elif arguments.dry_run:
        minutes = trained.seconds / 60
        write_lines(
            [f"{path_text(arguments.out)}  {recipe.steps} steps of {recipe.loss}, about {minutes:.1f} min; nothing is written"]
        )
    else:
        write_lines([f"{path_text(arguments.out)}  stopped: the same command continues"])
    if calibrated is not None and delivery is not None and not arguments.json:
        ece = ["calibration error on held-out queries:", *share_cells(calibrated.after.ece)]
        write_lines([f"{path_text(delivery.folder)}  an artifact, with {path_text(delivery.settings)}; {' '.join(ece)}"])
    if recipe.is_finished and not trained.is_written:
        complain(f"{'; '.join(recipe.refusals)}: {path_text(arguments.out)} is not written; --force writes it all the same")
        return CHECK
    return stop.exit_code


def _lines(recipe: Any, out: Any) -> list[str]:
    rows = [["", "measure", "queries", "before", "after", "difference", "95 % interval", "p"]]
    for found in (recipe.held_out, *recipe.guards):
        rows += [
            [
                found.name,
                name,
                str(found.pools),
                f"{found.before[name]:.4f}",
                f"{found.after[name]:.4f}",
                f"{change.value:+.4f}",
                f"[{change.low:+.4f}, {change.high:+.4f}]",
                f"{change.p_value:.4f}",
            ]
            for name, change in found.differences.items()
        ]
    gain = recipe.held_out.differences["nDCG@10"]
    lines = [*aligned(rows, left_aligned=(0, 1)), ""]
    if gain.low <= 0 <= gain.high:
        lines += paragraph("The interval of the gain holds 0: these queries do not show that the training helped.")
    chosen = f"step {recipe.best_step} of {recipe.steps}, the best by nDCG@10 on development queries"
    return [*lines, *paragraph(f"{path_text(out)}  {recipe.loss}, {chosen}")]
