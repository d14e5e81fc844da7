"""The verdict of an evaluation on reranking, in words that its intervals justify."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal

from resift.evaluate.report.formats import THIN, count, interval, many, milliseconds, p_value, percent, signed, text, value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift.evaluate.results import Difference, Evaluation, SystemResult

FEW_QUERIES = 25
"""Number of queries below which a result is called a first impression."""
NEGLIGIBLE_GAIN = 0.005
"""Gain of a measure that is not worth more candidates."""
SIMILAR_QUALITY = 0.01
"""Difference of a measure up to which the faster of two systems is worth considering."""
ROUNDING = 1e-9
"""Difference of one query's values that may be rounding."""

Effect = Literal["better", "worse", "unclear"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the best system by the first measure compares with the baseline."""

    title: str
    effect: Effect | None
    """None if there is nothing to compare"""
    answers: list[tuple[str, str]]
    """questions and answers"""


def baseline(evaluation: Evaluation) -> SystemResult:
    """The system that the differences are from."""
    return next(system for system in evaluation.systems if system.name == evaluation.baseline)


def rivals(evaluation: Evaluation) -> list[SystemResult]:
    """All systems except the baseline, best first by the first measure; of equal ones, the faster first."""
    others = [system for system in evaluation.systems if system.name != evaluation.baseline]
    slowest = float("inf")
    return sorted(
        others,
        key=lambda system: (
            -system.measures[evaluation.measures[0]],
            system.latency_ms.p50 if system.latency_ms else slowest,
        ),
    )


def effect(difference: Difference | None) -> Effect:
    """The effect of a system: better or worse if interval and test agree on it, otherwise unclear."""
    if difference and difference.p_value < 0.05:
        if difference.low > 0:
            return "better"
        if difference.high < 0:
            return "worse"
    return "unclear"


def gains(evaluation: Evaluation, system: SystemResult) -> list[float]:
    """For each query, the system's value of the first measure minus the baseline's."""
    measure = evaluation.measures[0]
    before = baseline(evaluation).per_query[measure]
    return [after - was for was, after in zip(before, system.per_query[measure], strict=True)]


def sufficient_size(sizes: Sequence[int], values: Sequence[float]) -> int:
    """The smallest size whose value is within NEGLIGIBLE_GAIN of the best."""
    best = max(values)
    return next(size for size, found in zip(sizes, values, strict=True) if found >= best - NEGLIGIBLE_GAIN)


def verdict(evaluation: Evaluation) -> Verdict:
    """The verdict on the best system."""
    queries, measure, first = len(evaluation.queries), evaluation.measures[0], baseline(evaluation)
    others = rivals(evaluation)
    if not queries:
        return Verdict("No query could be evaluated", None, [("Why?", _left_out(evaluation))])
    if not others:
        title = f"{text(first.name, 60)}: {measure} {value(first.measures[measure], 3)}"
        answer = f"Only one order was measured, over {many(queries, 'query', 'queries')}: there is nothing to compare it with."
        return Verdict(title, None, [("Rerank?", answer)])
    best = others[0]
    answers = [_whether(evaluation, best), ("Which model?", _which(evaluation, others)), _how_many(evaluation, best)]
    return Verdict(_title(evaluation, best), effect(best.differences.get(measure)), answers)


def _left_out(evaluation: Evaluation) -> str:
    reasons = [f"{count(number)}: {text(reason)}" for reason, number in evaluation.data.left_out.items()]
    return f"Queries left out: {'; '.join(reasons)}." if reasons else "The data holds no query with a judgement."


def _title(evaluation: Evaluation, best: SystemResult) -> str:
    measure, first = evaluation.measures[0], baseline(evaluation)
    was, now = value(first.measures[measure], 3), value(best.measures[measure], 3)
    kind, name, other = effect(best.differences.get(measure)), text(best.name, 60), text(first.name, 60)
    few = f" on only {many(len(evaluation.queries), 'query', 'queries')}" if len(evaluation.queries) < FEW_QUERIES else ""
    if first.kind == "given":
        words = {
            "better": f"Reranking raises {measure} from {was} to {now}",
            "worse": f"Reranking lowers {measure} from {was} to {now}",
            "unclear": f"No measurable difference: {measure} is {now} reranked, {was} as given",
        }
    else:
        words = {
            "better": f"{name} ranks better than {other}: {measure} {now} against {was}",
            "worse": f"{name} ranks worse than {other}: {measure} {now} against {was}",
            "unclear": f"No measurable difference: {measure} is {now} with {name}, {was} with {other}",
        }
    return words[kind] + few


def _whether(evaluation: Evaluation, best: SystemResult) -> tuple[str, str]:
    """Whether to use the best system at all."""
    measure, first, queries = evaluation.measures[0], baseline(evaluation), len(evaluation.queries)
    difference = best.differences.get(measure)
    kind = effect(difference)
    if first.kind == "given":
        question, opening = "Rerank?", {"better": "Yes.", "worse": "Not with this model.", "unclear": "Not shown to help."}[kind]
    else:
        question = f"{text(best.name, 60)} instead of {text(first.name, 60)}?"
        opening = {"better": "Better.", "worse": "Worse.", "unclear": "Not shown to differ."}[kind]
    if queries < FEW_QUERIES:
        opening = f"A first impression only: {many(queries, 'query', 'queries')}."
    changes = gains(evaluation, best)
    up, down = sum(change > ROUNDING for change in changes), sum(change < -ROUNDING for change in changes)
    words = [opening]
    if difference:
        words.append(
            f"{text(best.name, 60)} changes {measure} by {signed(difference.value)}, 95{THIN}% interval"
            f" {interval(difference)}, {p_value(difference.p_value)}."
            if queries > 1
            else f"{text(best.name, 60)} changes {measure} by {signed(difference.value)}; one query says nothing about others."
        )
    if up or down:
        words.append(f"It is better on {count(up)} of {many(queries, 'query', 'queries')}, worse on {count(down)}.")
        words.extend(_caution(difference, queries))
    else:
        words.append(f"{measure} is the same on every query.")
    words.append(_cost(best))
    return question, " ".join(words)


def _caution(difference: Difference | None, queries: int) -> list[str]:
    """Sentences that warn against reading too much into the difference."""
    if not difference:
        return ["No interval was computed, so chance cannot be ruled out."]
    if queries < 2 or effect(difference) != "unclear":
        return []
    if (difference.low > 0 or difference.high < 0) or difference.p_value < 0.05:
        return ["Interval and test disagree: this is a borderline result."]
    if max(-difference.low, difference.high) <= SIMILAR_QUALITY:
        return [f"If there is a difference, it is likely below {max(-difference.low, difference.high):.4f}."]
    return ["The interval holds both gain and loss: more judged queries would narrow it."]


def _cost(system: SystemResult) -> str:
    if not system.latency_ms:
        return "Its latency was not measured."
    cost = f"A pool takes {milliseconds(system.latency_ms.p50)} at the median and {milliseconds(system.latency_ms.p95)} at p95."
    known = system.documents and system.documents.known_latency_ms
    if known:
        cost += f" With the states of its documents in memory, it takes {milliseconds(known.p50)} and {milliseconds(known.p95)}."
    return cost


def _which(evaluation: Evaluation, systems: list[SystemResult]) -> str:
    measure, best = evaluation.measures[0], systems[0]
    if len(systems) == 1:
        return f"One was compared: {text(best.name, 60)}."
    highest = value(best.measures[measure])
    tied = [system for system in systems if value(system.measures[measure]) == highest]
    if len(tied) > 1:
        *names, last = (text(system.name, 60) for system in tied)
        same = all(_rank_alike(best, system, measure) for system in tied)
        words = [f"{', '.join(names)} and {last} tie: {measure} {highest}{', the same on every query' if same else ''}."]
    else:
        high = "the best of several is often a little high"
        words = [f"{text(best.name, 60)} has the highest {measure} of {len(systems)}, {highest}; {high}."]
    for second in systems[len(tied) :][:1]:
        words.append(f"Next is {text(second.name, 60)} with {value(second.measures[measure])}.")
    for system in systems[1:]:
        behind = best.measures[measure] - system.measures[measure]
        if (
            behind <= SIMILAR_QUALITY
            and system.latency_ms
            and best.latency_ms
            and system.latency_ms.p50 < 0.9 * best.latency_ms.p50
        ):
            words.append(
                f"{text(system.name, 60)} is {value(behind)} behind and takes {milliseconds(system.latency_ms.p50)} instead of"
                f" {milliseconds(best.latency_ms.p50)}. To test that difference, make one of the two the baseline."
            )
            break
    return " ".join(words)


def _rank_alike(first: SystemResult, second: SystemResult, measure: str) -> bool:
    pairs = zip(first.per_query[measure], second.per_query[measure], strict=True)
    return all(abs(one - other) <= ROUNDING for one, other in pairs)


def _how_many(evaluation: Evaluation, best: SystemResult) -> tuple[str, str]:
    measure, sizes = evaluation.measures[0], evaluation.sizes
    pools = [query.candidates for query in evaluation.queries]
    spread = f"{min(pools)} to {max(pools)}, median {median(pools):g}" if min(pools) < max(pools) else f"{pools[0]}"
    words = [f"Measured with {spread} candidates a query."]
    curve = best.by_size.get(measure, [])
    if curve and len(sizes) > 1:
        size, last = sufficient_size(sizes, curve), sizes[-1]
        top = sizes[max(range(len(sizes)), key=curve.__getitem__)]
        if max(curve) - curve[-1] > NEGLIGIBLE_GAIN:
            words.append(f"{measure} is highest with the first {top} and lower with {last}: more candidates do not help here.")
        elif size < last:
            words.append(f"From the first {size} on, more candidates add less than {NEGLIGIBLE_GAIN} to {measure}.")
        else:
            more = "ask the retriever for more" if evaluation.data.cut_at is None else "raise --candidates (depth in Python)"
            words.append(f"{measure} still rises at {last}, the largest number tried: {more}.")
    if evaluation.recall:
        recall = evaluation.recall[-1]
        missed = (
            f"{percent(recall)} of the relevant documents; no reranker finds the others" if recall < 1 else "all relevant documents"
        )
        words.append(f"The first {sizes[-1]} hold {missed}.")
        if all(query.judged_relevant == query.relevant for query in evaluation.queries):
            words.append("If only these pools were judged, that hides what the retriever missed.")
    return "How many candidates?", " ".join(words)
