"""Writes the report of an evaluation, one HTML file for whoever decides whether and how to rerank."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import msgspec

from resift.errors import ExtraError, InputError
from resift.evaluate.report import formats
from resift.evaluate.report.verdict import baseline, gains, rivals, verdict
from resift.evaluate.report.worst import worst_queries
from resift.files.outputs import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from jinja2 import Environment

    from resift.evaluate.results import Evaluation, QueryResult, SystemResult

ROWS = 1000
"""Maximum number of queries in the table of queries."""
NAME = re.compile(r"[\w@()., ='-]{1,60}")
"""A measure's name in ir-measures, such as P(rel=2)@10."""
QUERIES = 20
"""Maximum number of the worst queries shown with their texts."""


@dataclass(frozen=True, slots=True)
class Row:
    """A query in the table of queries."""

    query: QueryResult
    values: list[float]
    """value of the first measure for each system"""
    change: float | None
    """the best system's value minus the baseline's; None if there is only the baseline"""


def write_report(evaluation: Evaluation, path: str | PathLike[str]) -> None:
    """Writes the report of `evaluation` to `path`, which is replaced once the report is complete.

    The file loads nothing: its Content-Security-Policy allows only its own style and its own sorting script. Equal evaluations give
    equal bytes. matplotlib's rcParams are changed while the figures are drawn, so do not use matplotlib in other threads
    meanwhile. Raises InputError if the evaluation contradicts itself, OutputError if the file cannot be written, ExtraError if
    jinja2 or matplotlib is missing.
    """
    write_whole(path, page(evaluation).encode("utf-8", "backslashreplace"))


def page(evaluation: Evaluation) -> str:
    """The report as HTML. Raises as `write_report` does."""
    check(evaluation)
    try:
        environment = _environment()
        from resift.evaluate.report import figures

        plots = figures.draw(evaluation)
    except ImportError as error:
        raise ExtraError(f"a report needs {error.name}: pip install 'resift[eval]'", name=error.name) from error
    style, script = _file("report.css"), _file("report.js")
    others, worst = rivals(evaluation), worst_queries(evaluation)
    html: str = environment.get_template("report.html.j2").render(
        evaluation=evaluation,
        baseline=baseline(evaluation),
        best=others[0] if others else None,
        systems=[baseline(evaluation), *others],
        verdict=verdict(evaluation),
        plots=plots,
        findings=sorted(evaluation.findings, key=lambda finding: ("problem", "warning", "note").index(finding.severity)),
        meanings=[(name, words) for name in evaluation.measures if (words := formats.meaning(name))],
        worst=worst[:QUERIES],
        worst_queries=len(worst),
        rows=_rows(evaluation),
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'",
    )
    return html


def check(evaluation: Evaluation) -> None:
    """Raises InputError if parts of the evaluation do not fit together, as in a file that was edited by hand."""
    names = [system.name for system in evaluation.systems]
    if len(set(names)) < len(names):
        raise InputError("two systems of the evaluation have the same name; expected different names")
    if evaluation.baseline not in names:
        raise InputError(
            f"the baseline {evaluation.baseline!r:.80} is not one of the evaluation's systems; expected one of {names!r:.200}"
        )
    if not evaluation.measures:
        raise InputError("the evaluation has no measures; expected at least one")
    for name in evaluation.measures:
        if not NAME.fullmatch(name):
            raise InputError(f"a measure is called {name!r:.80}; expected a name of ir-measures such as nDCG@10")
    if evaluation.recall and len(evaluation.recall) != len(evaluation.sizes):
        raise InputError(f"{len(evaluation.recall)} values of recall for {len(evaluation.sizes)} sizes; expected one for each")
    for system in evaluation.systems:
        _check_system(system, evaluation)
    _check_histograms(evaluation)
    _check_finite(msgspec.to_builtins(evaluation), "evaluation")


def _check_system(system: SystemResult, evaluation: Evaluation) -> None:
    """Raises InputError if a system lacks a measure, or its number of values is not that of queries or sizes."""
    name = f"system {system.name!r:.80}"
    for measure in evaluation.measures:
        if measure not in system.measures:
            raise InputError(f"{name} has no {measure}; expected a value of each of the evaluation's measures")
    first = evaluation.measures[0]
    if (found := len(system.per_query.get(first, []))) != len(evaluation.queries):
        raise InputError(f"{name} has {first} for {found} queries; expected {len(evaluation.queries)}, one of each query")
    if (curve := system.by_size.get(first)) and len(curve) != len(evaluation.sizes):
        raise InputError(f"{name} has {first} at {len(curve)} sizes; expected {len(evaluation.sizes)}, one of each size")


def _check_histograms(evaluation: Evaluation) -> None:
    """Raises InputError unless a histogram has one edge more than bins, and rising edges."""
    histograms = [system.scores for system in evaluation.systems if system.scores]
    bins: list[tuple[Sequence[float], list[int]]] = [
        (found.edges, counts) for found in histograms for counts in (found.relevant, found.other)
    ]
    if evaluation.lengths:
        bins.append((evaluation.lengths.edges, evaluation.lengths.counts))
    for edges, counts in bins:
        if len(edges) != len(counts) + 1 or list(edges) != sorted(set(edges)):
            raise InputError(
                f"a histogram has {len(counts)} counts and {len(edges)} edges; expected one more edge, in rising order"
            )


def _check_finite(part: object, where: str) -> None:
    """Raises InputError that names the first number that is not finite."""
    if isinstance(part, float) and not math.isfinite(part):
        raise InputError(f"{where} is {part}; expected a finite number")
    inside = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, value in inside:
        _check_finite(value, f"{where}.{key}")


def _rows(evaluation: Evaluation) -> list[Row]:
    """The ROWS queries that changed most, largest loss first."""
    others, measure = rivals(evaluation), evaluation.measures[0]
    columns = [system.per_query[measure] for system in (baseline(evaluation), *others)]
    changed = gains(evaluation, others[0]) if others else [None] * len(evaluation.queries)
    values = zip(*columns, strict=True)
    rows = [Row(query, list(row), change) for query, row, change in zip(evaluation.queries, values, changed, strict=True)]
    most_changed = sorted(rows, key=lambda row: -abs(row.change or 0))[:ROWS]
    return sorted(most_changed, key=lambda row: row.change or 0)


def _environment() -> Environment:
    """Jinja's environment: all values are escaped, and a missing name is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("resift.evaluate.report", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("value", "signed", "interval", "p_value", "milliseconds", "count", "many", "percent", "sentence", "text")
    environment.filters.update({name: getattr(formats, name) for name in names})
    return environment


def _file(name: str) -> str:
    """A file of the page, unchanged, as the Content-Security-Policy holds its hash."""
    return (files("resift.evaluate.report") / "page" / name).read_text("utf-8")


def _hash(source: str) -> str:
    """A source expression of a Content-Security-Policy (https://www.w3.org/TR/CSP3/#grammardef-hash-source)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
