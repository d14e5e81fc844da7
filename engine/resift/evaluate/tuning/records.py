"""The results of `tune` and `check` as frozen records; encoded with msgspec they are the JSON of `resift tune --json`."""

from __future__ import annotations

from resift.evaluate.results import DocumentFigures, Latency, ResultRecord
from resift.settings import Settings


class Point(ResultRecord, frozen=True, kw_only=True):
    """Settings and a number of candidates, with their speed on this machine and the quality of their rankings."""

    settings: Settings
    candidates: int
    """number of candidates of each pool that are ranked, the first as given"""
    plan: str | None = None
    latency_ms: Latency
    quality: float
    """mean of Tuning.measure over the judged pools"""
    lead: tuple[float, float] | None = None
    """95 % paired-bootstrap interval of the chosen point's quality minus this point's; None if no point is chosen"""
    share_within: float | None = None
    """share of the timed calls that were within the budget; None without a budget"""
    fits: bool
    """whether it holds the budget with choice.MARGIN in both halves of the repeats; True without a budget"""
    is_on_frontier: bool
    """whether no other point is as fast (p95) and as good"""
    documents: DocumentFigures | None = None
    """of the chosen point and those on the frontier, if the plan has a split graph"""


class Tuning(ResultRecord, frozen=True, kw_only=True):
    """The results of `tune`."""

    model: str
    machine: str
    measure: str
    """nDCG@10, or agreement@10 where no pool has labels: the mean share of the full ranking's top 10 that a point's top 10 holds
    (the top half of pools below 20)"""
    pools: int
    """pools of two or more candidates, of which the query itself may be one"""
    judged: int
    """number of pools in the mean quality: with labels, those that have a relevant document"""
    left_out: int
    """pools of fewer than two candidates, or of none but the query itself, where there is nothing to rank"""
    self_candidates: int = 0
    """pools whose query was one of its own candidates, by id and text, and is left out of them"""
    timed: int
    """pools that were timed"""
    repeats: int
    """how often each was timed"""
    given: float | None
    """nDCG@10 of the order given, over all candidates; None without labels"""
    budget_ms: float | None
    share: float
    """share of calls that must be within the budget"""
    points: list[Point]
    chosen: Point | None
    """the best point within the budget; None if none holds it"""
    nearest: Point | None
    """the fastest point, if none holds the budget"""
    created: str
    """ISO 8601, UTC"""
    version: str
    """version of resift"""


class Check(ResultRecord, frozen=True, kw_only=True):
    """Whether settings hold a budget."""

    settings: Settings
    candidates: int | None
    pools: int
    calls: int
    latency_ms: Latency
    budget_ms: float
    share_within: float
    """share of the calls that were within the budget"""
    share: float
    """share of calls that must be within the budget"""
    holds: bool
