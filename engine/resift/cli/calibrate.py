"""`resift calibrate ARTIFACT POOLS`: fits probabilities of relevance to an artifact's logits. Needs the extra `eval`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from resift.artifact.folder import closed
from resift.calibration import METHODS
from resift.cli import values
from resift.cli.comparison import aligned, reliabilities, share_cells
from resift.cli.eval import add_data, data_inputs, reading
from resift.cli.meter import Meter
from resift.cli.options import CHECK, EXIT_CODES, add_engine, settings
from resift.cli.streams import complain, paragraph, write_json, write_lines
from resift.evaluate.significance import SEED
from resift.files.names import path_text
from resift.files.outputs import check_outputs, write_whole
from resift.settings import OTHER_TABLES, read_tables

if TYPE_CHECKING:
    import argparse

    from resift.cli.options import Commands
    from resift.evaluate.calibration.records import CalibrationResult, Threshold
    from resift.evaluate.results import Reliability, Share

EPILOG = f"""POOLS is labelled data in any of the forms that `resift eval` reads. Queries without a relevant document are used, too:
their candidates are what a threshold must keep out. Candidates that are not judged count as not relevant.

examples:
  resift calibrate ./my-artifact pools.jsonl.gz -o settings.toml --precision 0.9
  resift calibrate ./my-artifact pools.jsonl.gz --relevant-from 2 --recall 0.8
  resift rerank "how do tides work" documents.txt --model ./my-artifact \\
    --settings settings.toml --threshold 0.5

Exit code 3 if no threshold reaches a precision; the file is written all the same.

{EXIT_CODES}"""


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "calibrate",
        help="turn an artifact's logits into probabilities of relevance",
        description="Fit the probability of relevance to an artifact's logits by labelled data, say how far it can be trusted on "
        "queries that were held out, and find thresholds.",
        epilog=EPILOG,
        conflict_handler="resolve",  # --precision is a threshold's here
    )
    command.add_argument("model", metavar="ARTIFACT", type=values.file_name, help="a folder, a hub id or an embedded model's name")
    command.add_argument("data", metavar="POOLS", help="candidate pools, a BEIR folder or a TREC run")
    add_data(command)
    add_engine(command)
    group = command.add_argument_group("calibration")
    group.add_argument(
        "--relevant-from", type=values.whole(), default=1, metavar="N", help="the lowest label that is relevant (default: 1)"
    )
    group.add_argument(
        "--method", choices=["auto", *METHODS], default="auto", help="auto: the better one by cross-validation (default)"
    )
    group.add_argument("--seed", type=values.whole(0), default=SEED, metavar="N", help=f"seed of the folds (default: {SEED})")
    for name, words in (("precision", "the results that pass, that many are relevant"), ("recall", "the relevant, that many pass")):
        group.add_argument(
            f"--{name}",
            dest=f"{name}s",
            type=values.number("a share above 0, and at most 1, such as 0.9", lambda value: 0 < value <= 1),
            action="append",
            default=[],
            metavar="SHARE",
            help=f"find the threshold at which, of {words}; may be repeated",
        )
    group.add_argument("-o", "--out", type=values.path, metavar="FILE", help="write a settings file in TOML")
    group.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    group.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Fits, prints and writes the settings file."""
    from resift.evaluate.calibration.calibrate import calibrate
    from resift.evaluate.calibration.settingsfile import encode_calibrated
    from resift.evaluate.calibration.thresholds import MINIMUM
    from resift.evaluate.data.dataset import read_dataset
    from resift.evaluate.tuning.tunedfile import check_writer

    inputs = [*data_inputs(arguments), *filter(None, [arguments.settings])]
    outputs = [arguments.out] if arguments.out else []
    check_outputs(outputs, inputs, overwrite=arguments.overwrite, closed=closed)
    if outputs:
        check_writer()
    others = {} if arguments.settings is None else read_tables(arguments.settings)
    engine = replace(settings(arguments), calibration=None)
    dataset = read_dataset(arguments.data, every_query=True, document_template=engine.document_template, **reading(arguments))
    with Meter() as meter:
        result = calibrate(
            dataset,
            arguments.model,
            settings=engine,
            relevant_from=arguments.relevant_from,
            precisions=arguments.precisions,
            recalls=arguments.recalls,
            method=arguments.method,
            seed=arguments.seed,
            progress=meter,
        )
    if outputs:
        kept = {name: others[name] for name in OTHER_TABLES if name in others}
        write_whole(arguments.out, encode_calibrated(result, engine, kept))
    if arguments.json:
        write_json(result)
    else:
        write_lines(_lines(result))
    unreached = [each for each in result.thresholds if each.threshold is None]
    for each in unreached:
        complain(
            f"no threshold reaches precision {each.target:g} with {MINIMUM} pairs or more; the highest precision is {each.best:.4f}"
            ": expected a lower --precision, or more labelled queries"
            + (f"; {path_text(arguments.out)} is written without it" if outputs else "")
        )
    return CHECK if unreached else 0


def _lines(result: CalibrationResult) -> list[str]:
    from resift.evaluate.calibration.calibrate import FEW_QUERIES

    relevant = f"{result.relevant} of them relevant (label {result.relevant_from} or above)"
    lines = [f"{result.calibration.model} on {result.data}: {result.queries} queries, {result.pairs} pairs, {relevant}"]
    if result.unjudged:
        lines.append(f"{result.unjudged} pairs are not judged and count as not relevant, which makes probabilities too low")
    lines += [f"{count} queries left out: {reason}" for reason, count in result.left_out.items() if count]
    if result.queries < FEW_QUERIES:
        lines.append(f"{result.queries} queries say little, and the intervals are too narrow: expected {FEW_QUERIES} or more")
    losses = ", ".join(f"{name} {loss:.4f}" for name, loss in result.losses.items())
    how = f"chosen by the log loss on held-out queries in {result.folds} folds: {losses}" if losses else "as requested"
    lines += [f"method: {result.method}, {how}"]
    lines = [*(line for text in lines for line in paragraph(text)), ""]
    lines += reliabilities("on held-out queries", {"sigmoid of the logit": result.before, "calibrated": result.after})
    for name, found in (("sigmoid", result.before), ("calibrated", result.after)):
        lines += ["", *_bins(name, found)]
    if result.thresholds:
        lines += ["", *(line for found in result.thresholds for line in paragraph(_threshold(found)))]
    scope = f"{result.pool_size} candidates in the median, from this retriever and judged alike"
    return [*lines, "", *paragraph(f"These figures are for pools like these: {scope}. They say nothing of others.")]


def _bins(name: str, found: Reliability) -> list[str]:
    rows = [[name, "pairs", "mean", "relevant", "95 % interval"]]
    rows += [
        [f"{each.low:.1f} to {each.high:.1f}", str(each.pairs), f"{each.probability:.4f}", *share_cells(each.relevant)]
        for each in found.bins
    ]
    return aligned(rows)


def _threshold(found: Threshold) -> str:
    target = f"{found.measure} {found.target:g}"
    if found.threshold is None or found.recall is None or found.passing is None:
        return f"{target}: no threshold reaches it; the highest precision is {found.best:.4f}"
    precision = "nothing passes" if found.precision is None else f"precision {_words(found.precision)}"
    return (
        f"{target}: threshold {found.threshold:.6g}; on held-out queries {precision}, recall {_words(found.recall)}, "
        f"{found.passing.value:.1%} of the pairs pass"
    )


def _words(share: Share) -> str:
    return " ".join(share_cells(share))
