"""Timing: how long this machine takes to rerank a pool with given settings, and the threads and token budget that are fastest."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from resift import machine
from resift.artifact.folder import Artifact
from resift.pools.collection import rerank_pools
from resift.reranker import Reranker
from resift.runtime import providers
from resift.settings import PRECISIONS, Precision, Settings

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from resift.pools.reading import CandidatePool

    Progress = Callable[[str, int, int], None]

OPEN_AT_ONCE = 2
"""Rerankers kept open: two settings are compared at a time, and memory stays that of two models."""
WARM_UP = 3
"""Rerankings before the first that counts."""
SEARCH_REPEATS = 3
LEAST_GAIN = 0.03
"""Settings that take more threads, or another token budget than the provider's own, must be this much faster to be taken."""
HOPELESS = 0.5
"""A trial is timed no further once fewer than this share of a repeat's rerankings were within the budget."""


class Trial(NamedTuple):
    """What is timed: settings, and how many candidates of a pool are read."""

    settings: Settings
    candidates: int


class Bench:
    """One artifact on this machine, opened with one setting after another."""

    def __init__(self, source: str | os.PathLike[str] | None, asked: Settings, report: Progress | None = None) -> None:
        """`asked`: what is fixed: provider, precision, token budget and maximum length unless "auto", and the most threads.

        `report(stage, done, total)` is called as the work goes on. Raises like `Reranker.load`.
        """
        self.artifact = Artifact.find(source)
        self.model = self.artifact.manifest.model.id
        self.report = report or _silent
        self._asked = asked
        self._open: dict[Settings, Reranker] = {}
        first = self._opened(asked)
        self.provider = first.provider
        self.token_budget = first.resolved.token_budget
        instruction_sets = machine.instruction_sets()
        offered = {
            variant.precision
            for variant in self.artifact.manifest.full.variants
            if instruction_sets.issuperset(variant.instruction_sets) and variant.precision in providers.PRECISIONS[self.provider]
        }
        self.precisions: tuple[Precision, ...] = tuple(kind for kind in PRECISIONS if kind in offered)
        """the precisions to try, the most exact last"""
        if asked.precision != "auto":
            self.precisions = (asked.precision,)
        self.follows_plan = str(first.plan_for()) != str(first.plan_for("full"))
        """whether calls of `rerank` are not read in full"""
        most = first.resolved.threads if providers.POLICIES[self.provider].is_concurrent else 1
        self.threads = [*(1 << power for power in range(most.bit_length()) if 1 << power < most), most]
        """numbers of threads to try: powers of two, and the most allowed"""

    def settings(self, precision: Precision, threads: int, token_budget: int) -> Settings:
        """What was asked for, with these in place of "auto"."""
        return replace(self._asked, provider=self.provider, precision=precision, threads=threads, token_budget=token_budget)

    def token_budgets(self) -> tuple[list[int], list[int]]:
        """Token budgets to try on either side of the provider's own, nearest first; none if one was asked for."""
        if self._asked.token_budget != "auto":
            return [], []
        own = self.token_budget
        return [max(1, own // 2), max(1, own // 4)], [own * 2, own * 4]

    def orders(self, settings: Settings, pools: Sequence[CandidatePool]) -> Iterator[list[int]]:
        """The ranking of each pool, as candidates' indices."""
        for _, ranking in rerank_pools(self._opened(settings), pools):
            yield [result.index for result in ranking]

    def milliseconds(self, settings: Settings, pool: CandidatePool) -> float:
        """How long one call of `rerank` takes, tokenization included."""
        reranker = self._opened(settings, warm_up=pool)
        begin = time.perf_counter()
        reranker.rerank(pool.query, pool.documents)
        return (time.perf_counter() - begin) * 1000

    def close(self) -> None:
        """Frees the models; the next call opens one anew."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self, settings: Settings, warm_up: CandidatePool | None = None) -> Reranker:
        reranker = self._open.pop(settings, None)
        if reranker is None:
            while len(self._open) >= OPEN_AT_ONCE:
                self._open.pop(next(iter(self._open))).close()
            reranker = Reranker(self.artifact, settings=settings)
            for _ in range(0 if warm_up is None else WARM_UP):
                assert warm_up is not None
                reranker.rerank(warm_up.query, warm_up.documents)
        self._open[settings] = reranker  # the newest last
        return reranker


def fastest(bench: Bench, precision: Precision, pools: Sequence[CandidatePool]) -> Settings:
    """The fastest threads and token budget for `pools`, found one coordinate at a time; the cheaper where the gain is small."""
    best = bench.settings(precision, bench.threads[0], bench.token_budget)
    for threads in bench.threads[1:]:
        faster = _faster(bench, best, replace(best, threads=threads), pools)
        if faster is best:
            break
        best = faster
    for direction in bench.token_budgets():
        for token_budget in direction:
            faster = _faster(bench, best, replace(best, token_budget=token_budget), pools)
            if faster is best:
                break
            best = faster
        if best.token_budget != bench.token_budget:
            break
    return best


def _faster(bench: Bench, best: Settings, other: Settings, pools: Sequence[CandidatePool]) -> Settings:
    """`other` if it takes less time than `best` by LEAST_GAIN, in the median of interleaved pairs of calls; otherwise `best`."""
    ratios = []
    stage = f"searching: {other.precision}, {other.threads} threads, token budget {other.token_budget}"
    for repeat in range(SEARCH_REPEATS):
        for place, pool in enumerate(pools):
            took = {}
            for settings in (best, other) if repeat % 2 == 0 else (other, best):
                took[settings] = bench.milliseconds(settings, pool)
            ratios.append(took[other] / took[best])
            bench.report(stage, repeat * len(pools) + place + 1, SEARCH_REPEATS * len(pools))
    return other if float(np.median(ratios)) < 1 - LEAST_GAIN else best


def timed(
    bench: Bench,
    trials: Sequence[Trial],
    pools: Sequence[CandidatePool],
    *,
    repeats: int,
    budget_ms: float | None = None,
) -> list[NDArray[np.float64]]:
    """Milliseconds float64[repeats, pools] of each trial, all trials taking turns on each pool.

    A trial that is hopeless for a budget after a repeat has fewer rows.
    """
    found: list[list[list[float]]] = [[] for _ in trials]
    alive = list(range(len(trials)))
    for repeat in range(repeats):
        for row in alive:
            found[row].append([])
        for place, pool in enumerate(pools):
            for row in alive if repeat % 2 == 0 else reversed(alive):
                settings, size = trials[row]
                found[row][-1].append(bench.milliseconds(settings, pool.first(size)))
            bench.report("timing", repeat * len(pools) + place + 1, repeats * len(pools))
        if budget_ms is not None:
            alive = [row for row in alive if share_within([found[row][-1]], budget_ms) >= HOPELESS]
    return [np.array(rows) for rows in found]


def share_within(milliseconds: Sequence[Sequence[float]] | NDArray[np.float64], budget_ms: float) -> float:
    """Share of all calls that took at most `budget_ms`."""
    return float(np.mean(np.asarray(milliseconds) <= budget_ms))


def _silent(stage: str, done: int, total: int) -> None:
    """Reports nothing."""
