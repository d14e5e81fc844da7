"""`resift rerank QUERY [FILE|-]`, `resift rerank --pools POOLS --out OUT` and `resift rerank POOLS --out OUT --engine ray`."""

from __future__ import annotations

import operator
import os
import sys
from argparse import ArgumentTypeError
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from resift.calibration import check_threshold
from resift.cli import values
from resift.cli.meter import Meter, StageMeter, wait_for
from resift.cli.options import EXIT_CODES, add_engine, add_template, settings
from resift.cli.streams import MIN_TEXT_WIDTH, complain, shorten, terminal_width, write_json, write_lines
from resift.errors import InputError
from resift.files.escapes import visible
from resift.pools.documents import read_documents
from resift.pools.job import Job, rerank_file
from resift.pools.source import template_of
from resift.ranking import Ranking
from resift.reranker import Reranker
from resift.states.document_states import StatesCounts

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from resift.cli.options import Commands

EPILOG = f"""FILE holds one document per line, or one JSON object {{"text": "...", ...}} per line, or (.csv, .tsv,
.parquet) one document per row with the column text or document; --json keeps the other fields.

POOLS, recognized by name and content, is one of
  JSON Lines, a pool in each: {{"qid"?, "query", "documents": ["..."]}}
    or {{"qid"?, "query", "candidates": [{{"docid"?, "text", ...}}]}}
  .csv, .tsv or .parquet, a row for each pair: query, document, qid?, docid?,
    sorted by query; or Parquet with a pool in each row
  a TREC run, with --texts and --queries
  a BEIR folder, with --run
OUT is JSON Lines, a ranked pool per line in the same order, or a TREC run; with
--engine ray, Parquet. Files named .gz are gzip.

examples:
  resift rerank "how do tides work" documents.txt
  resift rerank "how do tides work" documents.jsonl.gz --top-k 3 --json
  cat documents.txt | resift rerank "how do tides work" - --model ./mine
  resift rerank "how do tides work" documents.txt --plan fast --top-k 5
  resift rerank --pools pools.jsonl.gz --out ranked.jsonl --top-k 10
  resift rerank --pools pairs.csv --out ranked.jsonl --with-documents
  resift rerank --pools scifact --run bm25.trec --out run.trec --format trec
  resift rerank pools.parquet -o ranked/ --engine ray --workers 8 --threads 2

An interrupted run with --out, even a killed one, resumes when the same command is run again. With --engine ray, POOLS is a
Parquet file of pools or a folder of them, OUT a folder of ranked Parquet; both may be URIs such as s3://bucket/folder.

{EXIT_CODES}"""

TABLES = (".csv", ".tsv", ".parquet", ".csv.gz", ".tsv.gz")
"""Forms of pools in which no rankings are written."""
EMPTY = "(empty)"
"""Stands for a document without text."""
SPACES = {code: " " for code in range(0x3001) if chr(code).isspace()}
"""Maps each character that str.split() treats as whitespace to a space; U+3000 is the last such character."""


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "rerank",
        help="rank documents for a query, or a file of candidate pools",
        description="Rank documents for a query, or every candidate pool of a file, best first.",
        epilog=EPILOG,
    )
    command.add_argument("query", metavar="QUERY", nargs="?", help="the query; with --engine ray, POOLS")
    command.add_argument("file", metavar="FILE", nargs="?", default="-", help="documents (default: -, standard input)")
    command.add_argument("--model", type=values.file_name, metavar="MODEL", help="a folder, a hub id or an embedded model's name")
    command.add_argument("--top-k", type=values.whole(), metavar="N", help="keep only the best N")
    command.add_argument(
        "--plan",
        type=values.plan,
        metavar="PLAN",
        help="how a pool is ranked: full, fast, balanced, or stages such as first-look:15,full (default: the model's own "
        "plan with --top-k, otherwise full)",
    )
    command.add_argument(
        "--budget-ms",
        type=values.positive,
        metavar="MS",
        help="stop after MS milliseconds; documents that the full model has not scored by then follow without a score",
    )
    command.add_argument(
        "--threshold",
        type=values.share,
        metavar="P",
        help="only documents whose probability of relevance is P or more; needs --settings with a calibration",
    )
    command.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    group = command.add_argument_group("what the model reads and says")
    add_template(group)
    group.add_argument(
        "--instruction",
        type=values.text,
        metavar="TEXT",
        help="text before every query (default: the model's prompt)",
    )
    group.add_argument(
        "--scores",
        choices=["auto", "logit", "sigmoid"],
        help="the scale of scores (default: auto, that of the model)",
    )
    group = command.add_argument_group("files of pools")
    group.add_argument("--pools", type=values.file_name, metavar="POOLS", help="rank every pool of this file; - for standard input")
    group.add_argument("--run", type=values.file_name, dest="trec_run", metavar="FILE", help="the TREC run of a BEIR folder")
    group.add_argument(
        "--texts", type=values.file_name, metavar="FILE", help='a TREC run\'s documents: {"_id", "title"?, "text"} per line'
    )
    group.add_argument(
        "--queries",
        type=values.file_name,
        metavar="FILE",
        help='a TREC run\'s queries: {"_id", "text"}, or qid, tab, query',
    )
    group.add_argument("-o", "--out", type=values.file_name, metavar="OUT", help="write the ranked pools here")
    group.add_argument("--format", choices=["jsonl", "trec"], default="jsonl", help="format of OUT (default: jsonl)")
    group.add_argument("--with-documents", action="store_true", help="write the documents' texts into JSON Lines, too")
    group.add_argument("--max-candidates", type=values.whole(), metavar="N", help="read only the first N candidates of each pool")
    group.add_argument("--on-error", choices=["stop", "skip"], default="stop", help="skip: bad lines go to OUT.errors.jsonl")
    group.add_argument(
        "--overwrite", action="store_true", help="replace OUT once the new one is complete; drop another job's unfinished work"
    )
    group.add_argument("--engine", choices=["local", "ray"], default="local", help="ray: Parquet on a Ray cluster (default: local)")
    group.add_argument(
        "--workers", type=values.whole(), metavar="N", help="with --engine ray: actors of --threads CPUs each (default: all)"
    )
    add_engine(command)
    command.set_defaults(run=run, usage_error=command.error)


def run(arguments: argparse.Namespace) -> int:
    """Ranks a query's documents, or a file of pools."""
    if arguments.engine == "ray":
        return _rank_on_ray(arguments)
    if arguments.workers is not None:
        arguments.usage_error("--workers needs --engine ray; --threads is the number of batches at once in this process")
    if (arguments.query is None) == (arguments.pools is None):
        arguments.usage_error("expected either QUERY or --pools POOLS")
    if arguments.pools is None and arguments.out is not None and _is_file(arguments.query):
        name = arguments.query
        arguments.usage_error(f"--out is for pools: --pools {name} --out FILE, or --engine ray for Parquet on a Ray cluster")
    if (arguments.pools is None) != (arguments.out is None):
        arguments.usage_error("--pools POOLS and --out OUT must be given together")
    if arguments.pools is None and _is_for_pools(arguments):
        arguments.usage_error(
            "--run, --texts, --queries, --format, --with-documents, --max-candidates, --on-error and --overwrite are for "
            "--pools POOLS"
        )
    if arguments.out is not None and arguments.out.lower().endswith(TABLES):
        arguments.usage_error(
            f"--out {arguments.out}: no tables are written; expected a name for JSON Lines or, with --format trec, a run"
        )
    if arguments.with_documents and arguments.format == "trec":
        arguments.usage_error("--with-documents is for JSON Lines: a TREC run holds no texts")
    if arguments.pools is not None and arguments.budget_ms is not None:
        arguments.usage_error("--budget-ms is for QUERY: a file of pools must be ranked the same way when resumed; use --plan")
    return _rank_documents(arguments) if arguments.pools is None else _rank_pools(arguments)


def _is_for_pools(arguments: argparse.Namespace) -> bool:
    """Whether there are options that only files of pools have."""
    names = ("trec_run", "texts", "queries", "with_documents", "max_candidates", "overwrite")
    return arguments.format != "jsonl" or arguments.on_error != "stop" or any(getattr(arguments, name) for name in names)


def _rank_documents(arguments: argparse.Namespace) -> int:
    try:
        query = values.text(arguments.query)
    except ArgumentTypeError as error:
        arguments.usage_error(f"argument QUERY: {error}")
    if arguments.file == "-" and (sys.stdin is None or sys.stdin.isatty()):
        raise InputError("no documents: name a FILE, or pipe documents in, one per line")
    how = settings(arguments)
    pool = read_documents(arguments.file, query, template_of(how))
    if how.plan == "auto" and arguments.top_k is None and arguments.budget_ms is None:
        how = replace(how, plan="full")  # the same plan for such a call; naming it avoids loading the first look
    check_threshold(arguments.threshold, is_calibrated=how.calibration is not None)
    with Reranker.load(arguments.model, settings=how) as reranker, StageMeter() as meter:
        answer = reranker.submit(
            pool.query,
            pool.documents,
            top_k=arguments.top_k,
            budget_ms=arguments.budget_ms,
            instruction=arguments.instruction,
        )
        wait_for([answer], lambda: reranker.queued.rows, meter, "rank")
        ranking = Ranking.of(pool.documents, answer.result(), top_k=arguments.top_k, threshold=arguments.threshold)
    if ranking.states is not None and how.store != "auto":
        _tell(ranking.states)
    if arguments.json:
        write_json(pool.ranked(ranking, with_documents=True))
    else:
        lines = table(ranking, pool.lines, terminal_width())
        if arguments.threshold is not None and ranking.without_score:
            lines.append(f"{ranking.without_score} have no probability, as the full model did not score them: none of them passes")
        write_lines(lines)
    return 0


def _tell(counts: StatesCounts) -> None:
    """Says what was known of the documents that a split graph read."""
    complain(f"states of documents: {counts.prepared} prepared, {counts.cached} cached, {counts.new} new")


def _is_file(query: str) -> bool:
    """Whether a query seems to be the name of a file."""
    return query.endswith(".parquet") or os.path.exists(query)  # noqa: PTH110 - Path.exists raises for a name that is too long


def _rank_pools(arguments: argparse.Namespace) -> int:
    job = Job(
        source=arguments.pools,
        out=Path(arguments.out),
        format=arguments.format,
        top_k=arguments.top_k,
        max_candidates=arguments.max_candidates,
        on_error=arguments.on_error,
        run=arguments.trec_run,
        texts=arguments.texts,
        queries=arguments.queries,
        with_documents=arguments.with_documents,
        instruction=arguments.instruction,
        threshold=arguments.threshold,
    )
    how = settings(arguments)
    with Reranker.load(arguments.model, settings=how) as reranker, Meter() as meter:
        states = None if how.store == "auto" else reranker.document_states
        before = None if states is None else states.counts  # those of a self-test
        skipped = rerank_file(reranker, job, overwrite=arguments.overwrite, progress=meter)
    if states is not None and before is not None:
        _tell(StatesCounts(*map(operator.sub, states.counts, before)))
    if skipped:
        complain(f"{skipped} bad lines or rows were skipped, see {job.errors}")
    return 0


def _rank_on_ray(arguments: argparse.Namespace) -> int:
    if (arguments.query is None) == (arguments.pools is None) or arguments.file != "-" or arguments.out is None:
        arguments.usage_error("--engine ray needs one POOLS and --out OUT")
    unusable = ("json", "overwrite", "budget_ms", "threshold", "with_documents", "instruction", "trec_run", "texts", "queries")
    if arguments.format != "jsonl" or arguments.on_error != "stop" or any(getattr(arguments, name) for name in unusable):
        arguments.usage_error(
            "--engine ray does not take --json, --format, --on-error, --overwrite, --budget-ms, --threshold, --with-documents, "
            "--instruction, --run, --texts or --queries"
        )
    from resift.integrations.ray import rerank_parquet

    done = rerank_parquet(
        arguments.pools if arguments.query is None else arguments.query,
        arguments.out,
        model=arguments.model,
        settings=settings(arguments),
        top_k=arguments.top_k,
        max_candidates=arguments.max_candidates,
        workers=arguments.workers,
    )
    complain(f"ranked {done.pools} pools, {done.pairs} pairs; {done.resumed} of {done.parts} files were there already")
    return 0


def one_line(text: str) -> str:
    """The text with each run of whitespace as one space: like " ".join(text.split()), with far less memory."""
    flat = text.translate(SPACES)
    while "  " in flat:
        flat = flat.replace("  ", " ")
    return flat.strip()


def table(ranking: Ranking, numbers: Sequence[int], width: int | None) -> list[str]:
    """Rank, score, input line (`numbers[i]` of document i) and text of each result, cut to `width` columns (None: not cut)."""
    probability = f"{'probability':>11}  " if ranking.calibrated else ""
    rows = [f"{'rank':>4}  {'score':>8}  {probability}{'line':>5}  document"]
    for rank, result in enumerate(ranking, 1):
        text = one_line(result.text) or EMPTY
        at_least = "at least " if result.tokens_cut_at_least else ""
        cut = f"  ({at_least}{result.tokens_cut} tokens cut)" if result.tokens_cut or at_least else ""
        score = "-" if result.score is None else f"{result.score:.3f}"
        if ranking.calibrated:
            probability = f"{'-' if result.probability is None else f'{result.probability:.3f}':>11}  "
        start = f"{rank:>4}  {score:>8}  {probability}{numbers[result.index]:>5}  "
        if width is not None:
            text = shorten(visible(text), max(MIN_TEXT_WIDTH, width - len(start) - len(cut)))
        rows.append(f"{start}{text}{cut}")
    if without_score := sum(result.score is None for result in ranking):
        rows.append(f"{without_score} of {len(ranking)} without a score of the full model rank as a stage before, or as given")
    if len(ranking) > 1 and not ranking[0].text.strip():
        rows.append("an empty document ranks first: the model finds no other one more relevant")
    if ranking.query_tokens_cut:
        rows.append(f"the query was too long: its last {ranking.query_tokens_cut} tokens were cut")
    return rows
