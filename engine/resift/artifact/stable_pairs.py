"""Stable pairs: the certified pairs by which a self-test tells whether a machine computes what the export measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resift.artifact.manifest import SelfTest, StablePair

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resift.artifact.certificate import Certificate

PAIRS = 8
LONGEST = 64
"""Tokens of the longest pair of a self-test, so that it takes some hundredths of a second; ..."""
CANDIDATES = 50
"""... but so many of the shortest pairs can be part of it, whatever their lengths."""
BOUND_SHARE = 0.02
"""The bound as a share of the checkpoint's range of logits. For the embedded model it is 0.43: onnxruntime 1.24
and 1.32 differ by up to 0.12, and ARM's kernels from x86's by up to 0.18."""


def self_tests(certificate: Certificate, shortest: Mapping[str, int]) -> dict[str, SelfTest]:
    """The self-test of each file in the certificate that has texts for one.

    int8 is noise, too: a pair is stable if the int8 logit is the checkpoint's. Each pair is the one with the smallest error among
    those of similar logits, so that the pairs span the range. `shortest`: tokens of the shortest pair that the file itself scores,
    where another graph scores shorter ones.
    """
    pools = [pool for pool in certificate.all_pools if pool.documents and pool.tokens]
    tests = {}
    for file in (*certificate.agreement, *certificate.first_looks):
        found = [
            (tokens, exact, logit, pool.query, document)
            for pool in pools
            for document, exact, logit, tokens in zip(
                pool.documents, pool.checkpoint, pool.variants[file], pool.tokens or [], strict=True
            )
            if tokens >= shortest.get(file, 1)
        ]
        found.sort(key=lambda pair: pair[0])
        found = [pair for rank, pair in enumerate(found) if rank < CANDIDATES or pair[0] <= LONGEST]
        if not found or certificate.span == 0:
            continue
        found.sort(key=lambda pair: pair[2])
        bins = np.array_split(np.arange(len(found)), min(PAIRS, len(found)))
        best = [min((found[at] for at in places), key=lambda pair: abs(pair[1] - pair[2])) for places in bins]
        pairs = [StablePair(query=query, document=document, logit=logit) for _, _, logit, query, document in best]
        tests[file] = SelfTest(bound=BOUND_SHARE * certificate.span, pairs=pairs)
    return tests
