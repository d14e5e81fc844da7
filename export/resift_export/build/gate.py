"""gate: scores the gate's pools with the checkpoint and with each variant of the artifact, and names the bounds that do not hold.

The bounds themselves are judged in the engine, by `agreement.check_bounds` and `certificate.check_recall`, as `resift verify` does.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from resift.artifact.agreement import Bounds, check_bounds, check_reference, measure
from resift.artifact.certificate import Certificate, CertifiedPool, check_recall, measure_first_look
from resift.errors import ExportError, ParityError
from resift.machine import instruction_sets
from resift.reranker import Reranker
from resift.settings import Settings
from resift_export.memory import trim_heap
from resift_export.progress import no_report, track

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
    """Raises ExportError if this machine cannot run, and therefore cannot certify, the file of one of the `variants`."""
    supported = instruction_sets()
    features = ", ".join(sorted(supported)) or "neither"
    runnable = {variant.file for variant in variants if supported.issuperset(variant.instruction_sets)}
    for variant in variants:
        if variant.file not in runnable:
            required = [" and ".join(other.instruction_sets) for other in variants if other.file == variant.file]
            raise ExportError(
                f"{variant.file} needs a processor with {' or '.join(required)}, but this one has {features}, so it cannot be "
                "verified here; export on a machine that has one of them, or leave out --vnni"
            )


def references_of(checkpoint: Checkpoint, pools: Sequence[Pool], report: Report = no_report) -> list[NDArray[np.float32]]:
    """The checkpoint's relevance logits float32[documents] of each pool, computed by PyTorch.

    Raises ParityError if the checkpoint itself does not rank, even in a forced export.
    """
    references = checkpoint.references([(pool.query, pool.documents) for pool in pools], report)
    check_reference(references)
    return references


def certify(
    artifact: Artifact,
    references: Sequence[NDArray[np.float32]],
    pools: Sequence[Pool],
    bounds: Bounds,
    report: Report = no_report,
) -> Certificate:
    """The certificate of a written artifact: compares the files that users will run with the checkpoint's `references`."""
    logits_by_file: dict[str, list[NDArray[np.float32]]] = {}
    first_look_files = set()
    for graph in artifact.manifest.graphs:
        for variant in graph.variants:
            if variant.file in logits_by_file:
                continue
            settings = Settings(provider="cpu", precision=variant.precision)
            with Reranker(_with_single_variant(artifact, graph, variant.file), settings=settings) as reranker:
                # All pools are submitted at once, so that pairs of one length share a batch across pools.
                futures = [reranker.submit(pool.query, pool.documents) for pool in pools]
                finished_futures = track(f"verify {variant.file}", futures, report)
                logits_by_file[variant.file] = [future.result().logits for future in finished_futures]
            trim_heap()
            if graph.role == "first-look":
                first_look_files.add(variant.file)
    return Certificate(
        bounds=bounds,
        agreement={
            file: measure(pools, references, logits) for file, logits in logits_by_file.items() if file not in first_look_files
        },
        first_looks={
            file: measure_first_look(references, logits) for file, logits in logits_by_file.items() if file in first_look_files
        },
        pools=[
            CertifiedPool(
                qid=pool.qid,
                query=pool.query,
                documents=pool.documents,
                labels=pool.labels,
                checkpoint=references[number].tolist(),
                variants={file: logits[number].tolist() for file, logits in logits_by_file.items()},
            )
            for number, pool in enumerate(pools)
        ],
    )


def faults_of(certificate: Certificate, checkpoint: Checkpoint, student: Checkpoint | None) -> list[ParityError]:
    """The bounds that do not hold, of the full model's files and then of the first look's; `student` is its checkpoint."""
    checks = [
        partial(check_bounds, agreement, certificate.bounds, f"{checkpoint.id} in {file}")
        for file, agreement in certificate.agreement.items()
    ]
    for file, recalls in certificate.first_looks.items():
        assert student is not None
        checks.append(partial(check_recall, recalls, f"{student.id} in {file}"))
    faults = []
    for check in checks:
        try:
            check()
        except ParityError as error:
            faults.append(error)
    return faults


def _with_single_variant(artifact: Artifact, graph: Graph, file: str) -> Artifact:
    """The artifact with `file`'s variants of the graph as its only graph, in the role full, so that this file runs."""
    variants = [variant for variant in graph.variants if variant.file == file]
    graph_alone = msgspec.structs.replace(graph, name="full", role="full", variants=variants)
    return replace(artifact, manifest=msgspec.structs.replace(artifact.manifest, graphs=[graph_alone], plan=None))
