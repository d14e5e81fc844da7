"""Certificate: what the gate measured at export, recorded in the artifact; anyone can recompute it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np

from resift.artifact.agreement import ROUNDING, Agreement, Bounds, Pool, measure
from resift.artifact.manifest import CERTIFICATE, GraphFile, Positive, Strict, decode
from resift.artifact.plans import share_of
from resift.errors import ArtifactError, ParityError
from resift.metrics import TOP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from resift.artifact.folder import Artifact

LOOKS = (0.2, 0.3, 0.4, 0.5)
"""Shares of a pool for which a first look is certified: the best 10, 15, 20 and 25 of 50."""
BEST = 5
"""A first look is certified by the full ranking's top 10, of pools below 50 by the best 1/BEST."""
LEAST_KEPT = 0.8
"""Least share of those that a first look has among its best half; chance gives 0.5."""


class Kept(Strict, frozen=True):
    """What a first look that keeps a share of each pool keeps of the documents that matter."""

    look: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    """share of each pool's documents, rounded up, that are the first look's best"""
    kept: float
    """mean share of the checkpoint's top 10 (of pools below 50 the best fifth) that is among them"""


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
