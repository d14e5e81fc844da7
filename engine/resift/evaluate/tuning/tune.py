"""Measures this machine and finds the settings and the number of candidates that rank best within a time budget."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from resift import machine
from resift.errors import InputError
from resift.evaluate.data.pool_judgements import PoolJudgements
from resift.evaluate.data.self_candidates import can_be_evaluated, without_query
from resift.evaluate.results import Latency
from resift.evaluate.significance import bootstrap_interval
from resift.evaluate.tuning.choice import SEED, SHARE, Goal, choosable, frontier, quantile
from resift.evaluate.tuning.quality import first_of, top_agreement
from resift.evaluate.tuning.records import Check, Point, Tuning
from resift.evaluate.tuning.timing import Bench, Trial, fastest, share_within, time_trials, with_documents
from resift.inputs import check_count
from resift.metrics import TOP
from resift.settings import Settings

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from resift.evaluate.tuning.timing import StageProgress
    from resift.pools.reading import CandidatePool
    from resift.pools.trec import Qrels

CANDIDATES = (5, 10, 20, 30, 50, 100)
TIMED_POOLS = 40
"""Maximum number of pools that are timed, spread evenly over all; quality is measured on every pool."""
SEARCH_POOLS = 8
SEARCH_CANDIDATES = 30
REPEATS = 4
CONFIRMING_REPEATS = 2


def tune(  # noqa: PLR0913 - each is an option of `resift tune`
    pools: Iterable[CandidatePool],
    source: str | os.PathLike[str] | None = None,
    *,
    qrels: Qrels | None = None,
    settings: Settings | None = None,
    candidates: Sequence[int] = CANDIDATES,
    budget_ms: float | None = None,
    share: float = SHARE,
    seed: int = SEED,
    report: StageProgress | None = None,
) -> Tuning:
    """Measures the artifact `source` on this machine and chooses the point that ranks best within the budget.

    `pools`: pools as your retriever returns them, best first; more and larger pools give better results. Quality is nDCG@10 by
    `qrels` ({qid: {docid: label}}), or by the candidates' own "label"; without labels, agreement with the full ranking. A query is
    left out of its own candidates, as by `read_dataset`.
    `settings`: fixed settings, the plan included ("auto": the full model scores all candidates); its threads are the maximum to
    try. `candidates`: numbers of candidates to try. `budget_ms`: milliseconds that a call of `rerank` may take, for `share` of all
    calls. `seed`: seed of the bootstrap. `report(stage, done, total)` is called as the work goes on.

    Of the points within noise of the best that rank no fewer candidates (`choosable`), the fastest is chosen. With a budget, it
    must then hold the budget once more, with the model loaded again. Calls are timed with nothing of their documents in memory: a
    split graph reads those in `settings.store` as prepared, and all others as new. Raises InputError if nothing can be measured,
    and otherwise like `Reranker.load`.
    """
    goal = Goal(budget_ms=budget_ms, share=share, seed=seed)
    with Bench(source, settings or Settings(), report) as bench:
        return tune_on(bench, list(pools), qrels=qrels, candidates=candidates, goal=goal)


def check(  # noqa: PLR0913 - each is an option of `resift tune --check`
    pools: Iterable[CandidatePool],
    source: str | os.PathLike[str] | None = None,
    *,
    qrels: Qrels | None = None,
    settings: Settings,
    candidates: int | None = None,
    budget_ms: float,
    share: float = SHARE,
    report: StageProgress | None = None,
) -> Check:
    """Checks whether `settings` hold a budget on the pools that `tune` would time, cut to their first `candidates` (None: all).

    `qrels`: as for `tune`, as they say which candidate is not the query itself. Raises like `tune`.
    """
    goal = Goal(budget_ms=budget_ms, share=share)
    candidates = check_count("candidates", candidates)
    rankable = _rankable(list(pools), qrels)[0]
    chosen = [pool.first(candidates) for pool in _spread([*rankable.values()], TIMED_POOLS)]
    with Bench(source, settings, report) as bench:
        trial = Trial(settings, max(len(pool.documents) for pool in chosen))
        found = time_trials(bench, [trial], chosen, repeats=CONFIRMING_REPEATS)[0]
    return Check(
        settings=settings,
        candidates=candidates,
        pools=len(chosen),
        calls=found.size,
        latency_ms=_latency(found),
        budget_ms=budget_ms,
        share_within=share_within(found, budget_ms),
        share=share,
        holds=goal.holds(found),
    )


def tune_on(
    bench: Bench,
    pools: Sequence[CandidatePool],
    *,
    qrels: Qrels | None = None,
    candidates: Sequence[int] = CANDIDATES,
    goal: Goal | None = None,
) -> Tuning:
    """`tune` with an open Bench."""
    goal = goal or Goal()
    if not candidates:
        raise InputError("no numbers of candidates to try; expected one or more")
    candidates = [check_count("candidates", number) for number in candidates]
    rankable, self_candidates = _rankable(pools, qrels)
    labelled = [PoolJudgements.of(pool, qrels, f"pool {number} (qid {pool.qid!r})") for number, pool in rankable.items()]
    judgements = [each if each and each.has_relevant() else None for each in labelled]
    cut = [pool.first(max(candidates)) for pool in rankable.values()]
    sizes = _sizes(cut, candidates)
    measure, quality = _quality(bench, cut, judgements, sizes)
    timed_pools = _spread(cut, TIMED_POOLS)
    searched = [pool.first(SEARCH_CANDIDATES) for pool in _spread(timed_pools, SEARCH_POOLS)]
    trials = [
        Trial(settings, size)
        for settings in [fastest(bench, precision, searched) for precision in bench.precisions]
        for size in sizes
    ]
    milliseconds = time_trials(bench, trials, timed_pools, repeats=REPEATS, budget_ms=goal.budget_ms)
    points = _points(trials, milliseconds, quality.mean(axis=1).tolist(), goal)
    row = _choose(bench, points, quality, timed_pools, goal)
    if row is not None:
        points = _with_intervals(points, quality[row] - quality, goal.seed)
    if bench.reads_states:
        points = with_documents(bench, points, row, timed_pools)
    return Tuning(
        model=bench.model,
        machine=machine.description(),
        measure=measure,
        pools=len(rankable),
        judged=quality.shape[1],
        left_out=len(pools) - len(rankable),
        self_candidates=self_candidates,
        timed=len(timed_pools),
        repeats=REPEATS,
        given=_order_given_ndcg(cut, judgements),
        budget_ms=goal.budget_ms,
        share=goal.share,
        points=points,
        chosen=None if row is None else points[row],
        nearest=min(points, key=lambda point: point.latency_ms.p95) if row is None else None,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=version("resift"),
    )


def _rankable(pools: Sequence[CandidatePool], qrels: Qrels | None) -> tuple[dict[int, CandidatePool], int]:
    """The pools that can be ranked, by number from 1, without queries that are their own candidates; the number of such queries."""
    found = {
        number: cut
        for number, pool in enumerate(pools, 1)
        if can_be_evaluated(len(pool.documents), len((cut := without_query(pool, qrels)).documents))
    }
    if not found:
        raise InputError(f"none of the {len(pools)} pools has two candidates or more, so there is nothing to rank")
    return found, sum(cut is not pools[number - 1] for number, cut in found.items())


def _sizes(pools: Sequence[CandidatePool], candidates: Sequence[int]) -> list[int]:
    """The numbers of candidates to try: those below the size of the largest pool, and that size if a number reaches it."""
    largest = max(len(pool.documents) for pool in pools)
    return sorted({min(size, largest) for size in candidates})


def _spread(pools: Sequence[CandidatePool], limit: int) -> list[CandidatePool]:
    """At most `limit` of the pools, spread evenly."""
    places = np.linspace(0, len(pools) - 1, min(len(pools), limit)).round().astype(int)
    return [pools[place] for place in places.tolist()]


def _quality(
    bench: Bench,
    pools: Sequence[CandidatePool],
    judgements: Sequence[PoolJudgements | None],
    sizes: Sequence[int],
) -> tuple[str, NDArray[np.float64]]:
    """The measure, and its values, float64[precisions x sizes, judged pools]."""
    every = [
        _orders(bench, bench.settings(precision, bench.threads[-1], bench.token_budget), pools, sizes)
        for precision in bench.precisions
    ]
    if any(judgements):
        rows = [
            [each.ndcg(order) for order, each in zip(found[size], judgements, strict=True) if each]
            for found in every
            for size in sizes
        ]
        return f"nDCG@{TOP}", np.array(rows)
    full = every[-1][sizes[-1]]
    if bench.follows_plan:
        exact = bench.settings(bench.precisions[-1], bench.threads[-1], bench.token_budget)
        full = _rank(bench, replace(exact, plan="full"), pools, "ranking in full")
    return f"agreement@{TOP}", np.array(
        [[top_agreement(*both) for both in zip(found[size], full, strict=True)] for found in every for size in sizes]
    )


def _orders(bench: Bench, settings: Settings, pools: Sequence[CandidatePool], sizes: Sequence[int]) -> dict[int, list[list[int]]]:
    """The ranking of each pool's first candidates, by their number.

    Without a plan, they are ranked as among all candidates; with a plan, the pool's size affects which candidates a stage retains.
    """
    stage = f"ranking, {settings.precision}"
    if bench.follows_plan:
        return {size: _rank(bench, settings, [pool.first(size) for pool in pools], f"{stage}, {size}") for size in sizes}
    found = _rank(bench, settings, pools, stage)
    return {size: [first_of(order, size) for order in found] for size in sizes}


def _rank(bench: Bench, settings: Settings, pools: Sequence[CandidatePool], stage: str) -> list[list[int]]:
    found = []
    for order in bench.orders(settings, pools):
        found.append(order)
        bench.report(stage, len(found), len(pools))
    return found


def _order_given_ndcg(pools: Sequence[CandidatePool], judgements: Sequence[PoolJudgements | None]) -> float | None:
    """Mean nDCG@10 of the order given; None without labels."""
    values = [each.ndcg(range(len(pool.documents))) for pool, each in zip(pools, judgements, strict=True) if each]
    return float(np.mean(values)) if values else None


def _points(
    trials: Sequence[Trial], milliseconds: Sequence[NDArray[np.float64]], quality: Sequence[float], goal: Goal
) -> list[Point]:
    latencies = [_latency(rows) for rows in milliseconds]
    best = frontier([latency.p95 for latency in latencies], quality)
    return [
        Point(
            settings=trial.settings,
            candidates=trial.candidates,
            latency_ms=latency,
            quality=mean,
            share_within=None if goal.budget_ms is None else share_within(rows, goal.budget_ms),
            fits=len(rows) == REPEATS and goal.fits(rows),
            is_on_frontier=is_best,
        )
        for trial, rows, latency, mean, is_best in zip(trials, milliseconds, latencies, quality, best, strict=True)
    ]


def _with_intervals(points: Sequence[Point], differences: NDArray[np.float64], seed: int) -> list[Point]:
    """The points with the intervals of their `differences` from the chosen point, float64[points, judged pools]."""
    ends = bootstrap_interval(differences.T, seed=seed).T.tolist()
    return [msgspec.structs.replace(point, lead=(low, high)) for point, (low, high) in zip(points, ends, strict=True)]


def _latency(milliseconds: NDArray[np.float64]) -> Latency:
    return Latency(p50=quantile(milliseconds, 0.5), p95=quantile(milliseconds, 0.95))


def _choose(
    bench: Bench, points: list[Point], quality: NDArray[np.float64], pools: Sequence[CandidatePool], goal: Goal
) -> int | None:
    """The row of the best point that fits; with a budget, it must hold the budget once more. None if no point does.

    Points that do not hold it again are marked in `points`.
    """
    allowed = [row for row, point in enumerate(points) if point.fits]
    while allowed:
        rows = choosable(quality, allowed, [point.candidates for point in points], goal.seed)
        row = min(rows, key=lambda row: points[row].latency_ms.p95)
        if goal.budget_ms is None:
            return row
        bench.close()
        trial = Trial(points[row].settings, points[row].candidates)
        if goal.holds(time_trials(bench, [trial], pools, repeats=CONFIRMING_REPEATS)[0]):
            return row
        points[row] = msgspec.structs.replace(points[row], fits=False)
        allowed = [other for other in allowed if points[other].latency_ms.p95 < points[row].latency_ms.p95]
    return None
