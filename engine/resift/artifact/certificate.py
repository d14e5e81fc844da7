"""Certificate: what the gate measured at export, recorded in the artifact; anyone can recompute it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Self

import msgspec
import numpy as np

from resift.artifact.agreement import ROUNDING, Agreement, Bounds, Pool, measure
from resift.artifact.coverage import ClassAgreement, PartAgreement, measure_classes, measure_scripts, script_of
from resift.artifact.fields import GraphFile, Positive, Strict
from resift.artifact.manifest import CERTIFICATE, decode
from resift.artifact.resolved_plans import share_of
from resift.errors import ArtifactError, ParityError
from resift.metrics import TOP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from resift.artifact.folder import Artifact

LOOKS = (0.2, 0.3, 0.4, 0.5)
"""Shares of a pool for which the recall of a first look is certified: its best 10, 15, 20 and 25 of 50."""
BEST = 5
"""The recall is that of the full ranking's top 10, or of the best 1/BEST in pools below 50 documents."""
MIN_RECALL = 0.8
"""The minimum recall of a first look's best half; chance gives 0.5."""


class FirstLookRecall(Strict, frozen=True):
    """The recall of a first look that keeps a share of each pool."""

    look: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    """the share of each pool's documents that the first look keeps, rounded up"""
    kept: float
    """the recall: the mean share of the checkpoint's top 10 (in pools below 50, of its best fifth) that is among them"""


class CertifiedPool(Pool, frozen=True, kw_only=True):
    """A gate pool with its relevance logits, in the documents' order."""

    checkpoint: list[float]
    variants: dict[GraphFile, list[float]]
    """relevance logits, by variant file"""
    tokens: list[Positive] | None = None
    """tokens of each pair, special tokens included; None: the export did not record them"""
    scripts: list[str] | None = None
    """the script of each pair, where the texts are left out: then the query is empty and there are no documents"""

    def __post_init__(self) -> None:
        columns = {"documents": self.documents, "labels": self.labels, "logits of the checkpoint": self.checkpoint}
        columns |= {"lengths": self.tokens, "scripts": self.scripts}
        if not self.has_texts:
            del columns["documents"]
        columns |= {f"logits of {file}": logits for file, logits in self.variants.items()}
        lengths = {name: len(column) for name, column in columns.items() if column is not None}
        if 0 in lengths.values() or len(set(lengths.values())) > 1:
            counts = ", ".join(f"{length} {name}" for name, length in lengths.items())
            raise ValueError(f"pool {self.qid} has {counts}; expected the same number of each, at least one")
        if not np.isfinite([*self.checkpoint, *(logit for logits in self.variants.values() for logit in logits)]).all():
            raise ValueError(f"pool {self.qid} has logits that are NaN or infinite")

    @property
    def has_texts(self) -> bool:
        """Whether the pool has its texts; an export with --no-texts leaves them out."""
        return self.scripts is None or bool(self.documents)

    def pair_scripts(self) -> list[str]:
        """The script of each pair."""
        return self.scripts or [script_of(f"{self.query} {document}") for document in self.documents]

    def without_texts(self) -> Self:
        """The pool with the scripts of its pairs in place of its texts."""
        return msgspec.structs.replace(self, query="", documents=[], scripts=self.pair_scripts())


class SearchRecord(Strict, frozen=True):
    """Which products `resift export --search` kept in float32 in an int8 graph that the gate had refused, and the search's cost."""

    float32: Annotated[list[str], msgspec.Meta(min_length=1)]
    """the products in float32, by the names of their weights in the checkpoint"""
    share: Annotated[float, msgspec.Meta(ge=0)]
    """their share of the operations per token"""
    most_share: Annotated[float, msgspec.Meta(ge=0, le=1)]
    evaluations: Positive
    """graphs ranked on the calibration pairs"""
    most_evaluations: Positive
    gates: Positive
    """graphs that the gate tested after it had refused the first; the last one passed"""
    before: Agreement
    """the agreement on the gate's pools with every product in int8; the certificate's own agreement is that after the search"""

    def __post_init__(self) -> None:
        if len(set(self.float32)) < len(self.float32):
            raise ValueError("a search left the same product in float32 twice; expected distinct names")
        if self.share > self.most_share or self.evaluations > self.most_evaluations:
            raise ValueError(
                f"a search left {self.share} of the operations in float32 after {self.evaluations} evaluations; "
                f"expected at most {self.most_share} and {self.most_evaluations}"
            )

    def summary(self) -> str:
        """One line for a log: the products in float32, and the agreement without them."""
        return (
            f"left in float32 by the search at export ({self.share:.1%} of the operations, {self.evaluations} evaluations): "
            f"{', '.join(self.float32)}; with every product in int8: {self.before.summary()}"
        )


class Certificate(Strict, frozen=True, omit_defaults=True):
    """certificate.json: what the gate measured at export, by variant file; anyone can recompute it."""

    bounds: Bounds
    agreement: dict[GraphFile, Agreement]
    """the agreement of each of the full graph's variants"""
    pools: list[CertifiedPool]
    search: dict[GraphFile, SearchRecord] = msgspec.field(default_factory=dict)
    """the search of each variant that needed one"""
    first_looks: dict[GraphFile, list[FirstLookRecall]] = msgspec.field(default_factory=dict)
    """the recall of each variant of a first-look graph, for each of LOOKS"""
    reference: str = ""
    """the library that computed the checkpoint's logits, with its version; empty if the export did not record it"""
    short_pools: list[CertifiedPool] = msgspec.field(default_factory=list)
    """pools of short queries and documents, on which only the agreement by length class is measured"""
    classes: dict[GraphFile, list[ClassAgreement]] = msgspec.field(default_factory=dict)
    """the agreement of each of the full graph's variants by length class of the pair, on all pools; empty: not recorded"""
    generated: dict[GraphFile, PartAgreement] = msgspec.field(default_factory=dict)
    """the agreement of each of the full graph's int8 variants on generated pairs, which are not stored; empty: not recorded"""
    places: dict[GraphFile, str] = msgspec.field(default_factory=dict)
    """where each variant was measured that does not run on the processor of the export; others were measured where they run"""
    look_references: list[list[float]] = msgspec.field(default_factory=list)
    """the relevance logits of a split first look's own checkpoint, for each of all pools; empty: not recorded"""
    look_classes: dict[GraphFile, list[ClassAgreement]] = msgspec.field(default_factory=dict)
    """the agreement of each of a split first look's variants with these, by length class of the pair, on all pools"""

    @classmethod
    def read(cls, artifact: Artifact) -> Certificate:
        """The artifact's certificate. Raises ArtifactError if it is invalid, or contradicts itself or the manifest."""
        name = f"{CERTIFICATE} of {artifact.folder}"
        certificate = decode(artifact.read(CERTIFICATE), cls, name)
        files = {variant.file for variant in artifact.manifest.full.variants}
        first_looks = [graph for graph in artifact.manifest.graphs if graph.role == "first-look"]
        looks = {variant.file for graph in first_looks for variant in graph.variants}
        splits = {variant.file for graph in first_looks if graph.split is not None for variant in graph.variants}
        if not certificate.pools:
            raise ArtifactError(f"{name} holds no pools; expected those of the gate: export the artifact again")
        for listed, expected, where in [
            (certificate.agreement.keys(), files, "agreement"),
            (certificate.first_looks.keys(), looks, "first_looks"),
            *((pool.variants.keys(), files | looks, f"pool {pool.qid}") for pool in certificate.all_pools),
            (certificate.generated.keys() | files, files, "generated"),
            *([(certificate.look_classes.keys(), splits, "look_classes")] if certificate.look_classes else []),
            (certificate.places.keys() | files | looks, files | looks, "places"),
            *([(certificate.classes.keys(), files, "classes")] if certificate.has_classes else []),
        ]:
            if listed != expected:
                raise ArtifactError(
                    f"{name} lists {', '.join(sorted(listed)) or 'no variant'} in {where}, but the manifest lists "
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
        certificate.check_length_classes(name, artifact.manifest.pair.max_length)
        for file, claimed in certificate.first_looks.items():
            recalls = certificate.measure_first_look([np.array(pool.variants[file]) for pool in certificate.pools])
            if len(claimed) != len(recalls) or not all(map(_is_same_look, claimed, recalls)):
                raise ArtifactError(
                    f"{name} states for {file}: {look_summary(claimed)}; but its own logits give: {look_summary(recalls)}. "
                    "Export the artifact again"
                )
        for file, search in certificate.search.items():
            if file not in files or not search.before.violations(certificate.bounds):
                raise ArtifactError(
                    f"{name} holds a search for {file}; expected one only for a variant that the gate refused before: "
                    "export the artifact again"
                )
        return certificate

    def check_length_classes(self, name: str, max_length: int) -> None:
        """Raises ArtifactError unless the agreement by length class is that of the logits in the certificate."""
        if (self.has_classes or self.look_classes) and any(pool.tokens is None for pool in self.all_pools):
            raise ArtifactError(f"{name} holds pools without the lengths of their pairs; expected them for its classes")
        has_look = bool(self.look_references or self.look_classes)
        if has_look and [*map(len, self.look_references)] != [len(pool.checkpoint) for pool in self.all_pools]:
            raise ArtifactError(f"{name} holds other numbers of look_references than of pairs; expected one a pair")
        checks = [(*item, self.measure_classes) for item in self.classes.items()]
        for file, listed_classes, measure_again in [*checks, *((*item, self.measure_look) for item in self.look_classes.items())]:
            classes = measure_again([np.array(pool.variants[file]) for pool in self.all_pools], max_length)
            if len(classes) != len(listed_classes) or not all(map(ClassAgreement.is_close_to, listed_classes, classes)):
                raise ArtifactError(
                    f"{name} states for {file} another agreement by length than its own logits give: export the artifact again"
                )

    def measure(self, logits: Sequence[NDArray[np.floating]]) -> Agreement:
        """The agreement of relevance `logits`, one array per pool, with the checkpoint's."""
        return measure(self.pools, [np.array(pool.checkpoint) for pool in self.pools], logits)

    @property
    def all_pools(self) -> list[CertifiedPool]:
        """The gate's pools, and after them those of short pairs."""
        return [*self.pools, *self.short_pools]

    @property
    def has_classes(self) -> bool:
        """Whether the export recorded the agreement by length class. Artifacts of format 2 have none."""
        return bool(self.classes or self.short_pools)

    def measure_classes(self, logits: Sequence[NDArray[np.floating]], max_length: int) -> list[ClassAgreement]:
        """The agreement by length class of relevance `logits`, one array for each of `all_pools`."""
        checkpoint = [np.array(pool.checkpoint) for pool in self.all_pools]
        return measure_classes([np.array(pool.tokens) for pool in self.all_pools], checkpoint, logits, max_length, self.bounds)

    def measure_look(self, logits: Sequence[NDArray[np.floating]], max_length: int) -> list[ClassAgreement]:
        """The agreement with `look_references`, likewise, of a split first look's relevance `logits`."""
        references = [np.array(each) for each in self.look_references]
        return measure_classes([np.array(pool.tokens) for pool in self.all_pools], references, logits, max_length, self.bounds)

    def measure_scripts(self, logits: Sequence[NDArray[np.floating]]) -> dict[str, PartAgreement]:
        """The agreement by script of relevance `logits`, one array for each of `all_pools`."""
        checkpoint = [np.array(pool.checkpoint) for pool in self.all_pools]
        return measure_scripts([pool.pair_scripts() for pool in self.all_pools], checkpoint, logits, self.bounds)

    @property
    def span(self) -> float:
        """The range of the checkpoint's logits on all pairs."""
        return float(np.ptp([logit for pool in self.all_pools for logit in pool.checkpoint]))

    def scripts(self, file: str) -> dict[str, PartAgreement]:
        """The agreement by script of the full graph's variant `file`, as it was at export."""
        return self.measure_scripts([np.array(pool.variants[file]) for pool in self.all_pools])

    def without_texts(self) -> Self:
        """The certificate without the texts of the gate; those of the short pools are resift's own."""
        return msgspec.structs.replace(self, pools=[pool.without_texts() for pool in self.pools])

    def measure_first_look(self, logits: Sequence[NDArray[np.floating]]) -> list[FirstLookRecall]:
        """The recall of a first look, for each of LOOKS, from its relevance `logits`, one array per pool."""
        return measure_first_look([np.array(pool.checkpoint) for pool in self.pools], logits)


def encode_certificate(certificate: Certificate) -> bytes:
    """The content of certificate.json, in one line: with a number a line, it would be a fifth larger."""
    return msgspec.json.encode(certificate)


def measure_first_look(checkpoint: Sequence[NDArray[np.floating]], logits: Sequence[NDArray[np.floating]]) -> list[FirstLookRecall]:
    """The recall of a first look, for each of LOOKS, from its relevance `logits` and the checkpoint's, one array per pool each."""
    pairs = list(zip(checkpoint, logits, strict=True))
    return [FirstLookRecall(look=look, kept=float(np.mean([first_look_recall(*pair, look) for pair in pairs]))) for look in LOOKS]


def first_look_recall(full: NDArray[np.floating], first: NDArray[np.floating], look: float) -> float:
    """Share of the best 10 by `full` (of n < 50, the best fifth) that are in the best share `look` by `first`, both rounded up."""
    size = min(TOP, -(-len(full) // BEST))
    best = set(np.argsort(-full, kind="stable")[:size].tolist())
    return len(best & set(np.argsort(-first, kind="stable")[: share_of(len(first), look)].tolist())) / size


def look_summary(recalls: Sequence[FirstLookRecall]) -> str:
    """One line for a log."""
    return ", ".join(f"{recall.kept:.4f} of the best in the first {recall.look:.0%}" for recall in recalls)


def check_recall(recalls: Sequence[FirstLookRecall], what: str) -> None:
    """Raises ParityError if the recall of a first look is below MIN_RECALL for the largest of LOOKS."""
    largest = recalls[-1]
    if not largest.kept >= MIN_RECALL:
        raise ParityError(
            f"{what} is no first look for its model: its best {largest.look:.0%} of a pool hold {largest.kept:.4f} of the best "
            f"documents; expected at least {MIN_RECALL}"
        )


def _is_same_look(first: FirstLookRecall, second: FirstLookRecall) -> bool:
    return first.look == second.look and math.isclose(first.kept, second.kept, abs_tol=ROUNDING)
