"""`resift tune POOLS`: finds the settings and the number of candidates that rank best within a time budget on this machine."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from resift.artifact.folder import Artifact, closed
from resift.cli.meter import StageMeter
from resift.cli.options import CHECK, EXIT_CODES, add_engine, settings
from resift.cli.streams import complain, write_json, write_lines
from resift.errors import InputError
from resift.evaluate.data.trec import qrels_beside, read_qrels
from resift.evaluate.tuning.plot import check_plot, draw
from resift.evaluate.tuning.tune import CANDIDATES, check, tune
from resift.evaluate.tuning.tunedfile import check_writer, encode_tuned, read_tuned
from resift.files.names import path_text
from resift.files.outputs import check_outputs, write_whole
from resift.inputs import check_count
from resift.pools.reading import read_pools

if TYPE_CHECKING:
    import argparse

    from resift.cli.options import Commands
    from resift.evaluate.tuning.records import Point, Tuning
    from resift.pools.reading import CandidatePool

EPILOG = f"""POOLS holds one candidate pool per line, as `resift rerank --pools` reads it, in your retriever's order. Its candidates
may have a "label" (graded relevance), or there may be TREC judgements beside it, in NAME.qrels. Without either, quality is the
agreement with the ranking of all candidates.

examples:
  resift tune pools.jsonl.gz --budget-ms 200 --out tuned.toml --plot tuned.svg
  resift tune pools.jsonl.gz --threads 1 --limit 50
  resift tune pools.jsonl.gz --check tuned.toml

The file is for --settings of every command; how many candidates to ask of the retriever is for you to set.

{EXIT_CODES}"""

HEAD = ("candidates", "precision", "threads", "token budget", "p50 ms", "p95 ms")
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
    command.add_argument("--model", metavar="MODEL", help="a folder, a hub id or an embedded model's name")
    command.add_argument("--budget-ms", type=float, metavar="MS", help="most milliseconds for a pool, for 95 %% of all calls")
    command.add_argument(
        "--qrels", metavar="FILE", type=Path, help="TREC judgements (default: NAME.qrels beside POOLS, if it is there)"
    )
    command.add_argument(
        "--candidates", type=int, nargs="+", metavar="N", help="numbers of candidates to try (default: 5 10 20 30 50 100)"
    )
    command.add_argument("--limit", type=int, metavar="N", help="read only the first N pools")
    command.add_argument("--out", metavar="FILE", type=Path, help="write the settings here, as TOML")
    command.add_argument("--plot", metavar="FILE", type=Path, help="plot quality against latency: .svg, .png or .pdf")
    command.add_argument("--overwrite", action="store_true", help="replace FILE of --out and --plot")
    command.add_argument("--check", metavar="FILE", type=Path, help="only run FILE's settings and candidates against its budget")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    add_engine(command)
    command.set_defaults(run=run, usage_error=command.error)


def run(asked: argparse.Namespace) -> int:
    """Measures, prints and writes; or checks a file."""
    check_count("--limit", asked.limit)
    return _check(asked) if asked.check else _tune(asked)


def _tune(asked: argparse.Namespace) -> int:
    outputs = [path for path in (asked.out, asked.plot) if path]
    judgements = asked.qrels or qrels_beside(asked.pools)
    inputs = [name for name in (asked.pools, judgements, asked.settings) if name]
    check_outputs(outputs, inputs, overwrite=asked.overwrite, closed=closed)
    if asked.out:
        check_writer()
    kind = check_plot(asked.plot) if asked.plot else ""
    qrels = read_qrels(judgements) if judgements else None
    fixed, pools = settings(asked), _pools(asked)
    with StageMeter() as meter:
        tuning = tune(
            pools,
            asked.model,
            qrels=qrels,
            settings=fixed,
            candidates=asked.candidates or CANDIDATES,
            budget_ms=asked.budget_ms,
            report=meter,
        )
    if tuning.chosen:
        check_outputs(outputs, inputs, overwrite=asked.overwrite, closed=closed)  # again: the measurements took minutes
    if tuning.chosen and asked.plot:
        write_whole(asked.plot, draw(tuning, kind))
    if tuning.chosen and asked.out:
        write_whole(asked.out, encode_tuned(tuning))
    if asked.json:
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


def _check(asked: argparse.Namespace) -> int:
    for name in ("settings", "out", "plot", "candidates", "qrels", "overwrite"):
        if getattr(asked, name):
            asked.usage_error(f"--check takes no --{name}: FILE says what to run")
    tuned = read_tuned(asked.check)
    budget_ms = tuned.budget_ms if asked.budget_ms is None else asked.budget_ms
    if budget_ms is None:
        raise InputError(f"{asked.check} names no budget; give one with --budget-ms")
    model = Artifact.find(asked.model).manifest.model.id
    if tuned.model not in (None, model):
        raise InputError(
            f"{asked.check} was measured with {tuned.model}, but the model here is {model}; name its artifact with --model"
        )
    asked.settings = asked.check
    fixed, pools = settings(asked), _pools(asked)
    with StageMeter() as meter:
        found = check(pools, asked.model, settings=fixed, candidates=tuned.candidates, budget_ms=budget_ms, report=meter)
    if asked.json:
        write_json(found)
    else:
        size = "all" if found.candidates is None else f"the first {found.candidates}"
        calls = f"{found.calls} calls on {found.pools} pools, {size} candidates of each"
        took = f"p50 {found.latency_ms.p50:.1f} ms, p95 {found.latency_ms.p95:.1f} ms"
        within = f"within {budget_ms:g} ms: {found.share_within:.1%} of all calls; expected {found.share:.0%} or more"
        write_lines([f"{calls}: {took}", within])
    if found.holds:
        return 0
    complain(f"{asked.check} does not hold its budget: {found.share_within:.1%} of all calls took at most {budget_ms:g} ms")
    return CHECK


def _pools(asked: argparse.Namespace) -> list[CandidatePool]:
    return list(islice(read_pools(asked.pools), asked.limit))


def _lines(tuning: Tuning) -> list[str]:
    """What was measured, and the frontier as a table."""
    judged = f"{tuning.judged} of them have labels" if tuning.given is not None else NO_LABELS
    timed = f"{tuning.timed} were timed, {tuning.repeats} times each"
    left_out = f"; {tuning.left_out} of fewer than two candidates are left out" if tuning.left_out else ""
    head = [f"{tuning.model} on {tuning.machine}", f"{tuning.pools} pools, {judged}; {timed}{left_out}"]
    if tuning.timed < FEW_POOLS:
        head.append(f"p95 of {tuning.timed} pools says little: expected {FEW_POOLS} or more")
    if tuning.given is not None:
        head.append(f"order given: {tuning.measure} {tuning.given:.4f}")
    columns = (*HEAD, tuning.measure)
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
                f"{point.quality:.4f}",
            )
            table = "  ".join(f"{cell!s:>{len(name)}}" for name, cell in zip(columns, cells, strict=True))
            rows.append(f"{'*' if point == tuning.chosen else ' '} {table}{'' if point.fits else '  does not hold the budget'}")
    return [*head, "", *rows, "", *_advice(tuning)]


def _advice(tuning: Tuning) -> list[str]:
    if tuning.chosen is None:
        return []
    point = tuning.chosen
    budget = "" if tuning.budget_ms is None else f" of {tuning.budget_ms:g} ms, held again with the model loaded anew"
    said = [f"* chosen: {_words(point)}: p95 {point.latency_ms.p95:.1f} ms{budget}"]
    best = max((other for other in tuning.points if other.fits), key=lambda other: other.quality)
    if best.quality > point.quality:
        said.append(
            f"  {_words(best)} measured {best.quality - point.quality:.4f} better, which is within the noise of these pools"
        )
    if tuning.given is not None and point.quality <= tuning.given:
        within = "" if tuning.budget_ms is None else " within this budget"
        said.append(f"  reranking buys nothing{within}: the order given has {tuning.measure} {tuning.given:.4f}")
    return said


def _words(point: Point) -> str:
    threads = "1 thread" if point.settings.threads == 1 else f"{point.settings.threads} threads"
    return f"{point.candidates} candidates, {point.settings.precision}, {threads}"
