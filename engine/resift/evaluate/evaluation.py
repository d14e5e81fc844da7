"""Compares ways to order the same candidates, and returns all results as one record."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from resift import machine
from resift.artifact.certificate import Certificate
from resift.errors import InputError
from resift.evaluate.comparisons import agreement, differences, regressions
from resift.evaluate.doctor.diagnosis import diagnose
from resift.evaluate.lengths import measure_lengths
from resift.evaluate.measures import MEASURES, Judge
from resift.evaluate.results import Data, Evaluation, Finding, QueryResult, SystemResult
from resift.evaluate.runs import SystemRun, score_all
from resift.evaluate.systems import GivenOrder
from resift.files.names import path_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift.evaluate.data.dataset import Dataset
    from resift.evaluate.systems import Scorer, System
    from resift.pools.job import Progress

SIZES = (5, 10, 20, 50, 100, 200, 500, 1000)
"""Pool sizes of SystemResult.by_size and Evaluation.recall; those below the largest pool are used, and then its own size."""
LIBRARIES = ("resift", "numpy", "ir-measures", "pytrec-eval-terrier")


def evaluate(  # noqa: PLR0913 - the data, the systems, and the options of the comparison
    dataset: Dataset,
    systems: Sequence[System] = (),
    *,
    measures: Sequence[str] = MEASURES,
    baseline: str | None = None,
    reference: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compares the order given with `systems` on the same pools, by all judgements of `dataset`.

    `measures` are ir-measures' names (https://ir-measur.es/en/latest/measures.html); regressions and `by_size` use the
    first. Differences are from the system named `baseline` (None: the order given); agreement is with the system named `reference`
    (None: the first checkpoint, or else the first float32 artifact, or else the first artifact). Rankings are measured, not scores:
    see `Judge`. Pools are scored and timed one by one: see `score_all`. A pair's logit does not depend on its pool, so the figures
    for smaller pools are derived from the same scores.

    Raises InputError for a measure, a name or data that cannot be evaluated, ExtraError without the extra `eval`, and otherwise
    like the systems.
    """
    pools = dataset.pools
    if not pools:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in dataset.left_out.items())
        raise InputError(f"{dataset.name} has no query to evaluate ({reasons or 'it is empty'}); expected at least one")
    qids = [str(pool.qid) for pool in pools]
    docids = [[str(fields["docid"]) for fields in pool.fields] for pool in pools]
    judge = Judge(measures, qids, docids, dataset.qrels)
    with ExitStack() as stack:
        scorers = [stack.enter_context(system.open(pools)) for system in (GivenOrder(), *systems)]
        _check_names([scorer.name for scorer in scorers], baseline=baseline, reference=reference)
        artifacts = [scorer.reranker for scorer in scorers if scorer.reranker]
        for reranker in artifacts[:1]:
            Certificate.read(reranker.artifact)  # diagnose reads it, and should not fail after hours of scoring
        runs = score_all(scorers, pools, progress)
        lengths, findings = None, list[Finding]()
        if artifacts:
            scored = next(run.scored for run in runs if run.scorer.reranker)
            lengths = measure_lengths(artifacts[0], pools, scored)
            findings = diagnose(artifacts[0], pools, qrels=dataset.qrels, scored=scored, cut_at=dataset.cut_at)
    for run in runs:
        run.values = judge.values(run.orders())
    baseline_run = _find_run(runs, baseline) or runs[0]
    reference_run = _find_run(runs, reference) or _default_reference(runs)
    first = judge.names[0]
    sizes = _sizes(max(len(pool.documents) for pool in pools))
    labels = [np.array(dataset.labels(pool), np.int64) for pool in pools]
    return Evaluation(
        data=Data(
            name=path_text(dataset.name),
            format=dataset.format,
            pools=len(pools),
            pairs=sum(map(len, docids)),
            judgements=sum(len(dataset.qrels[qid]) for qid in qids),
            left_out=dict(dataset.left_out),
            self_candidates=dataset.self_candidates,
            cut_at=dataset.cut_at,
        ),
        baseline=baseline_run.scorer.name,
        measures=judge.names,
        systems=[
            SystemResult(
                name=run.scorer.name,
                kind=run.scorer.kind,
                source=run.scorer.source,
                precision=run.scorer.precision,
                measures={name: float(column.mean()) for name, column in run.values.items()},
                differences={} if run is baseline_run else differences(baseline_run, run),
                per_query={name: column.tolist() for name, column in run.values.items()},
                by_size={first: [float(judge.values(run.orders(size))[first].mean()) for size in sizes]},
                agreement=None if reference_run is None or run is reference_run else agreement(reference_run, run),
                latency_ms=run.latency,
                pairs_per_second=run.pairs_per_second,
                documents=run.known.figures(),
                unscored=run.unscored,
                scores=run.histogram(labels),
                **run.reliability(pools, labels),
            )
            for run in runs
        ],
        queries=_queries(dataset),
        sizes=sizes,
        recall=_recall(dataset, sizes),
        regressions=[
            regression for run in runs if run is not baseline_run for regression in regressions(dataset, first, baseline_run, run)
        ],
        lengths=lengths,
        findings=findings,
        machine=_machine(scorers),
        versions=_versions(scorers),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _check_names(names: Sequence[str], **roles: str | None) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"two systems are named {twice[0]!r}; leave one out, or give them different names")
    for role, name in roles.items():
        if name is not None and name not in names:
            raise InputError(f"the {role} is {name!r}; expected one of the systems: {', '.join(map(repr, names))}")


def _find_run(runs: Sequence[SystemRun], name: str | None) -> SystemRun | None:
    return next((run for run in runs if run.scorer.name == name), None)


def _default_reference(runs: Sequence[SystemRun]) -> SystemRun | None:
    """The run that agreement is measured with unless one is named: the one that is nearest to the checkpoint."""
    preference = {"checkpoint": 0, "float32": 1, "artifact": 2}
    models = [run for run in runs if run.scorer.kind in preference]
    return min(models, key=lambda run: min(preference[run.scorer.kind], preference.get(str(run.scorer.precision), 2)), default=None)


def _sizes(largest: int) -> list[int]:
    return [*(size for size in SIZES if size < largest), largest]


def _queries(dataset: Dataset) -> list[QueryResult]:
    return [
        QueryResult(
            qid=str(pool.qid),
            query=pool.query,
            candidates=len(pool.documents),
            relevant=sum(label > 0 for label in dataset.labels(pool)),
            judged_relevant=sum(label > 0 for label in dataset.qrels[str(pool.qid)].values()),
        )
        for pool in dataset.pools
    ]


def _recall(dataset: Dataset, sizes: Sequence[int]) -> list[float]:
    """The mean over queries with relevant documents: the share of these that is among the first `sizes[i]` candidates as given."""
    shares = []
    for pool in dataset.pools:
        total = sum(label > 0 for label in dataset.qrels[str(pool.qid)].values())
        if total:
            labels = dataset.labels(pool)
            shares.append([sum(label > 0 for label in labels[:size]) / total for size in sizes])
    return np.mean(shares, axis=0).tolist() if shares else [0.0] * len(sizes)


def _machine(scorers: Sequence[Scorer]) -> str:
    """Processor, instruction sets and threads."""
    threads = sorted({scorer.reranker.resolved.threads for scorer in scorers if scorer.reranker})
    return machine.description() + (f", {' or '.join(map(str, threads))} threads" if threads else "")


def _versions(scorers: Sequence[Scorer]) -> dict[str, str]:
    versions = {name: version(name) for name in LIBRARIES}
    for scorer in scorers:
        versions |= scorer.versions
    return versions
