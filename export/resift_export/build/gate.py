"""gate: scores the gate's pools with the checkpoint and with each variant of the artifact, and names the bounds that do not hold.

The bounds themselves are judged in the engine, by `agreement.check_bounds` and `certificate.check_recall`, as `resift verify` does.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from resift.artifact.agreement import Bounds, check_bounds, check_reference, measure
from resift.artifact.certificate import Certificate, CertifiedPool, check_recall, measure_first_look
from resift.artifact.coverage import check_classes, check_generated, measure_classes
from resift.artifact.manifest import WEIGHTS_SUFFIX
from resift.encoding.artifact_tokenizer import open_tokenizer
from resift.errors import ExportError, ParityError
from resift.machine import instruction_sets
from resift.plans import FULL, Plan, Stage
from resift.reranker import Reranker
from resift.runtime.providers import PRECISIONS
from resift.settings import Settings
from resift_export.build.graph_files import unfrozen_file
from resift_export.memory import trim_heap
from resift_export.progress import no_report, track
from resift_export.recipe import VNNI_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Literal

    import numpy as np
    from numpy.typing import NDArray

    from resift.artifact.agreement import Pool
    from resift.artifact.folder import Artifact
    from resift.artifact.manifest import Graph, Manifest
    from resift.artifact.signature import Frozen
    from resift.artifact.variant import Variant
    from resift.settings import Provider
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.progress import Report
    from resift_export.recipe import Recipe

    Kind = Literal["ranking", "parts", "recall"]
    """What of a file is judged: its ranking of the gate, by which alone --search chooses; its parts, which are length classes and
    generated pairs; or what a first look keeps."""

FEWER = "--freeze auto, fewer layers, or "
"""Ways out of a frozen graph that is refused, before the last one."""
REHEARSED = "on the CPU, which computes in float32 what it has no float16 kernel for, with the batches and the padding of CUDA"
"""Where a variant for CUDA was measured, in the words of the certificate."""


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


def references_of(
    checkpoint: Checkpoint, pools: Sequence[Pool], report: Report = no_report, *, short_pools: Sequence[Pool] = ()
) -> list[NDArray[np.float32]]:
    """The checkpoint's relevance logits float32[documents] of the `pools` and then of the `short_pools`, computed by PyTorch.

    Raises ParityError if the checkpoint itself does not rank the `pools`, even in a forced export.
    """
    references = checkpoint.references([(pool.query, pool.documents) for pool in (*pools, *short_pools)], report)
    check_reference(references[: len(pools)])
    return references


def certify(  # noqa: PLR0913 - an artifact, what it is compared with, and how progress is reported
    artifact: Artifact,
    references: Sequence[NDArray[np.float32]],
    pools: Sequence[Pool],
    bounds: Bounds,
    report: Report = no_report,
    *,
    short_pools: Sequence[Pool] = (),
    look_references: Sequence[NDArray[np.float32]] = (),
    known: dict[ScoredBy, list[NDArray[np.float32]]] | None = None,
) -> Certificate:
    """The certificate of a written artifact: compares the files that users will run with the checkpoint's `references`.

    `references` are those of the `pools` and then of the `short_pools`, on which only the agreement by length class is measured.
    `look_references`: likewise those of a split first look's own checkpoint; empty: they are not known.
    `known`: logits of the first of all these pools by graphs that were measured before, which do not score them again; those that
    were not known are added to it.
    """
    known = {} if known is None else known
    logits_by_file: dict[str, list[NDArray[np.float32]]] = {}
    first_look_files, split_files = set(), dict[str, None]()
    all_pools = [*pools, *short_pools]
    for graph in artifact.manifest.graphs:
        for variant in graph.variants:
            if variant.file not in logits_by_file:
                key = scored_by(artifact.manifest, graph, variant)
                logits = known.setdefault(key, [])
                if rest := all_pools[len(logits) :]:
                    logits += score(artifact, graph, variant, rest, report)
                logits_by_file[variant.file] = logits[: len(all_pools)]
                if graph.role == "first-look":
                    first_look_files.add(variant.file)
                if graph.split is not None:
                    split_files[variant.file] = None
    tokenizer = open_tokenizer(artifact)
    tokens = [tokenizer.encode(pool.query, pool.documents).lengths for pool in all_pools]
    count, max_length = len(pools), artifact.manifest.pair.max_length
    full_logits = {file: logits for file, logits in logits_by_file.items() if file not in first_look_files}
    certified_pools = [
        CertifiedPool(
            qid=pool.qid,
            query=pool.query,
            documents=pool.documents,
            labels=pool.labels,
            checkpoint=_shortest(references[number]),
            variants={file: _shortest(logits[number]) for file, logits in logits_by_file.items()},
            tokens=tokens[number].tolist(),
        )
        for number, pool in enumerate(all_pools)
    ]
    rehearsed = {
        variant.file for graph in artifact.manifest.graphs for variant in graph.variants if rehearsed_by(variant) is not None
    }
    return Certificate(
        bounds=bounds,
        places=dict.fromkeys(sorted(rehearsed), REHEARSED),
        agreement={file: measure(pools, references[:count], logits[:count]) for file, logits in full_logits.items()},
        first_looks={
            file: measure_first_look(references[:count], logits[:count])
            for file, logits in logits_by_file.items()
            if file in first_look_files
        },
        pools=certified_pools[:count],
        short_pools=certified_pools[count:],
        classes={file: measure_classes(tokens, references, logits, max_length, bounds) for file, logits in full_logits.items()},
        look_references=[_shortest(logits) for logits in look_references],
        look_classes={
            file: measure_classes(tokens, look_references, logits_by_file[file], max_length, bounds)
            for file in (split_files if look_references else ())
        },
    )


class ScoredBy(NamedTuple):
    """What determines the logits of a variant on this machine."""

    digests: tuple[str, ...]
    """SHA-256 of its files and, for a split graph, of the full graph's, which scores queries that are too long for it"""
    frozen: tuple[Frozen | None, ...]
    """how each of these graphs reads"""
    precision: str


def scored_by(manifest: Manifest, graph: Graph, variant: Variant) -> ScoredBy:
    """What determines the logits of a variant of one of the manifest's graphs."""
    graphs, variants = [graph], [variant]
    if graph.split is not None:
        graphs, variants = [graph, manifest.full], [variant, *manifest.full.variants]
    files = [each for listed in variants for each in listed.graphs()]
    names = [name for each in files for name in (each.file, *each.weight_files(), f"{each.file}{WEIGHTS_SUFFIX}")]
    digests = tuple(manifest.files[name].sha256 for name in names if name in manifest.files)
    return ScoredBy(digests, tuple(each.frozen for each in graphs), variant.precision)


def _shortest(logits: NDArray[np.float32]) -> list[float]:
    """The logits as the shortest decimal numbers that are read as the same float32."""
    return [float(str(logit)) for logit in logits]


def score(artifact: Artifact, graph: Graph, variant: Variant, pools: Sequence[Pool], report: Report) -> list[NDArray[np.float32]]:
    """The relevance logits of one file for each pool, by the engine: of a split graph, of its two files."""
    settings, rehearsed = Settings(provider="cpu", precision=variant.precision), rehearsed_by(variant)
    single, plan = _with_single_variant(artifact, graph, variant.file)
    with Reranker(single, settings=settings, rehearsed=rehearsed) as reranker:
        # All pools are submitted at once, so that pairs of one length share a batch across pools.
        futures = [reranker.submit(pool.query, pool.documents, plan=plan) for pool in pools]
        logits = [future.result().logits for future in track(f"verify {variant.file}", futures, report)]
    trim_heap()
    return logits


def rehearsed_by(variant: Variant) -> Provider | None:
    """The provider that the CPU stands in for, with its batches and their padding, as it never runs the variant itself."""
    return None if variant.precision in PRECISIONS["cpu"] else "cuda"


def faults_of(
    certificate: Certificate, checkpoint: Checkpoint, student: Checkpoint | None, recipe: Recipe, *, is_kept: bool = False
) -> list[ParityError]:
    """The bounds that do not hold, of the full model's files and then of the first look's, each with the ways out of `ways_out`.

    `student`: the first look's checkpoint; None if it has none of its own, or one copied from another artifact. `is_kept`: whether
    the full graphs were copied from there.
    """
    bounds, look = certificate.bounds, "the copied first look" if student is None else student.id
    what = {file: f"{checkpoint.id} in {file}" for file in certificate.agreement}
    what |= {file: f"{look if file == unfrozen_file(file) else checkpoint.id} in {file}" for file in certificate.first_looks}
    checks: list[tuple[str, Kind, Callable[[], None]]] = [
        *((file, "ranking", partial(check_bounds, found, bounds, what[file])) for file, found in certificate.agreement.items()),
        *((file, "parts", partial(check_classes, found, bounds, what[file])) for file, found in certificate.classes.items()),
        *((file, "parts", partial(check_generated, found, bounds, what[file])) for file, found in certificate.generated.items()),
        *((file, "recall", partial(check_recall, recalls, what[file])) for file, recalls in certificate.first_looks.items()),
    ]
    faults = []
    for file, kind, check in checks:
        try:
            check()
        except ParityError as error:
            ways = ways_out(file, recipe, kind, is_kept=is_kept, has_student=student is not None)
            faults.append(ParityError(f"{error}. {ways}"))
    return faults


def ways_out(file: str, recipe: Recipe, kind: Kind, *, is_kept: bool, has_student: bool = False) -> str:
    """What an export whose `file` the gate refused can still try: the options that have not been used and can help this file.

    `kind`: what is refused. `is_kept`: whether graphs were copied. `has_student`: whether the first look was not.
    """
    ways = [] if file == unfrozen_file(file) else [f"{'' if recipe.freeze == 'auto' else FEWER}leave --freeze out"]
    if kind != "recall":
        ways += _full_ways_out(unfrozen_file(file), recipe, kind, is_kept=is_kept)
    elif not ways:
        ways = [
            "leave --first-look out, or train its student for longer" if has_student else "leave --keep out, or add --first-look"
        ]
    if recipe.gate is None:
        ways.append("--gate FILE judges by pools like yours")
    ways.append("--force writes it all the same" if recipe.search is None else "--force, without --search, writes it all the same")
    return f"Ways out (in Python, the arguments of Recipe, and of convert for the others): {'; '.join(ways)}"


def _full_ways_out(file: str, recipe: Recipe, kind: Kind, *, is_kept: bool) -> list[str]:
    """Those for a file of the full graph that is not frozen."""
    [variant] = {each.file: each for each in recipe.variants() if each.file == file}.values()
    anew = ["leave --keep out, so that the graphs are made anew"] if is_kept else []
    if variant.precision == "float16":
        return [*anew, "leave float16 out of --precision"]
    if variant.precision == "float32":
        return anew or (["--tracer optimum traces the graph in another way"] if recipe.tracer == "torch" else [])
    ways = [*anew, *(["leave --vnni out"] if file == VNNI_FILE else [])]
    ways.append("--precision float32 keeps the model exact, but larger and slower")
    if recipe.calibration is None and not is_kept:
        ways.append("--calibration FILE scales int8 by pairs like yours")
    if recipe.search is None and not is_kept and kind == "ranking":
        ways = ["--search leaves the products that lose most in float32", *ways]
    return ways


def _with_single_variant(artifact: Artifact, graph: Graph, file: str) -> tuple[Artifact, Plan]:
    """The artifact with only `file`'s variants of the graph, and the plan by which that file scores every pair.

    The graph is the only one and has the role full; but a split one stays beside the full graph, which scores calls whose query is
    too long for it.
    """
    alone = msgspec.structs.replace(graph, variants=[variant for variant in graph.variants if variant.file == file])
    if graph.split is None:
        alone = msgspec.structs.replace(alone, name=FULL, role="full")
    graphs = [alone] if graph.split is None else [artifact.manifest.full, alone]
    manifest = msgspec.structs.replace(artifact.manifest, graphs=graphs, plan=None, self_tests={})
    return replace(artifact, manifest=manifest), Plan([Stage(alone.name)])
