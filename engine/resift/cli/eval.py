"""`resift eval DATA`: compares how well models rank labelled data with the order given. Needs the extra `eval`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from resift.artifact.folder import closed
from resift.cli import values
from resift.cli.comparison import comparison
from resift.cli.meter import Meter
from resift.cli.options import EXIT_CODES, add_engine, add_template, settings
from resift.cli.streams import write_json, write_lines
from resift.errors import InputError
from resift.files.outputs import check_outputs, write_whole
from resift.settings import PRECISIONS

if TYPE_CHECKING:
    from resift.cli.options import Commands
    from resift.evaluate.systems import System

EPILOG = f"""DATA is one of
  candidate pools in JSON Lines, one per line:
    {{"qid", "query", "candidates": [{{"docid", "text", "label"}}]}}
  .csv, .tsv or .parquet, a row for each pair: query, document, qid?, docid?,
    label?, sorted by query
  a BEIR folder (corpus.jsonl, queries.jsonl, qrels/test.tsv),
    with --retrieve bm25 or --run FILE
  a TREC run, with --qrels, --texts and --queries
The judgements of the first two are their labels or, if there is such a file, NAME.qrels next to it (NAME up to the first dot) or
that of --qrels.

examples:
  resift eval pools.jsonl.gz
  resift eval pools.jsonl.gz --precision int8 --precision float32
  resift eval pools.jsonl.gz --html report.html --json figures.json
  resift eval pools.jsonl.gz --model ./mine --plan full --plan balanced
  resift eval pools.jsonl.gz --model ./mine --baseline "mine int8"
  resift eval pools.jsonl.gz --checkpoint ./my-cross-encoder --limit 50
  resift eval pools.jsonl.gz --scores other-engine.trec
  resift eval ./scifact --retrieve bm25 --candidates 50

Differences come with the paired bootstrap's 95 % interval and the p-value of a paired randomization test. Latency is that of one
pool at a time, tokenization included.

{EXIT_CODES}"""


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "eval",
        help="measure models on labelled data",
        description="Measure how well models rank labelled data, compared with the order given, and their latencies.",
        epilog=EPILOG,
        conflict_handler="resolve",  # --precision may be repeated here
    )
    command.add_argument("data", metavar="DATA", help="candidate pools, a BEIR folder or a TREC run")
    systems = group = command.add_argument_group("systems")
    group.add_argument(
        "--model",
        type=values.file_name,
        action="append",
        metavar="MODEL",
        help="a folder, a hub id or an embedded model's name; may be repeated (default: the default model, or none with --scores)",
    )
    group.add_argument(
        "--checkpoint",
        type=values.file_name,
        action="append",
        default=[],
        metavar="CHECKPOINT",
        help="a checkpoint, run by sentence-transformers in PyTorch",
    )
    group.add_argument(
        "--scores",
        type=values.file_name,
        action="append",
        default=[],
        metavar="FILE",
        help="another engine's scores: a TREC run, or JSON Lines as `resift rerank --pools` writes",
    )
    group.add_argument("--baseline", metavar="NAME", help="the system to compare the others with (default: order given)")
    add_data(command)
    group = command.add_argument_group("results")
    group.add_argument(
        "--measure",
        action="append",
        metavar="NAME",
        help="a measure of ir-measures; may be repeated (default: nDCG@10, P@1, RR@10, AP and R@10)",
    )
    group.add_argument("--per-query", action="store_true", help="also print the first measure for every query")
    group.add_argument("--html", type=values.path, metavar="FILE", help="write a report")
    group.add_argument("--json", type=values.file_name, metavar="FILE", help="write all results as JSON; - prints them instead")
    group.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    add_engine(command)
    systems.add_argument(
        "--precision", action="append", choices=["auto", *PRECISIONS], help="precision to run; may be repeated (default: auto)"
    )
    systems.add_argument(
        "--plan",
        action="append",
        type=values.plan,
        metavar="PLAN",
        help="full, fast, balanced, or stages such as first-look:15,full; may be repeated (default: that of --settings, or full)",
    )
    command.set_defaults(run=run, usage_error=command.error)


def add_data(command: argparse.ArgumentParser) -> None:
    """Adds the options of labelled data; its argument is named `data`."""
    group = command.add_argument_group("data")
    group.add_argument("--qrels", type=values.file_name, metavar="FILE", help="judgements: TREC's qrels, or BEIR's")
    group.add_argument(
        "--split", type=values.file_name, metavar="NAME", help="the BEIR folder's judgements qrels/NAME.tsv (default: test)"
    )
    group.add_argument("--retrieve", choices=["bm25"], help="make the BEIR folder's pools")
    group.add_argument(
        "--run", type=values.file_name, dest="trec_run", metavar="FILE", help="a TREC run that makes the BEIR folder's pools"
    )
    group.add_argument(
        "--texts", type=values.file_name, metavar="FILE", help='the TREC run\'s documents: {"_id", "title"?, "text"} per line'
    )
    group.add_argument(
        "--queries",
        type=values.file_name,
        metavar="FILE",
        help='the TREC run\'s queries: {"_id", "text"}, or qid, tab, query per line',
    )
    group.add_argument("--candidates", type=values.whole(), metavar="N", help="only the first N candidates of each query")
    group.add_argument("--limit", type=values.whole(), metavar="N", help="only the first N queries")
    add_template(group)


def run(arguments: argparse.Namespace) -> int:
    """Reads, scores and compares; prints the comparison and writes the requested files."""
    from resift.evaluate.data.dataset import read_dataset
    from resift.evaluate.evaluation import evaluate
    from resift.evaluate.measures import MEASURES, parse_measures
    from resift.evaluate.report.write import write_report

    json = None if arguments.json in (None, "-") else Path(arguments.json)
    check_outputs(
        [path for path in (arguments.html, json) if path], _inputs(arguments), overwrite=arguments.overwrite, closed=closed
    )
    measures = arguments.measure or MEASURES
    try:
        parse_measures(measures)  # before the data is read
    except InputError as error:
        arguments.usage_error(f"argument --measure: {error}")
    systems = _systems(arguments)
    template = settings(argparse.Namespace(settings=arguments.settings, document_template=arguments.document_template))
    dataset = read_dataset(arguments.data, document_template=template.document_template, **reading(arguments))
    with Meter() as meter:
        evaluation = evaluate(dataset, systems, measures=measures, baseline=arguments.baseline, progress=meter)
    if json:
        write_whole(json, msgspec.json.encode(evaluation) + b"\n")
    if arguments.json == "-":
        write_json(evaluation)
    else:
        write_lines(comparison(evaluation, per_query=arguments.per_query))
    if arguments.html:
        write_report(evaluation, arguments.html)
    return 0


def _systems(arguments: argparse.Namespace) -> list[System]:
    """The systems to compare with the order given."""
    from resift.evaluate.systems import ArtifactSystem, CheckpointSystem, ScoresFile

    engine = settings(argparse.Namespace(**{**vars(arguments), "precision": None, "plan": None, "scores": None}))
    engines = [replace(engine, precision=precision) for precision in dict.fromkeys(arguments.precision or [])] or [engine]
    engines = [replace(each, plan=plan) for each in engines for plan in dict.fromkeys(arguments.plan or [engine.plan])]
    models = dict.fromkeys(arguments.model or ([] if arguments.scores else [None]))
    max_length = None if engine.max_length == "auto" else engine.max_length
    device = "cuda" if engine.provider == "cuda" else "cpu"
    return [
        *(ArtifactSystem(model, each) for model in models for each in engines),
        *(CheckpointSystem(source, max_length=max_length, device=device) for source in dict.fromkeys(arguments.checkpoint)),
        *(ScoresFile(path) for path in dict.fromkeys(arguments.scores)),
    ]


def reading(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of `read_dataset` that were given."""
    options = {name: getattr(arguments, name) for name in ("qrels", "split", "retrieve", "texts", "queries", "limit")}
    options |= {"run": arguments.trec_run, "depth": arguments.candidates}
    return {name: value for name, value in options.items() if value is not None}


def _inputs(arguments: argparse.Namespace) -> list[Path]:
    """Every file and folder that is read, except standard input."""
    return [*data_inputs(arguments), *(Path(name) for name in (*arguments.scores, *arguments.checkpoint) if name != "-")]


def data_inputs(arguments: argparse.Namespace) -> list[Path]:
    """The files and folders of the labelled data, except standard input."""
    from resift.pools.trec import find_qrels

    named = (arguments.data, arguments.qrels, arguments.trec_run, arguments.texts, arguments.queries)
    return [Path(name) for name in (*named, find_qrels(arguments.data)) if name not in (None, "-")]
