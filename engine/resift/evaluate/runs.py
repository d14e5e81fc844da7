"""Runs every system on every pool, and measures how long each takes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from resift.calibration import sigmoid
from resift.evaluate.calibration.reliability import reliability
from resift.evaluate.calibration.sample import Sample
from resift.evaluate.known import KnownDocuments, forget_documents
from resift.evaluate.results import Latency, ScoreHistograms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from resift.evaluate.results import Reliability
    from resift.evaluate.systems import Scorer
    from resift.pools.job import Progress
    from resift.pools.reading import CandidatePool
    from resift.ranking import Scored
    from resift.states.document_states import StatesCounts

BINS = 30
"""Number of bins in a histogram of scores."""


@dataclass(slots=True, eq=False)
class SystemRun:
    """One system's results for every pool, in the data's order."""

    scorer: Scorer
    keys: list[NDArray[np.float64]] = field(default_factory=list)
    scores: list[NDArray[np.float64] | None] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)
    """the engine's result for each pool; empty unless the system is an artifact"""
    seconds: list[float] = field(default_factory=list)
    """seconds for each pool; empty if the system is not timed"""
    known: KnownDocuments = field(default_factory=KnownDocuments)
    """the pools of an artifact, each ranked again if a split graph has read it"""
    values: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """by measure, a value for each pool; empty until the rankings are measured"""

    def add(self, pool: CandidatePool) -> None:
        """Scores the next pool of the data, of whose documents nothing is in memory."""
        forget_documents(self.scorer.reranker)
        start = time.perf_counter()
        columns = self.scorer.score(pool)
        seconds = time.perf_counter() - start
        if self.scorer.is_timed:
            self.seconds.append(seconds)
        self.keys.append(columns.keys)
        self.scores.append(columns.scores)
        if columns.scored is not None:
            self.scored.append(columns.scored)
            self.known.add(columns.scored.states, seconds, lambda: self._states(pool))

    def _states(self, pool: CandidatePool) -> StatesCounts | None:
        """What is known of the pool's documents; it scores them."""
        scored = self.scorer.score(pool).scored
        return None if scored is None else scored.states

    def orders(self, size: int | None = None) -> list[NDArray[np.intp]]:
        """Positions of each pool's candidates, best first; of the first `size` candidates only (None: all)."""
        return [np.argsort(-keys[:size], kind="stable") for keys in self.keys]

    @property
    def latency(self) -> Latency | None:
        """Latency of one pool at a time; None if the system is not timed."""
        if not self.seconds:
            return None
        p50, p95 = np.percentile(self.seconds, [50, 95]) * 1000
        return Latency(p50=float(p50), p95=float(p95))

    @property
    def pairs_per_second(self) -> float | None:
        """Pairs per second over all pools; None if the system is not timed."""
        return sum(map(len, self.keys)) / sum(self.seconds) if self.seconds else None

    @property
    def unscored(self) -> int:
        """Number of candidates without a score; 0 for a system that has no scores at all."""
        return sum(int(np.isnan(scores).sum()) for scores in self.scores if scores is not None)

    def histogram(self, labels: Sequence[NDArray[np.int64]]) -> ScoreHistograms | None:
        """Histograms of the scores of candidates labelled above 0, and of all others; None without scores."""
        pairs = [(scores, label) for scores, label in zip(self.scores, labels, strict=True) if scores is not None]
        if not pairs:
            return None
        scores, relevant = np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] > 0 for pair in pairs])
        has_score = ~np.isnan(scores)
        if not has_score.any():
            return None
        edges = np.histogram_bin_edges(scores[has_score], BINS)
        counts = [np.histogram(scores[has_score & which], edges)[0].tolist() for which in (relevant, ~relevant)]
        return ScoreHistograms(edges=edges.tolist(), relevant=counts[0], other=counts[1])

    def reliability(self, pools: Sequence[CandidatePool], labels: Sequence[NDArray[np.int64]]) -> dict[str, Reliability]:
        """Of an artifact: the fields of SystemResult that say how well probabilities agree with labels above 0."""
        if not self.scored:
            return {}
        rows = zip(pools, self.scored, labels, strict=True)
        sample = Sample.of_scored((pool.query, scored, label > 0) for pool, scored, label in rows)
        if not len(sample.logits):
            return {}
        found = {"sigmoid": reliability(sigmoid(sample.logits), sample)}
        if self.scorer.reranker and (calibration := self.scorer.reranker.settings.calibration):
            found["calibrated"] = reliability(calibration.apply(sample.logits), sample)
        return found


def score_all(scorers: Sequence[Scorer], pools: Sequence[CandidatePool], progress: Progress | None = None) -> list[SystemRun]:
    """Scores every pool alone by one system after the other.

    The first system to score a pool changes from pool to pool, so that a change of the machine's speed affects all systems alike.
    Each system scores the first pool once beforehand, untimed. `progress` is called after each pool that all systems have scored,
    with the pairs of all models together. A pool that a split graph reads is scored a second time, with its documents in memory.
    Raises the exceptions of the systems.
    """
    runs = [SystemRun(scorer) for scorer in scorers]
    for scorer in scorers:
        if scorer.is_timed:
            scorer.score(pools[0])
    models = sum(scorer.is_timed for scorer in scorers)
    pairs = 0
    for number, pool in enumerate(pools):
        first = number % len(runs)
        for run in (*runs[first:], *runs[:first]):
            run.add(pool)
        pairs += models * len(pool.documents)
        if progress:
            progress(pools=number + 1, pairs=pairs, share=(number + 1) / len(pools))
    return runs
