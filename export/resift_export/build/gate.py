"""certify: scores the gate's pools with the checkpoint and with each variant of the artifact."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from resift.artifact.agreement import Bounds, check_reference, measure
from resift.artifact.certificate import Certificate, CertifiedPool, measure_first_look
from resift.errors import ExportError
from resift.machine import instruction_sets
from resift.reranker import Reranker
from resift.settings import Settings
from resift_export.memory import give_back
from resift_export.progress import reported, unreported

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from resift.artifact.agreement import Pool
    from resift.artifact.folder import Artifact
    from resift.artifact.manifest import Graph, Variant
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.progress import Report


def check_runnable(variants: Sequence[Variant]) -> None:
    """Raises ExportError if this machine cannot run, and therefore cannot certify, a file of `variants`."""
    here = instruction_sets()
    found = ", ".join(sorted(here)) or "neither"
    runnable = {variant.file for variant in variants if here.issuperset(variant.instruction_sets)}
    for variant in variants:
        if variant.file not in runnable:
            needed = [" and ".join(other.instruction_sets) for other in variants if other.file == variant.file]
            raise ExportError(
                f"{variant.file} needs a processor with {' or '.join(needed)}, but this one has {found}, so it cannot be "
                "verified here; export on a machine that has one of them, or leave out --vnni"
            )


def references_of(checkpoint: Checkpoint, pools: Sequence[Pool], report: Report = unreported) -> list[NDArray[np.float32]]:
    """The checkpoint's relevance logits float32[documents] of each pool, by PyTorch.

    Raises ParityError if the checkpoint itself does not rank, even when the export is forced.
    """
    references = checkpoint.references([(pool.query, pool.documents) for pool in pools], report)
    check_reference(references)
    return references


def certify(
    artifact: Artifact,
    references: Sequence[NDArray[np.float32]],
    pools: Sequence[Pool],
    bounds: Bounds,
    report: Report = unreported,
) -> Certificate:
    """The certificate of a written artifact: the files users will run, compared with the checkpoint's `references_of` the pools."""
    found: dict[str, list[NDArray[np.float32]]] = {}
    looks = set()
    for graph in artifact.manifest.graphs:
        for variant in graph.variants:
            if variant.file in found:
                continue
            settings = Settings(provider="cpu", precision=variant.precision)
            with Reranker(_only(artifact, graph, variant.file), settings=settings) as reranker:
                # All at once: pairs of one length share a batch, whichever pools they are from.
                answers = [reranker.submit(pool.query, pool.documents) for pool in pools]
                step = reported(f"verify {variant.file}", answers, report)
                found[variant.file] = [answer.result().logits for answer in step]
            give_back()
            if graph.role == "first-look":
                looks.add(variant.file)
    return Certificate(
        bounds=bounds,
        agreement={file: measure(pools, references, logits) for file, logits in found.items() if file not in looks},
        first_looks={file: measure_first_look(references, logits) for file, logits in found.items() if file in looks},
        pools=[
            CertifiedPool(
                qid=pool.qid,
                query=pool.query,
                documents=pool.documents,
                labels=pool.labels,
                checkpoint=references[number].tolist(),
                variants={file: logits[number].tolist() for file, logits in found.items()},
            )
            for number, pool in enumerate(pools)
        ],
    )


def _only(artifact: Artifact, graph: Graph, file: str) -> Artifact:
    """The artifact with only that file's variants of the graph, as its full graph, so that this file is what runs."""
    variants = [variant for variant in graph.variants if variant.file == file]
    only = msgspec.structs.replace(graph, name="full", role="full", variants=variants)
    return replace(artifact, manifest=msgspec.structs.replace(artifact.manifest, graphs=[only], plan=None))
