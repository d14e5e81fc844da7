"""The results of an evaluation as lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resift.cli.streams import MIN_TEXT_WIDTH, paragraph, shorten, terminal_width

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from resift.evaluate.results import Evaluation, Reliability, Share, SystemResult

NAME_COLUMNS = 40
QUERY_COLUMNS = 60
KNOWN = "documents known"
"""What rows are called in which states of documents are in memory."""

UNSCORED_NOTES = {
    False: "have no score; they rank last, in the order given",
    True: "were not scored by the full model; they rank by an earlier stage of the plan",
}
"""How the printed comparison explains candidates without a score, by whether the system is an artifact."""


def comparison(evaluation: Evaluation, *, per_query: bool = False) -> list[str]:
    """Tables of the systems, their differences, agreement and pool sizes; then the queries left out and the findings.

    With `per_query`, a table with the first measure's value for every query follows.
    """
    data = evaluation.data
    blocks = [
        [f"{data.name}: {data.pools} queries, {data.pairs} pairs, {data.judgements} judgements"],
        _systems(evaluation),
        _latencies(evaluation),
        _documents(evaluation.systems),
        _differences(evaluation),
        _agreement(evaluation.systems),
        _reliability(evaluation.systems),
        _sizes(evaluation),
        [
            *(f"{count} queries left out: {reason}" for reason, count in data.left_out.items() if count),
            *([f"queries left out of their own candidates, as in BEIR: {own}"] if (own := data.self_candidates) else []),
        ],
        [
            line
            for system in evaluation.systems
            if system.unscored
            for line in paragraph(f"{system.name}: {system.unscored} candidates {UNSCORED_NOTES[system.kind == 'artifact']}")
        ],
        [line for finding in evaluation.findings for line in paragraph(f"{finding.severity}: {finding.words}; {finding.advice}")],
        _queries(evaluation) if per_query else [],
    ]
    lines: list[str] = []
    for block in blocks:
        if block:
            lines += [*([""] if lines else []), *block]
    return lines


def _systems(evaluation: Evaluation) -> list[str]:
    rows = [["system", *evaluation.measures]]
    rows += [
        [_short(system.name), *(f"{system.measures[name]:.4f}" for name in evaluation.measures)] for system in evaluation.systems
    ]
    return aligned(rows)


def _latencies(evaluation: Evaluation) -> list[str]:
    rows = [["latency", "p50 ms", "p95 ms", "pairs/s"]]
    for system in evaluation.systems:
        if (latency := system.latency_ms) is not None:
            rows.append([_short(system.name), f"{latency.p50:.1f}", f"{latency.p95:.1f}", f"{system.pairs_per_second:.0f}"])
        if system.documents and (known := system.documents.known_latency_ms):
            rows.append([f"{_short(system.name)}, {KNOWN}", f"{known.p50:.1f}", f"{known.p95:.1f}", ""])
    return aligned(rows) if len(rows) > 1 else []


def _documents(systems: Sequence[SystemResult]) -> list[str]:
    """What was known of the documents, and what the rows of known ones mean."""
    found = {system.name: system.documents for system in systems if system.documents}
    lines = [f"{name}: states of {each.prepared} documents were prepared, of {each.new} new" for name, each in found.items()]
    if any(each.known_latency_ms for each in found.values()):
        lines.append(f"{KNOWN}: each pool again, with all states in memory, as if prepared; a store takes time to read beside it")
    return [line for text in lines for line in paragraph(text)]


def _differences(evaluation: Evaluation) -> list[str]:
    rows = [[f"minus {_short(evaluation.baseline)}", "measure", "difference", "95 % interval", "p"]]
    rows += [
        [_short(system.name), name, f"{found.value:+.4f}", f"[{found.low:+.4f}, {found.high:+.4f}]", f"{found.p_value:.4f}"]
        for system in evaluation.systems
        for name, found in system.differences.items()
    ]
    return aligned(rows, left_aligned=(0, 1)) if len(rows) > 1 else []


def _agreement(systems: Sequence[SystemResult]) -> list[str]:
    compared = [(system.name, system.agreement) for system in systems if system.agreement]
    if not compared:
        return []
    rows = [[f"agreement with {_short(compared[0][1].reference)}", "tau", "worst tau", "top 10"]]
    rows += [[_short(name), f"{found.tau:.4f}", f"{found.worst_tau:.4f}", f"{found.overlap:.4f}"] for name, found in compared]
    return aligned(rows)


def _reliability(systems: Sequence[SystemResult]) -> list[str]:
    return reliabilities(
        "probabilities of a label above 0",
        {
            f"{_short(system.name)}, {name}": found
            for system in systems
            for name, found in (("sigmoid", system.sigmoid), ("calibrated", system.calibrated))
            if found
        },
    )


def _sizes(evaluation: Evaluation) -> list[str]:
    measure = evaluation.measures[0]
    rows = [["candidates", *map(str, evaluation.sizes)], ["recall", *(f"{value:.4f}" for value in evaluation.recall)]]
    rows += [
        [f"{measure}, {_short(system.name)}", *(f"{value:.4f}" for value in system.by_size[measure])]
        for system in evaluation.systems
        if measure in system.by_size
    ]
    return aligned(rows)


def _queries(evaluation: Evaluation) -> list[str]:
    measure = evaluation.measures[0]
    rows = [[f"qid, {measure}", *(_short(system.name) for system in evaluation.systems)]]
    for number, query in enumerate(evaluation.queries):
        rows.append([_short(query.qid), *(f"{system.per_query[measure][number]:.4f}" for system in evaluation.systems)])
    starts, width = aligned(rows), terminal_width()
    columns = QUERY_COLUMNS if width is None else min(QUERY_COLUMNS, max(MIN_TEXT_WIDTH, width - len(starts[0]) - 2))
    queries = ["query", *(shorten(" ".join(query.query.split()), columns) for query in evaluation.queries)]
    return [f"{start}  {query}".rstrip() for start, query in zip(starts, queries, strict=True)]


def _short(name: str) -> str:
    return shorten(name, NAME_COLUMNS)


def reliabilities(head: str, found: Mapping[str, Reliability]) -> list[str]:
    """A table of the calibration error (ECE) and the Brier score of each; empty for none."""
    rows = [[head, "measure", "value", "95 % interval"]]
    for name, each in found.items():
        rows += [[name, "ECE", *share_cells(each.ece)], [name, "Brier", *share_cells(each.brier)]]
    return aligned(rows, left_aligned=(0, 1)) if found else []


def share_cells(share: Share) -> list[str]:
    """The value and its interval."""
    return [f"{share.value:.4f}", f"[{share.low:.4f}, {share.high:.4f}]"]


def aligned(rows: Sequence[Sequence[str]], *, left_aligned: Sequence[int] = (0,)) -> list[str]:
    """The rows with aligned columns, two spaces apart; the columns in `left_aligned` align left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if number in left_aligned else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
