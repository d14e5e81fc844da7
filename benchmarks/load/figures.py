"""Figures of a load. Latency counts from the time when a request was due to be sent, not from when it was sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

WARM_UP = 0.1
"""Share of a load at its start that is left out of the figures."""
REJECTED = (429, 503)


@dataclass(slots=True)
class Outcome:
    """The outcome of one request. Times are seconds from the start of the load."""

    request: int
    documents: int
    scheduled: float
    sent: float = np.nan
    ended: float = np.inf
    status: int = 0
    """HTTP status; 0: there was no answer"""
    content: bytes = b""
    error: str = ""

    @property
    def in_progress(self) -> bool:
        """Whether it was sent and has not ended."""
        return self.ended == np.inf and not np.isnan(self.sent)

    @property
    def latency(self) -> float:
        """Seconds from when it was due to be sent until its answer; infinite for a request that was not answered with 200."""
        return self.ended - self.scheduled if self.status == 200 else np.inf


@dataclass
class Load:
    """The outcomes of all requests of a load."""

    outcomes: list[Outcome]
    seconds: float
    """length of the time in which requests were sent"""
    generator_cpu: float
    """cores that this process, the generator, used"""
    began: float = 0.0
    """start of the load, by time.perf_counter"""
    memory: list[tuple[float, float]] = field(default_factory=list)
    """samples of the server: seconds from the start, resident megabytes"""
    server_cpu: float = 0.0
    """cores that the server used"""

    def figures(self) -> dict[str, Any]:
        """Rates per second, and latencies in milliseconds of the requests answered with 200."""
        begin = WARM_UP * self.seconds
        due = [outcome for outcome in self.outcomes if outcome.scheduled >= begin]
        ended = [outcome for outcome in self.outcomes if begin <= outcome.ended <= self.seconds]
        good = [outcome for outcome in ended if outcome.status == 200]
        window = self.seconds - begin
        late = [outcome.sent - outcome.scheduled for outcome in due]
        return {
            "offered": round(len(due) / window, 3),
            "throughput": round(len(ended) / window, 3),
            "goodput": round(len(good) / window, 3),
            "documents_per_s": round(sum(outcome.documents for outcome in good) / window, 2),
            **percentiles([outcome.latency for outcome in due if outcome.status == 200]),
            "requests": len(due),
            "answered": sum(outcome.status == 200 for outcome in due),
            "rejected": sum(outcome.status in REJECTED for outcome in due),
            "failed": sum(outcome.status != 200 and outcome.status not in REJECTED for outcome in due),
            "sent_late_p95_ms": round(1000 * float(np.nanpercentile(late, 95)), 2) if late else None,
            "generator_cpu": round(self.generator_cpu, 3),
            "server_cpu": round(self.server_cpu, 3),
        }

    def p95(self) -> float:
        """p95 of the latency in seconds over all requests after the warm-up; rejected and failed ones count as infinite."""
        latencies = [outcome.latency for outcome in self.outcomes if outcome.scheduled >= WARM_UP * self.seconds]
        return float(np.percentile(latencies, 95, method="higher"))


def percentiles(seconds: list[float]) -> dict[str, float | None]:
    """p50, p95 and p99 in milliseconds."""
    if not seconds:
        return dict.fromkeys(("p50_ms", "p95_ms", "p99_ms"))
    return {f"p{rank}_ms": round(1000 * float(np.percentile(seconds, rank)), 1) for rank in (50, 95, 99)}


def check(name: str, value: float | None, limit: float, *, at_most: bool = True) -> dict[str, Any]:
    """The check that `value` is at most `limit`, or at least `limit` if not `at_most`."""
    holds = value is not None and (value <= limit if at_most else value >= limit)
    return {
        "check": name,
        "value": None if value is None else round(value, 4),
        "at most" if at_most else "at least": limit,
        "holds": holds,
    }
