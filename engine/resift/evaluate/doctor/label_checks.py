"""The doctor's checks that need labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resift.calibration import sigmoid
from resift.evaluate.calibration.reliability import reliability
from resift.evaluate.calibration.sample import Sample
from resift.evaluate.doctor.severity import NOTE_SHARE, severity_of
from resift.evaluate.results import Finding
from resift.evaluate.significance import bootstrap_interval
from resift.metrics import TOP

if TYPE_CHECKING:
    from resift.evaluate.doctor.evidence import Evidence

GOOD_PRECISION = 0.9
"""P@1 of the order given above which more than nine of ten first places cannot get better."""
MIN_LABELLED = 10
"""Minimum number of labelled queries for a statement about their mean; for fewer, the bootstrap's intervals are too narrow."""
FULL_RECALL = 0.9
"""Mean recall of the pools below which missing relevant documents are reported."""
LOW_CEILING = 0.8
"""Below this mean of the highest nDCG@10 that any order can reach, missing relevant documents are a warning, otherwise a note."""
MATERIAL_LOSS = 0.005
"""Smallest loss of nDCG@10 that is reported although it may be chance; int8 alone changes nDCG@10 by 0.004."""

CALIBRATION_ERROR = 0.05
"""Expected calibration error above which probabilities are reported; calibrated ones stay below on pools like those of the fit."""


def uncalibrated(evidence: Evidence) -> Finding | None:
    """Reports probabilities that do not agree with the labels: a threshold on them does not mean what it says."""
    every = zip(evidence.pools, evidence.scored, evidence.judgements, strict=True)
    judged = [(pool.query, scored, found.labels > 0) for pool, scored, found in every if found is not None]
    sample, calibration = Sample.of_scored(judged), evidence.reranker.settings.calibration
    if sample.size < MIN_LABELLED or not sample.relevant.any():
        return None
    error = reliability(calibration.apply(sample.logits) if calibration else sigmoid(sample.logits), sample).ece
    if error.low <= CALIBRATION_ERROR:
        return None
    interval = f"95 % interval [{error.low:.2f}, {error.high:.2f}], {sample.size} labelled queries"
    off = f"{error.value:.2f} off in the mean (ECE; {interval})"
    if calibration:
        words = f"the probabilities of the settings' calibration are {off}: they were fitted to other pools, or other labels"
        advice = "run `resift calibrate` again, with pools like these"
    else:
        words = f"as probabilities (sigmoid), the scores are {off}: a threshold on scores or logits does not mean what it seems to"
        advice = (
            "where you set a threshold (such as score_threshold of LangChain and Haystack, which is not seen here), run "
            "`resift calibrate`, load its file, and set `threshold`, a probability"
        )
    return Finding(
        name="uncalibrated", severity="warning" if calibration else "note", value=error.value, words=words, advice=advice
    )


def recall_ceiling(evidence: Evidence) -> Finding | None:
    """Reports relevant documents that are missing from the pools."""
    judged = [each for each in evidence.judgements if each is not None and each.has_relevant()]
    if not judged:
        return None
    recall = float(np.mean([each.recall() for each in judged]))
    if recall >= FULL_RECALL:
        return None
    ceiling = float(np.mean([each.ceiling() for each in judged]))
    none = sum(not each.labels.any() for each in judged)
    return Finding(
        name="recall-ceiling",
        severity="warning" if ceiling < LOW_CEILING else "note",
        value=recall,
        words=f"the pools hold {recall:.0%} of the documents judged relevant, and those of {none} of {len(judged)} queries none: "
        f"no reranker can reach a higher nDCG@{TOP} than {ceiling:.3f}",
        advice=f"{evidence.more_candidates()}, or improve the retriever: reranking cannot bring up what was not retrieved",
    )


def nothing_relevant(evidence: Evidence) -> Finding | None:
    """Reports labelled queries without any relevant document."""
    judged = [each for each in evidence.judgements if each is not None]
    without = sum(not each.has_relevant() for each in judged)
    if not judged or without / len(judged) < NOTE_SHARE:
        return None
    return Finding(
        name="nothing-relevant",
        severity=severity_of(without / len(judged)),
        value=without / len(judged),
        words=f"{without} of {len(judged)} labelled queries have no relevant document: they say nothing about a ranking",
        advice="check that labels above 0 mean relevant and that ids match; if so, the retriever misses these queries",
    )


def good_first(evidence: Evidence) -> Finding | None:
    """Reports an order given whose first documents are already relevant."""
    labelled = evidence.labelled_pools()
    if len(labelled) < MIN_LABELLED:
        return None
    precision = float(np.mean([judged.labels[0] > 0 for judged, _ in labelled]))
    if precision <= GOOD_PRECISION:
        return None
    return Finding(
        name="good-first",
        severity="note",
        value=precision,
        words=f"the order given has a relevant document first for {precision:.0%} of {len(labelled)} labelled queries (P@1)",
        advice="reranking buys little here: leave it out where only the first result counts, or test on harder queries",
    )


def given_better(evidence: Evidence) -> Finding | None:
    """Reports an order given that is better than the model's."""
    labelled = evidence.labelled_pools()
    if not labelled:
        return None
    given = np.array([judged.ndcg() for judged, _ in labelled])
    ranked = np.array([judged.ndcg(np.argsort(-scored.logits, kind="stable")) for judged, scored in labelled])
    loss = float(np.mean(given - ranked))
    if loss < MATERIAL_LOSS:
        return None
    low, high = bootstrap_interval((given - ranked)[:, None])[:, 0].tolist()
    figures = (
        f"nDCG@{TOP} is {given.mean():.4f} in the order given and {ranked.mean():.4f} in the model's: {loss:.4f} lost, "
        f"95 % interval [{low:.4f}, {high:.4f}], {len(labelled)} labelled queries"
    )
    if low > 0 and len(labelled) >= MIN_LABELLED:
        advice = "the model is wrong for these texts: use one trained on such data, or keep the order given"
        return Finding(name="given-better", severity="problem", value=loss, words=figures, advice=advice)
    return Finding(
        name="given-better",
        severity="warning",
        value=loss,
        words=f"{figures}; the loss may be chance, but there is no sign of a gain",
        advice="label more queries to be sure, and compare with a model trained on such data; until then, keep the order given",
    )
