"""Parity: how far an artifact's ranking agrees with its checkpoint's, and the certificate that records it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
import numpy as np

from resift.artifact.manifest import CERTIFICATE, GraphFile, Positive, Strict, decode
from resift.artifact.steps import share_of
from resift.errors import ArtifactError, ParityError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from resift.artifact.folder import Artifact

TOP = 10
LEAST_GATE_POOLS = 30
"""Fewest pools that make a comparison meaningful."""
LOOKS = (0.2, 0.3, 0.4, 0.5)
"""Shares of a pool for which a first look is certified: the best 10, 15, 20 and 25 of 50."""
BEST = 5
"""A first look is certified by the full ranking's top 10, of pools below 50 by the best 1/BEST."""
LEAST_KEPT = 0.8
"""Least share of those that a first look has among its best half; chance gives 0.5."""
ROUNDING = 1e-6
"""Relative and absolute difference allowed between two libraries' means of the same figures."""


class Measure(NamedTuple):
    """What one field of Bounds limits."""

    field: str
    words: str
    unit: str = ""
    is_upper: bool = False
    """whether the bound is the largest value allowed; otherwise it is the least"""

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
    """least mean share of the checkpoint's top 10 (the top half of pools below 20) that the artifact keeps"""
    tau: float = 0.95
    """least mean Kendall tau-b"""
    worst_tau: float = 0.85
    """least Kendall tau-b of a single pool"""
    error: float = 0.05
    """largest 99th percentile of |logit - checkpoint's|, as a share of the checkpoint's range of logits"""
    ndcg_drop: float = 0.02
    """largest drop of mean nDCG@10 below the checkpoint's; holds where no pool is labelled, and for certificates that lack it.

    On the built-in gate the embedded model's drop has a standard error of 0.0015 (40 graded pools). The bound also lets one pool
    of the smallest gate swap its first two documents, of which one alone is relevant: (1 - 1 / log2(3)) / 30 = 0.012.
    """

    def looser(self, than: Bounds) -> list[str]:
        """A phrase for each bound that is looser than that of `than`."""
        pairs = [(measure, getattr(self, measure.field), getattr(than, measure.field)) for measure in MEASURES]
        return [
            f"{measure.words} {measure.limit(own)} instead of {other}"
            for measure, own, other in pairs
            if not measure.holds(own, other)
        ]


class Agreement(Strict, frozen=True):
    """The measured values of what Bounds limits, and the effect on labelled rankings."""

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
        for name in self.__struct_fields__:
            first, second = getattr(self, name), getattr(other, name)
            if (first is None) != (second is None):
                return False
            if first is not None and not math.isclose(first, second, rel_tol=ROUNDING, abs_tol=ROUNDING):
                return False
        return True

    def violations(self, bounds: Bounds) -> list[str]:
        """One sentence for each bound that does not hold; one on labelled pools holds without any."""
        pairs = [(measure, getattr(self, measure.field), getattr(bounds, measure.field)) for measure in MEASURES]
        return [
            f"{measure.words} is {value:.4f}{measure.unit}; expected {measure.limit(bound)}"
            for measure, value, bound in pairs
            if value is not None and not measure.holds(value, bound)
        ]


class Kept(Strict, frozen=True):
    """What a first look that keeps a share of each pool keeps of the documents that matter."""

    look: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    """share of each pool's documents, rounded up, that are the first look's best"""
    kept: float
    """mean share of the checkpoint's top 10 (of pools below 50 the best fifth) that is among them"""


class Pool(Strict, frozen=True):
    """One gate pool: a query, its documents and, where known, their graded relevance."""

    qid: str
    query: str
    documents: list[str]
    labels: list[int] | None = None


class CertifiedPool(Pool, frozen=True, kw_only=True):
    """A gate pool with its relevance logits, in the documents' order."""

    checkpoint: list[float]
    variants: dict[GraphFile, list[float]]
    """by variant file"""

    def __post_init__(self) -> None:
        columns = {"documents": self.documents, "labels": self.labels, "logits of the checkpoint": self.checkpoint}
        columns |= {f"logits of {file}": logits for file, logits in self.variants.items()}
        lengths = {name: len(column) for name, column in columns.items() if column is not None}
        if 0 in lengths.values() or len(set(lengths.values())) > 1:
            found = ", ".join(f"{length} {name}" for name, length in lengths.items())
            raise ValueError(f"pool {self.qid} has {found}; expected the same number of each, at least one")
        if not np.isfinite([*self.checkpoint, *(logit for logits in self.variants.values() for logit in logits)]).all():
            raise ValueError(f"pool {self.qid} has logits that are NaN or infinite")


class Search(Strict, frozen=True):
    """What `resift export --search` left in float32 in an int8 graph that the gate had refused, and how it found this."""

    float32: Annotated[list[str], msgspec.Meta(min_length=1)]
    """the products left, by the names of their weights in the checkpoint"""
    share: Annotated[float, msgspec.Meta(ge=0)]
    """their share of the operations per token"""
    most_share: Annotated[float, msgspec.Meta(ge=0, le=1)]
    evaluations: Positive
    """graphs ranked on the calibration pairs"""
    most_evaluations: Positive
    gates: Positive
    """graphs shown to the gate after the first was refused; the last passed"""
    before: Agreement
    """on the gate's pools, with every product in int8; the certificate's own agreement is that after the search"""

    def __post_init__(self) -> None:
        if len(set(self.float32)) < len(self.float32):
            raise ValueError("a search left the same product in float32 twice; expected distinct names")
        if self.share > self.most_share or self.evaluations > self.most_evaluations:
            raise ValueError(
                f"a search left {self.share} of the operations in float32 after {self.evaluations} evaluations; "
                f"expected at most {self.most_share} and {self.most_evaluations}"
            )

    def summary(self) -> str:
        """One line: what is in float32, and what it was before."""
        return (
            f"left in float32 by the search at export ({self.share:.1%} of the operations, {self.evaluations} evaluations): "
            f"{', '.join(self.float32)}; with every product in int8: {self.before.summary()}"
        )


class Certificate(Strict, frozen=True, omit_defaults=True):
    """certificate.json: what the gate measured at export, by variant file; anyone can recompute it."""

    bounds: Bounds
    agreement: dict[GraphFile, Agreement]
    """of the full graph's variants"""
    pools: list[CertifiedPool]
    search: dict[GraphFile, Search] = msgspec.field(default_factory=dict)
    """by the variant files that needed one"""
    first_looks: dict[GraphFile, list[Kept]] = msgspec.field(default_factory=dict)
    """of the variants of first-look graphs, for each of LOOKS"""
    reference: str = ""
    """what gave the checkpoint's logits, with its version; empty in certificates of exports that did not record it"""

    @classmethod
    def read(cls, artifact: Artifact) -> Certificate:
        """The artifact's certificate. Raises ArtifactError if it is invalid, or contradicts itself or the manifest."""
        name = f"{CERTIFICATE} of {artifact.folder}"
        certificate = decode(artifact.read(CERTIFICATE), cls, name)
        files = {variant.file for variant in artifact.manifest.full.variants}
        looks = {variant.file for graph in artifact.manifest.graphs if graph.role == "first-look" for variant in graph.variants}
        if not certificate.pools:
            raise ArtifactError(f"{name} holds no pools; expected those of the gate: export the artifact again")
        for found, expected, where in [
            (certificate.agreement.keys(), files, "agreement"),
            (certificate.first_looks.keys(), looks, "first_looks"),
            *((pool.variants.keys(), files | looks, f"pool {pool.qid}") for pool in certificate.pools),
        ]:
            if found != expected:
                raise ArtifactError(
                    f"{name} lists {', '.join(sorted(found)) or 'no variant'} in {where}, but the manifest lists "
                    f"{', '.join(sorted(expected)) or 'none'}: export the artifact again"
                )
        for file, stated in certificate.agreement.items():
            with np.errstate(over="ignore", invalid="ignore"):
                measured = certificate.measure([np.array(pool.variants[file]) for pool in certificate.pools])
            if not stated.is_close_to(measured):
                raise ArtifactError(
                    f"{name} states for {file}: {stated.summary()}; but its own logits give: {measured.summary()}. "
                    "Export the artifact again"
                )
        for file, claimed in certificate.first_looks.items():
            own = certificate.kept([np.array(pool.variants[file]) for pool in certificate.pools])
            if len(claimed) != len(own) or not all(map(_is_same_look, claimed, own)):
                raise ArtifactError(
                    f"{name} states for {file}: {look_summary(claimed)}; but its own logits give: {look_summary(own)}. "
                    "Export the artifact again"
                )
        for file, search in certificate.search.items():
            if file not in files or not search.before.violations(certificate.bounds):
                raise ArtifactError(
                    f"{name} holds a search for {file}; expected one only for a variant that the gate refused before: "
                    "export the artifact again"
                )
        return certificate

    def measure(self, found: Sequence[NDArray[np.floating]]) -> Agreement:
        """The agreement of relevance logits `found`, one array per pool, with the checkpoint's."""
        return measure(self.pools, [np.array(pool.checkpoint) for pool in self.pools], found)

    def kept(self, found: Sequence[NDArray[np.floating]]) -> list[Kept]:
        """What a first look keeps, by its relevance logits `found`, one array per pool."""
        return measure_first_look([np.array(pool.checkpoint) for pool in self.pools], found)


def check_reference(checkpoint: Sequence[NDArray[np.floating]]) -> None:
    """Raises ParityError unless the checkpoint's logits tell documents apart in enough pools for a meaningful comparison."""
    telling = sum(len(logits) > 1 and float(np.ptp(logits)) > ROUNDING * float(np.abs(logits).max()) for logits in checkpoint)
    if telling < LEAST_GATE_POOLS:
        raise ParityError(
            f"the checkpoint's logits differ within {telling} of {len(checkpoint)} pools; expected at least {LEAST_GATE_POOLS}: "
            "where all logits of a pool are equal there is no ranking to compare with"
        )


def refuse(agreement: Agreement, bounds: Bounds, what: str) -> None:
    """Raises ParityError that lists every bound `agreement` violates."""
    if violations := agreement.violations(bounds):
        raise ParityError(f"{what} does not rank like its checkpoint: {'; '.join(violations)}")


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


def measure_first_look(checkpoint: Sequence[NDArray[np.floating]], found: Sequence[NDArray[np.floating]]) -> list[Kept]:
    """What a first look with relevance logits `found` keeps of the checkpoint's best, pool by pool, for each of LOOKS."""
    pairs = list(zip(checkpoint, found, strict=True))
    return [Kept(look=look, kept=float(np.mean([kept_of(*pair, look) for pair in pairs]))) for look in LOOKS]


def kept_of(full: NDArray[np.floating], first: NDArray[np.floating], look: float) -> float:
    """Share of the best 10 by `full` (of n < 50, the best fifth) that are in the best share `look` by `first`, both rounded up."""
    size = min(TOP, -(-len(full) // BEST))
    best = set(np.argsort(-full, kind="stable")[:size].tolist())
    return len(best & set(np.argsort(-first, kind="stable")[: share_of(len(first), look)].tolist())) / size


def look_summary(kept: Sequence[Kept]) -> str:
    """One line for a log."""
    return ", ".join(f"{each.kept:.4f} of the best in the first {each.look:.0%}" for each in kept)


def refuse_first_look(kept: Sequence[Kept], what: str) -> None:
    """Raises ParityError if a first look keeps less than LEAST_KEPT in the largest of LOOKS."""
    if not kept[-1].kept >= LEAST_KEPT:
        raise ParityError(
            f"{what} is no first look for its model: its best {kept[-1].look:.0%} of a pool hold {kept[-1].kept:.4f} of the best "
            f"documents; expected at least {LEAST_KEPT}"
        )


def _is_same_look(first: Kept, second: Kept) -> bool:
    return first.look == second.look and math.isclose(first.kept, second.kept, abs_tol=ROUNDING)


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


def ndcg(labels: Sequence[int], scores: NDArray[np.floating], top: int = TOP, *, judged: Sequence[int] | None = None) -> float:
    """nDCG@top, gain = label and discount log2(rank + 1), like trec_eval's ndcg_cut; 0 without relevant documents.

    `judged`: all labels of the query, whose best order is the ideal (None: `labels`, those of the documents ranked).
    """
    gains = np.asarray(labels, np.float64)
    ideal = np.sort(np.asarray(labels if judged is None else judged, np.float64))[::-1]
    best = _discounted(ideal[:top])
    return _discounted(gains[np.argsort(-scores, kind="stable")][:top]) / best if best else 0.0


def _discounted(gains: NDArray[np.float64]) -> float:
    return float(gains @ (1 / np.log2(np.arange(2, len(gains) + 2))))


def _mean_ndcg(labels: Sequence[Sequence[int] | None], scores: Sequence[NDArray[np.floating]]) -> float | None:
    known = [ndcg(label, score) for label, score in zip(labels, scores, strict=True) if label is not None]
    return float(np.mean(known)) if known else None
