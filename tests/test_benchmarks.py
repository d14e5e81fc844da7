"""How the frontier of time and quality is computed."""

from __future__ import annotations

import numpy as np

from resift import Reranker
from resift.pools.reading import CandidatePool
from resift.pools.source import read_pools
from tests.conftest import REPOSITORY


def test_a_share_is_of_the_means_and_its_interval_of_queries_drawn_for_both(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    from benchmarks import frontier

    best = np.array([1.0, 0.5, 0.5, 1.0])
    shares = frontier.shares([(best / 2, best), (best, best)])
    # A system that reaches half on every query of one file and all on the other has no spread, whatever is drawn.
    np.testing.assert_allclose(shares, 0.75)
    spread = frontier.shares([(np.array([1.0, 0.0, 0.5, 1.0]), best)])
    assert np.percentile(spread, 2.5) < spread.mean() < np.percentile(spread, 97.5)


def test_the_ranking_that_follows_from_logits_is_the_engines(monkeypatch, planned_artifact):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    from benchmarks import frontier
    from benchmarks.material import GATE_POOLS

    texts = [text for pool in list(read_pools(GATE_POOLS))[:5] for text in pool.documents]
    pool = CandidatePool("why are there two high tides a day", texts[:40], fields=[{}] * 40)
    with Reranker.load(planned_artifact) as reranker:
        logits = frontier._logits(reranker, pool)
        for plan in ("fast", "balanced", "full", "auto"):
            system = frontier.PlannedSystem("embedded", plan, reranker)
            np.testing.assert_array_equal(system.order(logits)[: frontier.TOP], system.rank(pool.query, pool.documents))
        assert set(system.order(logits).tolist()) == set(range(40))
