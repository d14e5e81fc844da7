"""certify: scores the gate's pools with the checkpoint and with the artifact's own graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resift.parity import Bounds, Certificate, CertifiedPool, measure
from resift.reranker import Reranker
from resift.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift.artifact import Artifact
    from resift.parity import Pool
    from resift_export.checkpoint import Checkpoint


def certify(artifact: Artifact, checkpoint: Checkpoint, pools: Sequence[Pool], bounds: Bounds) -> Certificate:
    """The certificate of a written artifact: what users will run, against PyTorch in float32, pool by pool."""
    references = [checkpoint.reference(pool.query, pool.documents) for pool in pools]
    found = {}
    for variant in artifact.manifest.variants:
        with Reranker(artifact, settings=Settings(provider="cpu", precision=variant.precision)) as reranker:
            found[variant.precision] = [reranker.logits(pool.query, pool.documents) for pool in pools]
    return Certificate(
        bounds=bounds,
        agreement={precision: measure(pools, references, logits) for precision, logits in found.items()},
        pools=[
            CertifiedPool(
                qid=pool.qid,
                query=pool.query,
                documents=pool.documents,
                labels=pool.labels,
                checkpoint=references[number].tolist(),
                variants={precision: logits[number].tolist() for precision, logits in found.items()},
            )
            for number, pool in enumerate(pools)
        ],
    )
