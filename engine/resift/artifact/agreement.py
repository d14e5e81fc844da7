"""Agreement: how far an artifact's ranking agrees with its checkpoint's, and the bounds within which it must."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from resift.artifact.fields import Count, Strict
from resift.errors import ParityError
from resift.metrics import kendall_tau, ndcg, top_overlap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LEAST_GATE_POOLS = 30
"""The minimum of pools that make a comparison meaningful."""
ROUNDING = 1e-6
"""Relative and absolute difference allowed between two libraries' means of the same figures."""


class Measure(NamedTuple):
    """A figure that one field of Bounds limits."""

    field: str
    words: str
    unit: str = ""
    is_upper: bool = False
    """whether the bound is a maximum; otherwise it is a minimum"""

    def holds(self, value: float, bound: float) -> bool:
        """Whether `value` is within `bound`; NaN never is."""
        return value <= bound if self.is_upper else value >= bound

    def limit(self, bound: float) -> str:
        """The bound in words."""
        return f"at {'most' if self.is_upper else 'least'} {bound}"


MEASURES = (
    Measure("overlap", "mean top-10 overlap"),
    Measure("tau", "mean Kendall tau"),
    Measure("worst_tau", "the worst pool's Kendall tau"),
    Measure("error", "the 99th percentile of logit errors", " of the checkpoint's range", is_upper=True),
    Measure("ndcg_drop", "the drop of mean nDCG@10", " below the checkpoint's", is_upper=True),
)


class Bounds(Strict, frozen=True):
    """Bounds on an artifact's agreement with its checkpoint; the defaults are those of `resift export`."""

    overlap: float = 0.95
    """minimum of the mean share of the checkpoint's top 10 (the top half of pools below 20) that is in the artifact's top 10"""
    tau: float = 0.95
    """minimum of the mean Kendall tau-b"""
    worst_tau: float = 0.85
    """minimum of the Kendall tau-b of a single pool"""
    error: float = 0.05
    """maximum of the 99th percentile of |logit - checkpoint's|, as a share of the checkpoint's range of logits"""
    ndcg_drop: float = 0.02
    """maximum drop of mean nDCG@10 below the checkpoint's; met if no pool is labelled. A certificate without it has this default.

    On the built-in gate the embedded model's drop has a standard error of 0.0015 (40 graded pools). The bound also lets one pool
    of the smallest gate swap its first two documents, of which only one is relevant: (1 - 1 / log2(3)) / 30 = 0.012.
    """

    def looser(self, than: Bounds) -> list[str]:
        """A phrase for each bound that is looser than that of `than`."""
        pairs = [(measure, getattr(self, measure.field), getattr(than, measure.field)) for measure in MEASURES]
        return [
            f"{measure.words} {measure.limit(bound)} instead of {reference}"
            for measure, bound, reference in pairs
            if not measure.holds(bound, reference)
        ]


class Agreement(Strict, frozen=True):
    """The measured values of the figures that Bounds limits, and nDCG on labelled pools."""

    overlap: float
    tau: float
    worst_tau: float
    error: float
    largest_error: float
    """largest |logit - checkpoint's|, in logits"""
    ndcg: float | None
    """nDCG@10 within the labelled pools; None without any"""
    checkpoint_ndcg: float | None

    @property
    def ndcg_drop(self) -> float | None:
        """How far nDCG@10 is below the checkpoint's (negative: above it); None without labelled pools."""
        return None if self.ndcg is None or self.checkpoint_ndcg is None else self.checkpoint_ndcg - self.ndcg

    def summary(self) -> str:
        """One line for a log."""
        ranked = (
            f"top-10 overlap {self.overlap:.4f}, tau {self.tau:.4f} (worst pool {self.worst_tau:.4f}), "
            f"p99 error {self.error:.2%} of the range"
        )
        return ranked if self.ndcg_drop is None else f"{ranked}, nDCG@10 {self.ndcg:.4f} ({self.checkpoint_ndcg:.4f})"

    def is_close_to(self, other: Agreement) -> bool:
        """Whether all figures are equal up to rounding."""
        return are_close(self, other)

    def violations(self, bounds: Bounds) -> list[str]:
        """One phrase for each bound that does not hold; a bound on labelled pools holds if there are none."""
        pairs = [(measure, getattr(self, measure.field), getattr(bounds, measure.field)) for measure in MEASURES]
        return [
            f"{measure.words} is {value:.4f}{measure.unit}; expected {measure.limit(bound)}"
            for measure, value, bound in pairs
            if value is not None and not measure.holds(value, bound)
        ]


class Pool(Strict, frozen=True):
    """One gate pool: a query, its documents and, where known, their graded relevance."""

    qid: str
    query: str
    documents: list[str]
    labels: list[Count] | None = None


def check_reference(checkpoint: Sequence[NDArray[np.floating]]) -> None:
    """Raises ParityError unless the checkpoint's logits tell documents apart in enough pools for a meaningful comparison."""
    usable = sum(len(logits) > 1 and float(np.ptp(logits)) > ROUNDING * float(np.abs(logits).max()) for logits in checkpoint)
    if usable < LEAST_GATE_POOLS:
        raise ParityError(
            f"the checkpoint's logits differ within {usable} of {len(checkpoint)} pools; expected at least {LEAST_GATE_POOLS}: "
            "where all logits of a pool are equal there is no ranking to compare with"
        )


def check_bounds(agreement: Agreement, bounds: Bounds, what: str) -> None:
    """Raises ParityError that lists every bound that `agreement` violates, if any. `what` names the graph."""
    if violations := agreement.violations(bounds):
        raise ParityError(f"{what} does not rank like its checkpoint: {'; '.join(violations)}")


def are_close(one: Strict, other: Strict) -> bool:
    """Whether all figures of two records of a kind are equal up to rounding."""
    for name in one.__struct_fields__:
        first, second = getattr(one, name), getattr(other, name)
        if (first is None) != (second is None):
            return False
        if first is not None and not math.isclose(first, second, rel_tol=ROUNDING, abs_tol=ROUNDING):
            return False
    return True


def measure(pools: Sequence[Pool], checkpoint: Sequence[NDArray[np.floating]], logits: Sequence[NDArray[np.floating]]) -> Agreement:
    """Compares an artifact's relevance `logits` with the `checkpoint`'s, pool by pool."""
    reference, measured = np.concatenate(checkpoint).astype(np.float64), np.concatenate(logits).astype(np.float64)
    errors = np.abs(measured - reference)
    taus = [kendall_tau(*pair) for pair in zip(checkpoint, logits, strict=True)]
    labels = [pool.labels for pool in pools]
    return Agreement(
        overlap=float(np.mean([top_overlap(*pair) for pair in zip(checkpoint, logits, strict=True)])),
        tau=float(np.mean(taus)),
        worst_tau=float(np.min(taus)),
        error=float(np.percentile(errors, 99) / max(float(np.ptp(reference)), np.finfo(np.float32).tiny)),
        largest_error=float(errors.max()),
        ndcg=_mean_ndcg(labels, logits),
        checkpoint_ndcg=_mean_ndcg(labels, checkpoint),
    )


def _mean_ndcg(labels: Sequence[Sequence[int] | None], scores: Sequence[NDArray[np.floating]]) -> float | None:
    values = [ndcg(label, score) for label, score in zip(labels, scores, strict=True) if label is not None]
    return float(np.mean(values)) if values else None
