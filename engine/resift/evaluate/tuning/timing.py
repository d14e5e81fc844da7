"""Measures how long this machine takes to rerank a pool with given settings, and finds the fastest threads and token budget."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec
import numpy as np

from resift import machine
from resift.artifact.folder import Artifact
from resift.evaluate.known import KnownDocuments, forget_documents, with_room
from resift.pools.collection import rerank_pools
from resift.reranker import Reranker
from resift.runtime import providers
from resift.settings import PRECISIONS, Precision, Settings

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from resift.evaluate.results import DocumentFigures
    from resift.evaluate.tuning.records import Point
    from resift.pools.reading import CandidatePool
    from resift.states.document_states import StatesCounts

    StageProgress = Callable[[str, int, int], None]

MAX_OPEN = 2
"""Maximum number of open rerankers: two settings are compared at a time, so memory stays that of two models."""
WARM_UP = 3
"""Number of rerankings before the first that is timed."""
SEARCH_REPEATS = 3
MIN_GAIN = 0.03
"""Settings with more threads, or with another token budget than the provider's, must be faster by this share to be chosen."""
HOPELESS_SHARE = 0.5
"""A trial is given up once fewer than this share of a repeat's rerankings were within the budget."""


class Trial(NamedTuple):
    """Settings and a number of candidates per pool, to be timed."""

    settings: Settings
    candidates: int


class Bench:
    """One artifact on this machine, loaded with different settings in turn."""

    def __init__(self, source: str | os.PathLike[str] | None, base_settings: Settings, report: StageProgress | None = None) -> None:
        """`base_settings` fix provider, precision, token budget and maximum length unless "auto", and limit the threads.

        `report(stage, done, total)` is called as the work goes on. Raises like `Reranker.load`.
        """
        self.artifact = Artifact.find(source)
        self.model = self.artifact.manifest.model.id
        self.report = report or _silent
        self._base_settings = base_settings
        self._rerankers: dict[Settings, Reranker] = {}
        first = self._open_reranker(base_settings)
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
        if base_settings.precision != "auto":
            self.precisions = (base_settings.precision,)
        self.follows_plan = str(first.plan_for()) != str(first.plan_for("full"))
        """whether calls of `rerank` follow a plan other than full"""
        self.reads_states = any(graph.split is not None for graph in first.plan_for().graphs)
        """whether the plan has a split graph"""
        max_threads = first.resolved.threads if providers.POLICIES[self.provider].is_concurrent else 1
        self.threads = [*(1 << power for power in range(max_threads.bit_length()) if 1 << power < max_threads), max_threads]
        """numbers of threads to try: powers of two, and the maximum"""

    def settings(self, precision: Precision, threads: int, token_budget: int) -> Settings:
        """The base settings with these values."""
        return replace(self._base_settings, provider=self.provider, precision=precision, threads=threads, token_budget=token_budget)

    def token_budgets(self) -> tuple[list[int], list[int]]:
        """Token budgets to try below and above the provider's default, nearest first; none if the base settings fix one."""
        if self._base_settings.token_budget != "auto":
            return [], []
        default = self.token_budget
        return [max(1, default // 2), max(1, default // 4)], [default * 2, default * 4]

    def orders(self, settings: Settings, pools: Sequence[CandidatePool]) -> Iterator[list[int]]:
        """The ranking of each pool, as candidates' indices."""
        for _, ranking in rerank_pools(self._open_reranker(settings), pools):
            yield [result.index for result in ranking]

    def milliseconds(self, settings: Settings, pool: CandidatePool) -> float:
        """How long one call of `rerank` takes, tokenization included, with nothing of its documents in memory."""
        return self._call(self._open_reranker(settings, warm_up=pool), pool)[0]

    def document_figures(self, settings: Settings, pools: Sequence[CandidatePool]) -> DocumentFigures | None:
        """What is known of the pools' documents, and how long calls take with all in memory; None if no split graph reads them."""
        reranker, known = self._open_reranker(settings, warm_up=pools[0]), KnownDocuments()
        for place, pool in enumerate(pools):
            milliseconds, counts = self._call(reranker, pool)
            known.add(counts, milliseconds / 1000, partial(_states, reranker, pool))
            self.report("timing, documents known", place + 1, len(pools))
        return known.figures()

    def _call(self, reranker: Reranker, pool: CandidatePool) -> tuple[float, StatesCounts | None]:
        """Milliseconds of a call with nothing of its documents in memory, and what was known of them."""
        forget_documents(reranker)
        begin = time.perf_counter()
        counts = _states(reranker, pool)
        return (time.perf_counter() - begin) * 1000, counts

    def close(self) -> None:
        """Frees the models; the next call loads one again."""
        while self._rerankers:
            self._rerankers.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_reranker(self, settings: Settings, warm_up: CandidatePool | None = None) -> Reranker:
        reranker = self._rerankers.pop(settings, None)
        if reranker is None:
            while len(self._rerankers) >= MAX_OPEN:
                self._rerankers.pop(next(iter(self._rerankers))).close()
            reranker = Reranker(self.artifact, settings=with_room(settings))
            for _ in range(0 if warm_up is None else WARM_UP):
                assert warm_up is not None
                self._call(reranker, warm_up)
        self._rerankers[settings] = reranker  # the most recently used is the last
        return reranker


def fastest(bench: Bench, precision: Precision, pools: Sequence[CandidatePool]) -> Settings:
    """The fastest threads and token budget for `pools`, found one at a time; the cheaper one if the gain is small."""
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
    """`other` if it is faster than `best` by MIN_GAIN, in the median of interleaved pairs of calls; otherwise `best`."""
    ratios = []
    stage = f"searching: {other.precision}, {other.threads} threads, token budget {other.token_budget}"
    for repeat in range(SEARCH_REPEATS):
        for place, pool in enumerate(pools):
            took = {}
            for settings in (best, other) if repeat % 2 == 0 else (other, best):
                took[settings] = bench.milliseconds(settings, pool)
            ratios.append(took[other] / took[best])
            bench.report(stage, repeat * len(pools) + place + 1, SEARCH_REPEATS * len(pools))
    return other if float(np.median(ratios)) < 1 - MIN_GAIN else best


def time_trials(
    bench: Bench,
    trials: Sequence[Trial],
    pools: Sequence[CandidatePool],
    *,
    repeats: int,
    budget_ms: float | None = None,
) -> list[NDArray[np.float64]]:
    """Milliseconds, float64[repeats, pools], of each trial; all trials take turns on each pool.

    A trial that is given up has fewer rows.
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
            alive = [row for row in alive if share_within([found[row][-1]], budget_ms) >= HOPELESS_SHARE]
    return [np.array(rows) for rows in found]


def with_documents(bench: Bench, points: Sequence[Point], chosen: int | None, pools: Sequence[CandidatePool]) -> list[Point]:
    """The points with what is known of the pools' documents, for those on the frontier and the `chosen` one."""
    found = list(points)
    for row, point in enumerate(points):
        if point.is_on_frontier or row == chosen:
            figures = bench.document_figures(point.settings, [pool.first(point.candidates) for pool in pools])
            found[row] = msgspec.structs.replace(point, documents=figures)
    return found


def share_within(milliseconds: Sequence[Sequence[float]] | NDArray[np.float64], budget_ms: float) -> float:
    """The share of all calls that took at most `budget_ms`."""
    return float(np.mean(np.asarray(milliseconds) <= budget_ms))


def _states(reranker: Reranker, pool: CandidatePool) -> StatesCounts | None:
    """Ranks a pool; what was known of its documents."""
    return reranker.rerank(pool.query, pool.documents).states


def _silent(stage: str, done: int, total: int) -> None:
    """Reports nothing."""
