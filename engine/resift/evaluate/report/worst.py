"""The queries that systems rank worse than the baseline does, each listed once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from resift.evaluate.report.verdict import baseline

if TYPE_CHECKING:
    from resift.evaluate.results import Evaluation, Place, Regression


@dataclass(frozen=True, slots=True)
class MovedPlace:
    """A document in a ranking, and its rank in the other ranking."""

    place: Place
    move: str


@dataclass(frozen=True, slots=True)
class WorseRanking:
    """A ranking of a query, and the systems that rank it so."""

    systems: list[str]
    regression: Regression
    before: list[MovedPlace]
    after: list[MovedPlace]


def worst_queries(evaluation: Evaluation) -> list[list[WorseRanking]]:
    """The outcomes of each query that a system ranks worse than the baseline, the largest loss first."""
    by_query: dict[str, list[WorseRanking]] = {}
    for regression in sorted(evaluation.regressions, key=lambda regression: regression.value - regression.baseline):
        outcomes = by_query.setdefault(regression.qid, [])
        same = next((outcome for outcome in outcomes if _is_same(outcome.regression, regression)), None)
        if same:
            same.systems.append(regression.system)
        else:
            outcomes.append(WorseRanking([regression.system], regression, *_sides(evaluation, regression)))
    return list(by_query.values())


def _is_same(first: Regression, second: Regression) -> bool:
    """Whether two systems rank a query's best documents alike."""
    rankings = [[(place.docid, place.rank) for place in regression.after] for regression in (first, second)]
    return rankings[0] == rankings[1] and first.value == second.value


def _sides(evaluation: Evaluation, regression: Regression) -> tuple[list[MovedPlace], list[MovedPlace]]:
    """The rankings before and after, with each document's rank in the other one."""
    ranks_after = {place.docid: place.rank for place in regression.after}
    ranks_before = {place.docid: place.rank for place in regression.before}
    is_order_given = baseline(evaluation).kind == "given"
    before = [MovedPlace(place, _move(place, ranks_after, regression.after, "now")) for place in regression.before]
    after = []
    for place in regression.after:
        ranks = {place.docid: place.given_rank} if is_order_given else ranks_before
        after.append(MovedPlace(place, _move(place, ranks, regression.before, "was")))
    return before, after


def _move(place: Place, ranks: dict[str, int], ranking: list[Place], prefix: str) -> str:
    """A document's rank in the other ranking, in words."""
    other = ranks.get(place.docid)
    if other is None:
        return f"{prefix} below {max((other.rank for other in ranking), default=0)}"
    return "same place" if other == place.rank else f"{prefix} {other}"
