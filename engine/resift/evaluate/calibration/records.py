"""The results of `calibrate` as frozen records; encoded with msgspec they are the JSON of `resift calibrate --json`."""

from __future__ import annotations

from typing import Literal

from resift.calibration import Method, ScoreCalibration
from resift.evaluate.results import Reliability, ResultRecord, Share


class Threshold(ResultRecord, frozen=True, kw_only=True):
    """A threshold for a precision or a recall, and what it gives on queries that it was not fitted to."""

    measure: Literal["precision", "recall"]
    target: float
    threshold: float | None
    """the lowest probability for a precision, the highest for a recall; None if no threshold reaches the precision"""
    best: float
    """the highest precision of MINIMUM pairs or more by any threshold, on the pairs it is fitted to; 1 for a recall"""
    precision: Share | None = None
    """of the held-out pairs that pass, the share that is relevant; thresholds are fitted to the other folds' queries"""
    recall: Share | None = None
    """of the held-out relevant pairs, the share that passes; relevant documents outside the pools are not counted"""
    passing: Share | None = None
    """the share of all held-out pairs that passes"""


class CalibrationResult(ResultRecord, frozen=True, kw_only=True):
    """The results of `calibrate`."""

    calibration: ScoreCalibration
    """the map, fitted to all queries"""
    data: str
    queries: int
    """different queries; pools whose queries only differ in case or white space count as one"""
    pairs: int
    relevant: int
    relevant_from: int
    """the lowest label that counts as relevant"""
    unjudged: int
    """pairs without a label, which count as not relevant"""
    left_out: dict[str, int]
    """queries that are not used, by reason"""
    pool_size: int
    """median number of candidates of a pool"""
    method: Method
    losses: dict[Method, float]
    """mean log loss of a held-out pair by method, by which it was chosen; empty if it was named"""
    folds: int
    seed: int
    before: Reliability
    """of the sigmoid of the logit"""
    after: Reliability
    """of the probabilities of held-out pairs: each fold's map, and its method, are chosen by the other folds"""
    thresholds: list[Threshold]
    created: str
    """ISO 8601, UTC"""
    version: str
    """version of resift"""
