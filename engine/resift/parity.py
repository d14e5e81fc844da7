"""Parity: how far an artifact's ranking agrees with its checkpoint's, and the certificate that records it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from resift.artifact import CERTIFICATE, Artifact, Strict
from resift.errors import ArtifactError, ParityError
from resift.settings import Precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

TOP = 10


class Bounds(Strict, frozen=True):
    """What an artifact must keep to; the defaults are what `resift export` refuses beyond."""

    overlap: float = 0.95
    """least mean share of the checkpoint's top 10 (the top half of pools below 20) that is in the artifact's"""
    tau: float = 0.95
    """least mean Kendall tau-b"""
    worst_tau: float = 0.85
    """least Kendall tau-b of a single pool"""
    error: float = 0.05
    """largest 99th percentile of |logit - checkpoint's|, as a share of the checkpoint's range of logits"""


class Agreement(Strict, frozen=True):
    """What was measured, in the order of Bounds, and what it means for a labelled ranking."""

    overlap: float
    tau: float
    worst_tau: float
    error: float
    largest_error: float
    """largest |logit - checkpoint's|, in logits"""
    ndcg: float | None
    """nDCG@10 within the pools, where they have labels"""
    checkpoint_ndcg: float | None

    def summary(self) -> str:
        """One line for a log."""
        return (
            f"top-10 overlap {self.overlap:.4f}, tau {self.tau:.4f} (worst pool {self.worst_tau:.4f}), "
            f"p99 error {self.error:.2%} of the range"
        )

    def violations(self, bounds: Bounds) -> list[str]:
        """One sentence for each bound that does not hold."""
        found = [
            f"{what} is {value:.4f}; expected at least {least}"
            for what, value, least in (
                ("mean top-10 overlap", self.overlap, bounds.overlap),
                ("mean Kendall tau", self.tau, bounds.tau),
                ("the worst pool's Kendall tau", self.worst_tau, bounds.worst_tau),
            )
            if not value >= least
        ]
        if not self.error <= bounds.error:
            found.append(
                f"the 99th percentile of logit errors is {self.error:.4f} of the checkpoint's range; "
                f"expected at most {bounds.error}"
            )
        return found


class Pool(Strict, frozen=True):
    """One gate pool: a query, its documents and, where known, their graded relevance."""

    qid: str
    query: str
    documents: list[str]
    labels: list[int] | None = None


class CertifiedPool(Pool, frozen=True, kw_only=True):
    """A gate pool with the relevance logits it was given, in the documents' order."""

    checkpoint: list[float]
    variants: dict[Precision, list[float]]


class Certificate(Strict, frozen=True):
    """certificate.json: what the gate saw at export, to be recomputed anywhere."""

    bounds: Bounds
    agreement: dict[Precision, Agreement]
    pools: list[CertifiedPool]

    @classmethod
    def read(cls, artifact: Artifact) -> Certificate:
        """The artifact's certificate. Raises ArtifactError if it is none."""
        try:
            return msgspec.json.decode(artifact.read(CERTIFICATE), type=cls)
        except msgspec.DecodeError as error:
            raise ArtifactError(f"{CERTIFICATE} of {artifact.folder} is not what `resift export` writes: {error}") from error

    def measure(self, found: Sequence[NDArray[np.floating]]) -> Agreement:
        """The checkpoint's agreement with relevance logits `found`, one array a pool."""
        return measure(self.pools, [np.array(pool.checkpoint) for pool in self.pools], found)


def refuse(agreement: Agreement, bounds: Bounds, what: str) -> None:
    """Raises ParityError with every bound that `agreement` does not keep."""
    if violations := agreement.violations(bounds):
        raise ParityError(f"{what} does not rank as its checkpoint does: {'; '.join(violations)}")


def measure(pools: Sequence[Pool], checkpoint: Sequence[NDArray[np.floating]], found: Sequence[NDArray[np.floating]]) -> Agreement:
    """Compares relevance logits `found` with the checkpoint's, pool by pool."""
    every_reference, every_found = np.concatenate(checkpoint).astype(np.float64), np.concatenate(found).astype(np.float64)
    errors = np.abs(every_found - every_reference)
    taus = [kendall_tau(*pair) for pair in zip(checkpoint, found, strict=True)]
    labels = [pool.labels for pool in pools]
    return Agreement(
        overlap=float(np.mean([top_overlap(*pair) for pair in zip(checkpoint, found, strict=True)])),
        tau=float(np.mean(taus)),
        worst_tau=float(np.min(taus)),
        error=float(np.percentile(errors, 99) / max(float(np.ptp(every_reference)), np.finfo(np.float32).tiny)),
        largest_error=float(errors.max()),
        ndcg=_mean_ndcg(labels, found),
        checkpoint_ndcg=_mean_ndcg(labels, checkpoint),
    )


def kendall_tau(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Kendall's tau-b of two scorings of the same n documents, ties counted (Kendall 1945, doi:10.1093/biomet/33.3.239).

    1 where both tie everything or n < 2; 0 where only one does.
    """
    above = np.triu_indices(len(first), k=1)
    signs = [np.sign(values[:, None] - values[None, :])[above] for values in (first.astype(np.float64), second.astype(np.float64))]
    norms = [float(np.abs(sign).sum()) for sign in signs]
    if not all(norms):
        return 1.0 if not any(norms) else 0.0
    return float((signs[0] * signs[1]).sum()) / float(np.sqrt(norms[0] * norms[1]))


def top_overlap(first: NDArray[np.floating], second: NDArray[np.floating], top: int = TOP) -> float:
    """Share of the best `top` by `first` that are among the best `top` by `second`; of n < 2 x top, the better half."""
    size = max(1, min(top, len(first) // 2))
    best = [set(np.argsort(-values, kind="stable")[:size].tolist()) for values in (first, second)]
    return len(best[0] & best[1]) / size


def ndcg(labels: Sequence[int], scores: NDArray[np.floating], top: int = TOP) -> float:
    """nDCG@top within a pool, gain = label and discount log2(rank + 1), as trec_eval's ndcg_cut; 0 without relevant documents."""
    gains = np.asarray(labels, np.float64)
    discounts = 1 / np.log2(np.arange(2, min(top, len(gains)) + 2))
    ideal = float(np.sort(gains)[::-1][:top] @ discounts)
    return float(gains[np.argsort(-scores, kind="stable")][:top] @ discounts) / ideal if ideal else 0.0


def _mean_ndcg(labels: Sequence[Sequence[int] | None], scores: Sequence[NDArray[np.floating]]) -> float | None:
    known = [ndcg(label, score) for label, score in zip(labels, scores, strict=True) if label is not None]
    return float(np.mean(known)) if known else None
