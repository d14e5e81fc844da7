"""`resift tune POOLS`: finds the settings and the number of candidates that rank best within a time budget on this machine."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from resift.artifact.folder import Artifact, closed
from resift.cli import values
from resift.cli.meter import StageMeter
from resift.cli.options import CHECK, EXIT_CODES, add_engine, add_template, settings
from resift.cli.streams import complain, paragraph, write_json, write_lines
from resift.errors import InputError
from resift.evaluate.tuning.plot import check_plot, draw
from resift.evaluate.tuning.tune import CANDIDATES, check, tune
from resift.evaluate.tuning.tunedfile import check_writer, encode_tuned, read_tuned
from resift.files.names import path_text
from resift.files.outputs import check_outputs, write_whole
from resift.pools.source import read_pools, template_of
from resift.pools.trec import find_qrels, read_qrels

if TYPE_CHECKING:
    import argparse

    from resift.cli.options import Commands
    from resift.evaluate.tuning.records import Point, Tuning
    from resift.pools.reading import CandidatePool
    from resift.pools.trec import Qrels
    from resift.settings import Settings

EPILOG = f"""POOLS is JSON Lines, CSV, TSV or Parquet, as `resift rerank --pools` reads it, in your retriever's order. Its
candidates may have a "label" (graded relevance), or there may be TREC judgements next to the file, in NAME.qrels. Without either,
quality is the agreement with the ranking of all candidates.

examples:
  resift tune pools.jsonl.gz --budget-ms 200 --out tuned.toml
  resift tune pools.jsonl.gz --threads 1 --limit 50
  resift tune pools.jsonl.gz --check tuned.toml

The file is for --settings of every command. The number of candidates is for you to set in your retriever.

{EXIT_CODES}"""

HEAD = ("candidates", "precision", "threads", "token budget", "p50 ms", "p95 ms")
KNOWN = ("p50 known", "p95 known")
"""Further columns, if the plan has a split graph."""
NO_LABELS = "none has a relevant document by labels, so quality is the agreement with the ranking of all candidates"
FEW_POOLS = 20


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "tune",
        help="find the best settings for this machine and a time budget",
        description="Measure this machine: which threads, token budget, precision and number of candidates rank best within a time "
        "budget. Exit code 3 if nothing holds the budget.",
        epilog=EPILOG,
    )
    command.add_argument("pools", metavar="POOLS", help="candidate pools; - for standard input")
    command.add_argument("--model", type=values.file_name, metavar="MODEL", help="a folder, a hub id or an embedded model's name")
    command.add_argument(
        "--budget-ms", type=values.positive, metavar="MS", help="milliseconds that a pool may take, for 95 %% of all calls"
    )
    command.add_argument(
        "--qrels", metavar="FILE", type=values.path, help="TREC judgements (default: NAME.qrels next to POOLS, if it exists)"
    )
    command.add_argument(
        "--candidates",
        type=values.whole(),
        nargs="+",
        metavar="N",
        help="numbers of candidates to try (default: 5 10 20 30 50 100)",
    )
    command.add_argument("--limit", type=values.whole(), metavar="N", help="read only the first N pools")
    command.add_argument("--out", metavar="FILE", type=values.path, help="write the settings here, as TOML")
    command.add_argument("--plot", metavar="FILE", type=values.path, help="plot quality against latency: .svg, .png or .pdf")
    command.add_argument("--overwrite", action="store_true", help="replace the files of --out and --plot")
    command.add_argument(
        "--check", metavar="FILE", type=values.path, help="only check whether FILE's settings and candidates hold its budget"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    add_template(command)
    add_engine(command)
    command.set_defaults(run=run, usage_error=command.error)


def run(arguments: argparse.Namespace) -> int:
    """Measures, prints and writes the settings; or checks a file of settings."""
    arguments.qrels = arguments.qrels or find_qrels(arguments.pools)
    return _check(arguments) if arguments.check else _tune(arguments)


def _tune(arguments: argparse.Namespace) -> int:
    outputs = [path for path in (arguments.out, arguments.plot) if path]
    inputs = [name for name in (arguments.pools, arguments.qrels, arguments.settings) if name]
    check_outputs(outputs, inputs, overwrite=arguments.overwrite, closed=closed)
    if arguments.out:
        check_writer()
    try:
        kind = check_plot(arguments.plot) if arguments.plot else ""
    except InputError as error:
        arguments.usage_error(f"argument --plot: {error}")
    base_settings = settings(arguments)
    pools, qrels = _data(arguments, base_settings)
    with StageMeter() as meter:
        tuning = tune(
            pools,
            arguments.model,
            qrels=qrels,
            settings=base_settings,
            candidates=arguments.candidates or CANDIDATES,
            budget_ms=arguments.budget_ms,
            report=meter,
        )
    if tuning.chosen:
        check_outputs(outputs, inputs, overwrite=arguments.overwrite, closed=closed)  # again: the measurements took minutes
    if tuning.chosen and arguments.plot:
        write_whole(arguments.plot, draw(tuning, kind))
    if tuning.chosen and arguments.out:
        write_whole(arguments.out, encode_tuned(tuning))
    if arguments.json:
        write_json(tuning)
    else:
        write_lines(_lines(tuning))
    if tuning.chosen:
        return 0
    assert tuning.nearest is not None
    files = f"; {' and '.join(path_text(path) for path in outputs)} not written" if outputs else ""
    complain(
        f"nothing holds {tuning.budget_ms:g} ms for {tuning.share:.0%} of all calls; the nearest is {_words(tuning.nearest)}, p95 "
        f"{tuning.nearest.latency_ms.p95:.1f} ms{files}"
    )
    return CHECK


def _check(arguments: argparse.Namespace) -> int:
    for name in ("settings", "out", "plot", "candidates", "overwrite"):
        if getattr(arguments, name):
            arguments.usage_error(f"--check takes no --{name}: FILE says what to run")
    tuned = read_tuned(arguments.check)
    budget_ms = tuned.budget_ms if arguments.budget_ms is None else arguments.budget_ms
    if budget_ms is None:
        raise InputError(f"{arguments.check} names no budget; give one with --budget-ms")
    model = Artifact.find(arguments.model).manifest.model.id
    if tuned.model not in (None, model):
        raise InputError(
            f"{arguments.check} was measured with {tuned.model}, but the model here is {model}; name its artifact with --model"
        )
    arguments.settings = arguments.check
    base_settings = settings(arguments)
    pools, qrels = _data(arguments, base_settings)
    with StageMeter() as meter:
        found = check(
            pools,
            arguments.model,
            qrels=qrels,
            settings=base_settings,
            candidates=tuned.candidates,
            budget_ms=budget_ms,
            report=meter,
        )
    if arguments.json:
        write_json(found)
    else:
        size = "all" if found.candidates is None else f"the first {found.candidates}"
        calls = f"{found.calls} calls on {found.pools} pools, {size} candidates of each"
        took = f"p50 {found.latency_ms.p50:.1f} ms, p95 {found.latency_ms.p95:.1f} ms"
        within = f"within {budget_ms:g} ms: {found.share_within:.1%} of all calls; expected {found.share:.0%} or more"
        write_lines([f"{calls}: {took}", within])
    if found.holds:
        return 0
    complain(f"{arguments.check} does not hold its budget: {found.share_within:.1%} of all calls took at most {budget_ms:g} ms")
    return CHECK


def _data(arguments: argparse.Namespace, settings: Settings) -> tuple[list[CandidatePool], Qrels | None]:
    qrels = read_qrels(arguments.qrels) if arguments.qrels else None
    return list(islice(read_pools(arguments.pools, template_of(settings)), arguments.limit)), qrels


def _lines(tuning: Tuning) -> list[str]:
    """The data and the machine, then the frontier as a table."""
    judged = f"{tuning.judged} of them have labels" if tuning.given is not None else NO_LABELS
    timed = f"{tuning.timed} were timed, {tuning.repeats} times each"
    left_out = f"; {tuning.left_out} of fewer than two candidates are left out" if tuning.left_out else ""
    if tuning.self_candidates:
        left_out += f"; queries left out of their own candidates, by id and text: {tuning.self_candidates}"
    head = [f"{tuning.model} on {tuning.machine}", f"{tuning.pools} pools, {judged}; {timed}{left_out}"]
    if tuning.timed < FEW_POOLS:
        head.append(f"p95 of {tuning.timed} pools says little: expected {FEW_POOLS} or more")
    head += _doubt(tuning)
    if tuning.given is not None:
        head.append(f"order given: {tuning.measure} {tuning.given:.4f}")
    head += _documents(tuning)
    known = KNOWN if any(point.documents and point.documents.known_latency_ms for point in tuning.points) else ()
    columns = (*HEAD, *known, tuning.measure)
    rows = [f"  {'  '.join(columns)}"]
    for point in tuning.points:
        if point.is_on_frontier or point == tuning.chosen:
            cells = (
                point.candidates,
                point.settings.precision,
                point.settings.threads,
                point.settings.token_budget,
                f"{point.latency_ms.p50:.1f}",
                f"{point.latency_ms.p95:.1f}",
                *(_known(point) if known else ()),
                f"{point.quality:.4f}",
            )
            table = "  ".join(f"{cell!s:>{len(name)}}" for name, cell in zip(columns, cells, strict=True))
            rows.append(f"{'*' if point == tuning.chosen else ' ' if point.fits else '!'} {table}")
    late = ["! does not hold the budget"] if any(row.startswith("!") for row in rows) else []
    head, advice = ([line for text in texts for line in paragraph(text)] for texts in (head, [*late, *_advice(tuning)]))
    return [*head, "", *rows, "", *advice]


def _documents(tuning: Tuning) -> list[str]:
    """What was known of the documents of the point with the most candidates, and what the columns of known ones mean."""
    every = [point.documents for point in tuning.points if point.documents]
    if not every:
        return []
    head = f"states of {every[-1].prepared} documents were prepared, of {every[-1].new} new"
    return [f"{head}; known: each pool again, with all states in memory, as if prepared; a store takes time to read beside it"]


def _known(point: Point) -> tuple[str, str]:
    """p50 and p95 with the states of documents in memory."""
    latency = point.documents and point.documents.known_latency_ms
    return (f"{latency.p50:.1f}", f"{latency.p95:.1f}") if latency else ("-", "-")


def _doubt(tuning: Tuning) -> list[str]:
    """How well the pools tell the chosen number of candidates from the best other one that fits."""
    point = tuning.chosen
    rivals = [other for other in tuning.points if other.fits and point and other.candidates != point.candidates]
    if not point or not rivals:
        return []
    rival = max(rivals, key=lambda other: (other.quality, -other.latency_ms.p95))
    assert rival.lead is not None
    low, high = rival.lead
    difference = f"{point.quality - rival.quality:+.4f}, 95 % interval [{low:+.4f}, {high:+.4f}], {high - low:.4f} wide"
    unclear = ": these cannot tell which is better" if low <= 0 <= high else ""
    compared = f"{tuning.measure} of {point.candidates} candidates minus that of {rival.candidates}"
    return [f"{compared}: {difference}, by {tuning.judged} queries{unclear}"]


def _advice(tuning: Tuning) -> list[str]:
    if tuning.chosen is None:
        return []
    point = tuning.chosen
    budget = "" if tuning.budget_ms is None else f" of {tuning.budget_ms:g} ms, held again with the model loaded anew"
    lines = [f"* chosen: {_words(point)}: p95 {point.latency_ms.p95:.1f} ms{budget}"]
    best = max((other for other in tuning.points if other.fits), key=lambda other: other.quality)
    if best.quality > point.quality:
        lines.append(
            f"  {_words(best)} measured {best.quality - point.quality:.4f} better, which is within the noise of these pools"
        )
    if tuning.given is not None and point.quality <= tuning.given:
        within = "" if tuning.budget_ms is None else " within this budget"
        lines.append(f"  reranking buys nothing{within}: the order given has {tuning.measure} {tuning.given:.4f}")
    return lines


def _words(point: Point) -> str:
    threads = "1 thread" if point.settings.threads == 1 else f"{point.settings.threads} threads"
    return f"{point.candidates} candidates, {point.settings.precision}, {threads}"
