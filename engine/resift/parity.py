"""Parity: how far an artifact's ranking agrees with its checkpoint's, and the certificate that records it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from resift.errors import ArtifactError, ParityError
from resift.manifest import CERTIFICATE, GraphFile, Strict, decode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from resift.artifact import Artifact
    from resift.reranker import Reranker

TOP = 10
LEAST_GATE_POOLS = 30
"""Pools without which a comparison says too little."""
ROUNDING = 1e-6
"""By how much two libraries' means of the same figures may differ."""
MEASURES = {
    "overlap": "mean top-10 overlap",
    "tau": "mean Kendall tau",
    "worst_tau": "the worst pool's Kendall tau",
    "error": "the 99th percentile of logit errors",
}
"""What each field of Bounds limits, in words."""


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

    def looser(self, than: Bounds) -> list[str]:
        """A phrase for each bound that lets pass what that of `than` does not."""
        return [
            f"{what} {'at most' if name == 'error' else 'at least'} {own} instead of {other}"
            for name, what in MEASURES.items()
            for own, other in [(getattr(self, name), getattr(than, name))]
            if not (own <= other if name == "error" else own >= other)
        ]


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

    def is_close_to(self, other: Agreement) -> bool:
        """Whether every figure is the same but for rounding."""
        for name in self.__struct_fields__:
            first, second = getattr(self, name), getattr(other, name)
            if (first is None) != (second is None):
                return False
            if first is not None and not math.isclose(first, second, rel_tol=ROUNDING, abs_tol=ROUNDING):
                return False
        return True

    def violations(self, bounds: Bounds) -> list[str]:
        """One sentence for each bound that does not hold."""
        found = [
            f"{MEASURES[name]} is {getattr(self, name):.4f}; expected at least {getattr(bounds, name)}"
            for name in ("overlap", "tau", "worst_tau")
            if not getattr(self, name) >= getattr(bounds, name)
        ]
        if not self.error <= bounds.error:
            found.append(f"{MEASURES['error']} is {self.error:.4f} of the checkpoint's range; expected at most {bounds.error}")
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
    variants: dict[GraphFile, list[float]]
    """by the variant's file"""

    def __post_init__(self) -> None:
        columns = {"documents": self.documents, "labels": self.labels, "logits of the checkpoint": self.checkpoint}
        columns |= {f"logits of {file}": logits for file, logits in self.variants.items()}
        lengths = {name: len(column) for name, column in columns.items() if column is not None}
        if 0 in lengths.values() or len(set(lengths.values())) > 1:
            found = ", ".join(f"{length} {name}" for name, length in lengths.items())
            raise ValueError(f"pool {self.qid} has {found}; expected as many of each, at least one")
        if not np.isfinite([*self.checkpoint, *(logit for logits in self.variants.values() for logit in logits)]).all():
            raise ValueError(f"pool {self.qid} has logits that are not finite")


class Certificate(Strict, frozen=True):
    """certificate.json: what the gate saw at export, by the files of the full graph's variants, to be recomputed anywhere."""

    bounds: Bounds
    agreement: dict[GraphFile, Agreement]
    pools: list[CertifiedPool]

    @classmethod
    def read(cls, artifact: Artifact) -> Certificate:
        """The artifact's certificate. Raises ArtifactError if it is none, or contradicts itself or the manifest."""
        name = f"{CERTIFICATE} of {artifact.folder}"
        certificate = decode(artifact.read(CERTIFICATE), cls, name)
        files = {variant.file for variant in artifact.manifest.full.variants}
        if not certificate.pools:
            raise ArtifactError(f"{name} holds no pools; expected those of the gate: export the artifact again")
        for found, where in [
            (certificate.agreement.keys(), "agreement"),
            *((pool.variants.keys(), f"pool {pool.qid}") for pool in certificate.pools),
        ]:
            if found != files:
                raise ArtifactError(
                    f"{name} speaks in {where} of {', '.join(sorted(found)) or 'no variant'}, the manifest of "
                    f"{', '.join(sorted(files))}; expected the same: export the artifact again"
                )
        for file, stated in certificate.agreement.items():
            with np.errstate(over="ignore", invalid="ignore"):
                measured = certificate.measure([np.array(pool.variants[file]) for pool in certificate.pools])
            if not stated.is_close_to(measured):
                raise ArtifactError(
                    f"{name} states for {file} {stated.summary()}, but its own logits give {measured.summary()}; "
                    "expected the same: export the artifact again"
                )
        return certificate

    def measure(self, found: Sequence[NDArray[np.floating]]) -> Agreement:
        """The checkpoint's agreement with relevance logits `found`, one array a pool."""
        return measure(self.pools, [np.array(pool.checkpoint) for pool in self.pools], found)


def logits_of(reranker: Reranker, query: str, documents: list[str]) -> NDArray[np.float64]:
    """Relevance logits float64[n] of a pool in its order, by the path that users take."""
    ranking = reranker.rerank(query, documents)
    return np.array([result.logit for result in sorted(ranking, key=lambda result: result.index)])


def check_reference(checkpoint: Sequence[NDArray[np.floating]]) -> None:
    """Raises ParityError unless the checkpoint's logits tell documents apart in enough pools for a comparison to mean anything."""
    telling = sum(len(logits) > 1 and float(np.ptp(logits)) > ROUNDING * float(np.abs(logits).max()) for logits in checkpoint)
    if telling < LEAST_GATE_POOLS:
        raise ParityError(
            f"the checkpoint's logits differ within {telling} of {len(checkpoint)} pools; expected at least {LEAST_GATE_POOLS}: "
            "where it gives every document the same there is no ranking to compare with"
        )


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
