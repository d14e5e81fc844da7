"""Figures of the turns: times and what they cost, their ratios to a baseline within each turn, and the quality of the rankings."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.compare.turns import START
from resift.metrics import kendall_tau, ndcg, top_overlap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.compare.cases import Case
    from benchmarks.compare.turns import Turn

COSTS = ("seconds", "cpu_seconds", "peak_mb")
"""What an answer costs: the less the better."""


def rows_of(case: Case, turns: Sequence[Turn], baseline: str, reference: str) -> list[dict[str, Any]]:
    """A row for each contender that answered in the turns of a case."""
    ours = [turn for turn in turns if turn.case == case.name]
    names = list(dict.fromkeys(name for turn in ours for name in turn.answers))
    return [
        {"contender": name, **times(ours, name, case), **ratios(ours, name, baseline), **quality(ours, name, case, reference)}
        for name in names
    ]


def times(turns: Sequence[Turn], name: str, case: Case) -> dict[str, Any]:
    """p50: the median over requests of each request's median over repeats; p95: over all measurements."""
    by_group: dict[int, list[float]] = {}
    answers = [(turn.group, turn.answers[name]) for turn in turns if name in turn.answers]
    for group, answer in answers:
        by_group.setdefault(group, []).append(answer["seconds"])
    seconds = [answer["seconds"] for _, answer in answers]
    pairs = sum(len(pool.documents) for group, _ in answers for pool in case.groups[group])
    return {
        "measurements": len(seconds),
        "p50_ms": 1000 * statistics.median(map(statistics.median, by_group.values())),
        "p95_ms": 1000 * float(np.percentile(seconds, 95)),
        "pairs_s": pairs / sum(seconds),
        "cpu_s": statistics.mean(answer["cpu_seconds"] for _, answer in answers),
    }


def ratios(turns: Sequence[Turn], name: str, baseline: str) -> dict[str, Any]:
    """How many times as much as the baseline a contender takes: median and quartiles of the ratios within each turn."""
    found: dict[str, Any] = {}
    for cost in COSTS:
        if values := paired(turns, name, baseline, cost):
            low, middle, high = np.percentile(values, [25, 50, 75])
            found[f"{cost}_ratio"] = {"median": float(middle), "quartiles": [float(low), float(high)]}
    return found


def paired(turns: Sequence[Turn], name: str, baseline: str, cost: str) -> list[float]:
    """The contender's cost divided by the baseline's, in each turn in which both answered."""
    both = [(turn.answers[name], turn.answers[baseline]) for turn in turns if {name, baseline} <= turn.answers.keys()]
    return [mine[cost] / theirs[cost] for mine, theirs in both if mine.get(cost) and theirs.get(cost)]


def quality(turns: Sequence[Turn], name: str, case: Case, reference: str) -> dict[str, float | None]:
    """nDCG@10 within the pool, and agreement with the reference's ranking: means over the pools, of the first repeat."""
    values: dict[str, list[float]] = {"nDCG@10": [], "reference_nDCG@10": [], "tau": [], "overlap@10": []}
    for turn in turns:
        if turn.repeat or name not in turn.answers:
            continue
        reference_scores = turn.answers[reference]["scores"] if reference in turn.answers else None
        for place, (pool, scores) in enumerate(zip(case.groups[turn.group], turn.answers[name]["scores"], strict=True)):
            mine = np.array(scores)
            labels = [int(fields.get("label") or 0) for fields in pool.fields]
            if case.labelled:
                values["nDCG@10"].append(ndcg(labels, mine))
            if reference_scores:
                theirs = np.array(reference_scores[place])
                values["tau"].append(kendall_tau(theirs, mine))
                values["overlap@10"].append(top_overlap(theirs, mine))
                if case.labelled:
                    values["reference_nDCG@10"].append(ndcg(labels, theirs))
    return {measure: statistics.mean(found) if found else None for measure, found in values.items()}


def starts(turns: Sequence[Turn], baseline: str) -> dict[str, dict[str, Any]]:
    """By contender: seconds from the process's start to its first ranking, and peak memory after a few short pools."""
    ours = [turn for turn in turns if turn.case == START]
    found = {}
    for name in dict.fromkeys(name for turn in ours for name in turn.answers):
        answers = [turn.answers[name] for turn in ours if name in turn.answers]
        peaks = [answer["peak_mb"] for answer in answers if answer["peak_mb"]]
        found[name] = {
            "start_s": statistics.median(answer["seconds"] for answer in answers),
            "short_peak_mb": max(peaks, default=None),
            "versions": answers[-1]["versions"],
            **ratios(ours, name, baseline),
        }
    return found


def load_elsewhere(turns: Sequence[Turn]) -> dict[str, float]:
    """Cores that others kept busy while a contender ran, over all measurements."""
    found = [answer["elsewhere"] for turn in turns if turn.case != START for answer in turn.answers.values()]
    return {"mean": statistics.mean(found), "p95": float(np.percentile(found, 95)), "maximum": max(found)} if found else {}
