"""generated: compares the int8 files with the checkpoint on pairs that no gate lists."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec

from resift.artifact.coverage import largest_difference, measure_generated
from resift.encoding.generated_pairs import generated_pools, words_of
from resift_export.build.gate import score
from resift_export.progress import no_report

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from resift.artifact.agreement import Pool
    from resift.artifact.certificate import Certificate
    from resift.artifact.folder import Artifact
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.progress import Report

GENERATED_PAIRS = 1000
"""The most generated pairs."""
GENERATED_SHARE = 0.1
"""The share of the gate's tokens that they have at most: as both are scored by the same graphs, at most as often, they take less
than a tenth of an export's time."""

log = logging.getLogger(__name__)


class GeneratedPairs(NamedTuple):
    """Generated pools, with the checkpoint's relevance logits."""

    pools: Sequence[Pool]
    references: Sequence[NDArray[np.float32]]

    @classmethod
    def of(cls, checkpoint: Checkpoint, gate: Sequence[Pool], report: Report = no_report) -> Self:
        """Pools of GENERATED_PAIRS pairs, or of as many as have GENERATED_SHARE of the tokens of the pools of the `gate`."""
        tokenizer = checkpoint.pair_tokenizer()
        tokens = sum(int(tokenizer.encode(pool.query, pool.documents).lengths.sum()) for pool in gate)
        limit = int(GENERATED_SHARE * tokens)
        pools = generated_pools(words_of(gate), tokenizer, checkpoint.max_length, GENERATED_PAIRS, tokens=limit)
        log.info("reference %d generated pools", len(pools))
        return cls(pools, checkpoint.references([(pool.query, pool.documents) for pool in pools], _named(report)))

    def compare(self, artifact: Artifact, certificate: Certificate, report: Report = no_report) -> Certificate:
        """The certificate with the agreement of the full graph's int8 files on the pairs."""
        log.info("verify    on %d generated pools", len(self.pools))
        generated, full = {}, artifact.manifest.full
        for variant in {each.file: each for each in full.variants if each.precision == "int8"}.values():
            logits = score(artifact, full, variant, self.pools, _named(report))
            generated[variant.file] = measure_generated(self.references, logits, certificate.span, certificate.bounds)
            log.info("          %s: %s", variant.file, generated[variant.file].summary())
            log.info("          most on %s", largest_difference(self.pools, self.references, logits))
        return msgspec.structs.replace(certificate, generated=generated)


def _named(report: Report) -> Report:
    """The report, whose steps say that they are on generated pairs."""

    def report_generated(step: str, done: int, total: int) -> None:
        report(f"{step} on generated pairs", done, total)

    return report_generated
