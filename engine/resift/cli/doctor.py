"""`resift doctor POOLS`: what stands in the way of good rankings."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from resift.cli import values
from resift.cli.meter import Meter
from resift.cli.options import CHECK, EXIT_CODES, add_engine, add_template, settings
from resift.cli.streams import paragraph, write_json, write_lines
from resift.errors import InputError
from resift.evaluate.doctor.diagnosis import diagnose
from resift.files.names import path_text
from resift.pools.source import read_pools, template_of
from resift.pools.trec import find_qrels, read_qrels
from resift.reranker import Reranker

if TYPE_CHECKING:
    import argparse

    from resift.cli.options import Commands

DEFAULT_LIMIT = 200
"""Number of pools to examine by default: enough to estimate every share that is reported, in minutes instead of hours."""

EPILOG = f"""POOLS is JSON Lines, CSV, TSV or Parquet, as `resift rerank --pools` reads it. Labels are not needed, but let the
doctor see more: the field "label" of candidates (0: not relevant), or TREC judgements (--qrels FILE, or NAME.qrels next to POOLS,
NAME being its name up to the first dot).

examples:
  resift doctor pools.jsonl.gz
  resift doctor pools.jsonl.gz --model ./my-artifact --limit 50
  resift doctor pools.jsonl --qrels judgements.txt --strict --json

Findings are problems, warnings or notes. They do not change the exit code, unless --strict is given: 3 if there is a problem.

{EXIT_CODES}"""


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "doctor",
        help="find what stands in the way of good rankings",
        description="Score candidate pools, and say what stands in the way of good rankings: texts that are cut, too few "
        "candidates, a language that the model does not know, a model that ranks worse than the order given, and more.",
        epilog=EPILOG,
    )
    command.add_argument("pools", metavar="POOLS", help="a file of candidate pools; - for standard input")
    command.add_argument("--model", type=values.file_name, metavar="MODEL", help="a folder, a hub id or an embedded model's name")
    command.add_argument(
        "--limit",
        type=values.whole(),
        metavar="N",
        default=DEFAULT_LIMIT,
        help=f"examine the first N pools (default: {DEFAULT_LIMIT})",
    )
    command.add_argument(
        "--qrels",
        type=values.file_name,
        metavar="FILE",
        help="TREC judgements (default: NAME.qrels next to POOLS, if there is one)",
    )
    command.add_argument("--strict", action="store_true", help="exit with code 3 if there is a problem")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    add_template(command)
    add_engine(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Scores the pools and prints the findings."""
    file = arguments.qrels or find_qrels(arguments.pools)
    qrels = None if file is None else read_qrels(file)
    how = settings(arguments)
    read = list(islice(read_pools(arguments.pools, template_of(how)), arguments.limit + 1))
    pools = read[: arguments.limit]
    pairs = sum(len(pool.documents) for pool in pools)
    if not pairs:
        raise InputError(f"{arguments.pools} holds {len(pools)} pools and no candidates; expected some to look at")
    with Reranker.load(arguments.model, settings=how) as reranker, Meter() as meter:
        findings = diagnose(reranker, pools, qrels=qrels, progress=meter)
    if arguments.json:
        model = {"model": reranker.artifact.manifest.model, "precision": reranker.precision}
        write_json({**model, "data": path_text(arguments.pools), "pools": len(pools), "pairs": pairs, "findings": findings})
    else:
        first = "the first " if len(read) > len(pools) else ""
        judged = "" if file is None else f", judged by {path_text(file)}"
        lines = [f"{path_text(arguments.pools)}: {first}{len(pools)} pools, {pairs} pairs{judged}"]
        for finding in findings:
            lines += ["", f"{finding.severity}: {finding.name}", *paragraph(finding.words, "  ")]
            lines += paragraph(f"advice: {finding.advice}", "  ")
        write_lines(lines if findings else [*lines, "nothing found"])
    return CHECK if arguments.strict and any(finding.severity == "problem" for finding in findings) else 0
