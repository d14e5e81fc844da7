"""Comparisons of two systems' runs on the same queries: differences, agreement, and the queries that got worse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resift.evaluate.results import Difference, Place, Regression, SystemAgreement
from resift.evaluate.significance import bootstrap_interval, randomization_test
from resift.metrics import TOP, kendall_tau, top_overlap

if TYPE_CHECKING:
    from resift.evaluate.data.dataset import Dataset
    from resift.evaluate.runs import SystemRun

REGRESSION_LIMIT = 5
"""Maximum number of regressions listed for each system."""
DOCUMENT_LIMIT = 5
"""Maximum number of documents listed for each ranking."""
TEXT_LIMIT = 300
"""Maximum number of characters listed for a document."""


def differences(baseline: SystemRun, run: SystemRun) -> dict[str, Difference]:
    """By measure: the mean of `run` minus that of `baseline`, its interval and its p-value."""
    every = np.stack([values - baseline.values[name] for name, values in run.values.items()], axis=1)
    columns = zip(every.mean(axis=0), *bootstrap_interval(every), randomization_test(every), strict=True)
    return {
        name: Difference(value=float(value), low=float(low), high=float(high), p_value=float(p_value))
        for name, (value, low, high, p_value) in zip(run.values, columns, strict=True)
    }


def agreement(reference: SystemRun, run: SystemRun) -> SystemAgreement:
    """How well the rankings of `run` agree with those of `reference`."""
    pairs = list(zip(reference.keys, run.keys, strict=True))
    taus = [kendall_tau(*pair) for pair in pairs]
    return SystemAgreement(
        reference=reference.scorer.name,
        tau=float(np.mean(taus)),
        worst_tau=float(np.min(taus)),
        overlap=float(np.mean([top_overlap(*pair, top=TOP) for pair in pairs])),
    )


def regressions(dataset: Dataset, measure: str, baseline: SystemRun, run: SystemRun) -> list[Regression]:
    """The REGRESSION_LIMIT queries with the largest loss of `measure` from `baseline` to `run`, largest loss first."""
    before, after = baseline.values[measure], run.values[measure]
    change = after - before
    worst = [int(number) for number in np.argsort(change, kind="stable")[:REGRESSION_LIMIT] if change[number] < 0]
    return [
        Regression(
            qid=str(dataset.pools[number].qid),
            query=dataset.pools[number].query,
            system=run.scorer.name,
            measure=measure,
            baseline=float(before[number]),
            value=float(after[number]),
            before=_best(dataset, baseline, number),
            after=_best(dataset, run, number),
        )
        for number in worst
    ]


def _best(dataset: Dataset, run: SystemRun, number: int) -> list[Place]:
    pool, scores = dataset.pools[number], run.scores[number]
    labels = dataset.labels(pool)
    order = np.argsort(-run.keys[number], kind="stable")[:DOCUMENT_LIMIT].tolist()
    return [
        Place(
            docid=str(pool.fields[position]["docid"]),
            rank=rank,
            given_rank=position + 1,
            label=labels[position],
            score=None if scores is None or np.isnan(scores[position]) else float(scores[position]),
            text=pool.documents[position][:TEXT_LIMIT],
        )
        for rank, position in enumerate(order, 1)
    ]
