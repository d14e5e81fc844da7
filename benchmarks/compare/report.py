"""The report of a run: its content, and its tables for the terminal and for Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.compare import figures
from benchmarks.compare.catalogue import BY_NAME, REFERENCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.compare.cases import Case
    from benchmarks.compare.turns import Turn

FORMAT = 1
MIN_SHARE, MIN_OVERLAP = 0.99, 0.95
"""What equal quality is: a share of float32's nDCG@10, and of its ten best documents."""
HEADS = ("p50 ms", "p95 ms", "pairs/s", "CPU s", "times as long", "quartiles", "CPU", "nDCG@10", "tau", "top 10")
START_HEADS = ("first ranking s", "times", "peak MB", "times", "peak MB, all", "install MB")


def content(
    cases: Sequence[Case], turns: Sequence[Turn], baseline: str, facts: Mapping[str, Any], reasons: Mapping[str, str]
) -> dict[str, Any]:
    """All figures of a run. `facts`: of the machine, the model and the installations; `reasons`: why contenders are missing."""
    measured = {turn.case for turn in turns}
    return {
        "format": FORMAT,
        "baseline": baseline,
        **facts,
        "load_elsewhere": figures.load_elsewhere(turns),
        "missing": dict(reasons),
        "starts": figures.starts(turns, baseline),
        "peaks": _peaks(turns),
        "cases": [
            {
                "case": case.name,
                "requests": len(case.groups),
                "candidates": len(case.pools[0].documents),
                "threads": case.threads,
                "at_once": case.at_once,
                "rows": figures.rows_of(case, turns, baseline, REFERENCE),
            }
            for case in cases
            if case.name in measured
        ],
        "turns": [_costs(turn) for turn in turns],
    }


def _peaks(turns: Sequence[Turn]) -> dict[str, float]:
    """By contender: most memory that it took in any case, in MB."""
    found: dict[str, float] = {}
    for turn in turns:
        for name, answer in turn.answers.items():
            if answer.get("peak_mb"):
                found[name] = max(found.get(name, 0.0), answer["peak_mb"])
    return found


def _costs(turn: Turn) -> dict[str, Any]:
    """What later runs are compared with: a turn without its scores."""
    answers = {name: {cost: answer.get(cost) for cost in figures.COSTS} for name, answer in turn.answers.items()}
    return {"case": turn.case, "digest": turn.digest, "group": turn.group, "repeat": turn.repeat, "answers": answers}


def tables(report: Mapping[str, Any], *, markdown: bool = False) -> str:
    """A table of all cases, one for each case, and one of starts, memory and sizes."""
    baseline = title(report["baseline"])
    parts = [machine_line(report), _summary(report, markdown=markdown)]
    for case in report["cases"]:
        at_once = f", {case['at_once']} queries at once" if case["at_once"] > 1 else ""
        heading = (
            f"{case['case']}: {case['requests']} requests of {case['candidates']} candidates, {case['threads']} threads{at_once}"
        )
        rows = [(title(row["contender"]), *_cells(row)) for row in case["rows"]]
        parts.append(_table(heading, ("system", *HEADS), [*rows, *_missing(report, len(HEADS))], markdown=markdown))
        if rival := best_rival(case):
            text = (
                f"Best rival of equal quality: {title(rival['contender'])}, {_times(rival['seconds_ratio'])} as long as {baseline}."
            )
            parts.append(f"{text}\n" if markdown else text)
    rows = [(title(name), *_start_cells(report, name)) for name in report["starts"]]
    parts.append(
        _table("start, memory and size", ("system", *START_HEADS), [*rows, *_missing(report, len(START_HEADS))], markdown=markdown)
    )
    versions = "; ".join(f"{title(name)}: {_versions(start['versions'])}" for name, start in report["starts"].items())
    closing = f"Times are multiples of those of {baseline}, as medians of the ratios within each turn.\n\nVersions: {versions}."
    return "\n".join([*parts, closing])


def _summary(report: Mapping[str, Any], *, markdown: bool) -> str:
    """How many times as long as the baseline each contender takes, a column for each case."""
    cases = report["cases"]
    found = {(row["contender"], case["case"]): _times(row.get("seconds_ratio")) for case in cases for row in case["rows"]}
    names = dict.fromkeys(name for name, _ in found)
    rows = [(title(name), *(found.get((name, case["case"]), "-") for case in cases)) for name in names]
    heads = ("system", *(case["case"] for case in cases))
    return _table("times as long, in all cases", heads, [*rows, *_missing(report, len(cases))], markdown=markdown)


def machine_line(report: Mapping[str, Any]) -> str:
    """The machine, and how busy others kept it while the contenders ran."""
    facts, load = report.get("machine", {}), report["load_elsewhere"]
    line = f"{facts.get('processor')}, {facts.get('usable_cores')} cores, {facts.get('instruction_sets')}, {facts.get('system')}"
    others = f"; others kept {load['mean']:.2f} cores busy on average, {load['p95']:.2f} at the 95th percentile" if load else ""
    return f"{line}{others}.\n"


def best_rival(case: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The row of the quickest rival of equal quality: nDCG@10 within 1 % of float32's, top-10 agreement of 0.95 or more."""
    rivals = [row for row in case["rows"] if not _is_ours(row["contender"]) and "seconds_ratio" in row and _is_equal(row)]
    return min(rivals, key=lambda row: row["seconds_ratio"]["median"], default=None)


def _is_equal(row: Mapping[str, Any]) -> bool:
    if row["overlap@10"] is None or row["overlap@10"] < MIN_OVERLAP:
        return False
    return row["nDCG@10"] is None or row["nDCG@10"] >= MIN_SHARE * row["reference_nDCG@10"]


def _is_ours(name: str) -> bool:
    return name in BY_NAME and BY_NAME[name].is_resift


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def title(name: str) -> str:
    return BY_NAME[name].title if name in BY_NAME else name


def _missing(report: Mapping[str, Any], columns: int) -> list[tuple[str, ...]]:
    return [(title(name), f"not measured: {reason}", *[""] * (columns - 1)) for name, reason in report["missing"].items()]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    longer, processor = row.get("seconds_ratio"), row.get("cpu_seconds_ratio")
    return (
        f"{row['p50_ms']:.0f}",
        f"{row['p95_ms']:.0f}",
        f"{row['pairs_s']:.1f}",
        f"{row['cpu_s']:.2f}",
        _times(longer),
        "-" if longer is None else f"{longer['quartiles'][0]:.2f}-{longer['quartiles'][1]:.2f}",
        _times(processor),
        _share(row["nDCG@10"], 4),
        _share(row["tau"], 3),
        _share(row["overlap@10"], 3),
    )


def _start_cells(report: Mapping[str, Any], name: str) -> tuple[str, ...]:
    row = report["starts"][name]
    peak, all_cases = row["short_peak_mb"], report["peaks"].get(name)
    return (
        f"{row['start_s']:.2f}",
        _times(row.get("seconds_ratio")),
        "-" if peak is None else f"{peak:.0f}",
        _times(row.get("peak_mb_ratio")),
        "-" if all_cases is None else f"{all_cases:.0f}",
        "-" if name not in report["install_mb"] else f"{report['install_mb'][name]:.0f}",
    )


def _times(ratio: Mapping[str, Any] | None) -> str:
    return "-" if ratio is None else f"{ratio['median']:.2f}x"


def _share(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _table(heading: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool) -> str:
    if markdown:
        lines = [f"**{heading}**", "", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
        return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])
    # A reason runs over the columns behind it.
    widths = [
        max(len(row[at]) for row in [heads, *(row for row in rows if not row[1].startswith("not "))]) for at in range(len(heads))
    ]
    lines = [
        f"\n{heading}",
        *(
            "  ".join(cell.ljust(widths[at]) if at < 1 else cell.rjust(widths[at]) for at, cell in enumerate(row)).rstrip()
            for row in [heads, *rows]
        ),
    ]
    return "\n".join(lines)
