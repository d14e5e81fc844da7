"""Calibrates an artifact by labelled pools."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

import numpy as np

from resift.calibration import METHODS, ScoreCalibration, sigmoid
from resift.errors import InputError
from resift.evaluate.calibration.maps import FOLDS, PlattMap, choose, fit_platt, splits
from resift.evaluate.calibration.records import CalibrationResult
from resift.evaluate.calibration.reliability import reliability
from resift.evaluate.calibration.sample import Sample
from resift.evaluate.calibration.thresholds import Fold, Target, threshold
from resift.evaluate.significance import SEED
from resift.files.names import path_text
from resift.inputs import check_count
from resift.pools.collection import score_pools
from resift.reranker import Reranker
from resift.scoring import logit_identity
from resift.settings import Settings

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from resift.calibration import Method
    from resift.evaluate.calibration.maps import ChosenMap
    from resift.evaluate.data.dataset import Dataset
    from resift.pools.job import Progress

LEAST_QUERIES = 10
"""Queries without which nothing is fitted: each fold must hold out some."""
FEW_QUERIES = 50
"""Below this many queries, intervals are too narrow, and say so."""


def calibrate(  # noqa: PLR0913 - each is an option of `resift calibrate`
    dataset: Dataset,
    source: str | os.PathLike[str] | None = None,
    *,
    settings: Settings | None = None,
    relevant_from: int = 1,
    precisions: Sequence[float] = (),
    recalls: Sequence[float] = (),
    method: Method | Literal["auto"] = "auto",
    seed: int = SEED,
    progress: Progress | None = None,
) -> CalibrationResult:
    """Fits the probability of relevance to the logits that the full graph of the artifact `source` gives the pairs of `dataset`.

    `dataset`: read with `read_dataset(..., every_query=True)`, so that queries without a relevant document count, too. A label of
    `relevant_from` or above is relevant, any other and none at all is not. `precisions`, `recalls`: from 0 to 1, to find thresholds
    for. `method`: as for `choose`. `settings`: how pairs are read; a calibration in them is not used. `progress`: called after
    each pool.

    Raises InputError for fewer than LEAST_QUERIES queries, labels of one kind, logits that do not rise with relevance or a value
    out of range, and otherwise like `Reranker.load` and `Reranker.submit`.
    """
    relevant_from = check_count("relevant_from", relevant_from)
    targets = [*(Target("precision", value) for value in precisions), *(Target("recall", value) for value in recalls)]
    for target in targets:
        if not 0 < target.value <= 1:
            raise InputError(f"{target.measure} is {target.value}; expected a share above 0, and at most 1")
    if method not in ("auto", *METHODS):
        raise InputError(f"method is {method!r}; expected 'auto', {' or '.join(METHODS)}")
    labels = [np.array(dataset.labels(pool), np.int64) for pool in dataset.pools]
    _check(dataset, labels, relevant_from)
    with Reranker.load(source, settings=replace(settings or Settings(), calibration=None)) as reranker:
        sample = _sample(reranker, dataset, [each >= relevant_from for each in labels], progress)
    if not np.ptp(sample.logits):
        raise InputError(
            f"all {len(sample.logits)} logits on {dataset.name} are {sample.logits[0]:.6g}, which says nothing of relevance; check "
            "the model with `resift verify`, and the texts"
        )
    if fit_platt(sample).slope <= 0:
        raise InputError(
            f"the logits of {reranker.artifact.manifest.model.id} do not rise with relevance on {dataset.name}, so they "
            "tell nothing of its probability; check that higher labels mean more relevant, or use another model"
        )
    chosen = choose(sample, method, seed)
    folds = [Fold(choose(others, method, seed).map, others, rows) for others, rows in splits(sample, seed)]
    held_out = np.empty(len(sample.logits))
    for fold in folds:
        held_out[fold.rows] = fold.map(sample.logits[fold.rows])
    return CalibrationResult(
        calibration=_calibration(reranker, chosen),
        data=path_text(dataset.name),
        queries=sample.size,
        pairs=len(sample.logits),
        relevant=int(sample.relevant.sum()),
        relevant_from=relevant_from,
        unjudged=sum(
            fields["docid"] not in dataset.qrels.get(str(pool.qid), {}) for pool in dataset.pools for fields in pool.fields
        ),
        left_out=dict(dataset.left_out),
        pool_size=int(np.median([len(pool.documents) for pool in dataset.pools])),
        method=chosen.method,
        losses=chosen.losses,
        folds=FOLDS,
        seed=seed,
        before=reliability(sigmoid(sample.logits), sample),
        after=reliability(held_out, sample),
        thresholds=[threshold(sample, chosen.map, target, folds) for target in targets],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=version("resift"),
    )


def _check(dataset: Dataset, labels: Sequence[NDArray[np.int64]], relevant_from: int) -> None:
    """Raises InputError, before anything is scored, if nothing can be fitted to these labels."""
    name, every = dataset.name, np.concatenate([np.zeros(0, np.int64), *labels])
    queries = Sample.of((pool.query, np.zeros(0), np.zeros(0, np.bool_)) for pool in dataset.pools).size
    if queries < LEAST_QUERIES:
        raise InputError(
            f"{name} has {queries} different queries to calibrate by; expected {LEAST_QUERIES} or more, better {FEW_QUERIES}"
        )
    if len({*(every >= relevant_from).tolist()}) == 1:
        kind = "relevant" if every[0] >= relevant_from else "not relevant"
        grades = ", ".join(map(str, np.unique(every)[:10].tolist()))
        raise InputError(
            f"all {len(every)} pairs of {name} are {kind}, as labels are {grades} and {relevant_from} or more is relevant; "
            "expected both kinds: label other candidates, too, or name another grade with --relevant-from"
        )


def _sample(reranker: Reranker, dataset: Dataset, relevant: list[NDArray[np.bool_]], progress: Progress | None) -> Sample:
    """The pairs with their logits by the full graph."""
    found, pairs = [], 0
    for (pool, scored), labels in zip(score_pools(reranker, dataset.pools, plan="full"), relevant, strict=True):
        found.append((pool.query, scored.logits, labels))
        pairs += len(pool.documents)
        if progress is not None:
            progress(pools=len(found), pairs=pairs, share=len(found) / len(dataset.pools))
    return Sample.of(found)


def _calibration(reranker: Reranker, chosen: ChosenMap) -> ScoreCalibration:
    fitted = chosen.map
    values: dict[str, object] = (
        {"slope": fitted.slope, "intercept": fitted.intercept}
        if isinstance(fitted, PlattMap)
        else {"logits": tuple(fitted.logits.tolist()), "probabilities": tuple(fitted.probabilities.tolist())}
    )
    return ScoreCalibration.of({"method": chosen.method, **values, **logit_identity(reranker.artifact, reranker.resolved)})
