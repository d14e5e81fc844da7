"""write: the files of an artifact, its manifest last."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from resift.artifact.certificate import encode_certificate
from resift.artifact.folder import Artifact
from resift.artifact.manifest import (
    CARD,
    CERTIFICATE,
    MANIFEST,
    TOKENIZER,
    FileEntry,
    Graph,
    Manifest,
    Model,
    Pair,
    format_of,
)
from resift.artifact.stable_pairs import self_tests
from resift.artifact.variant import DocumentGraph
from resift.errors import ExportError
from resift.runtime.providers import versions
from resift_export.build.card import render_card
from resift_export.build.first_look import first_look_file
from resift_export.build.graph_files import FROZEN, CopiedGraph, document_file, frozen_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from resift.artifact.certificate import Certificate
    from resift.artifact.manifest import Role
    from resift.artifact.variant import Variant
    from resift_export.build.graph_files import FrozenGraphs, WrittenModel
    from resift_export.recipe import Recipe

LIBRARIES = ("resift", "torch", "transformers", "tokenizers", "onnx", "onnxscript", "onnxruntime", "numpy")
NEWEST_ONNXRUNTIME = "1.32.0"
"""The newest version with which artifacts were tested."""


def write(  # noqa: PLR0913 - everything that the artifact holds
    folder: Path,
    recipe: Recipe,
    full: WrittenModel,
    certificate: Certificate,
    *,
    is_forced: bool,
    first_look: WrittenModel | CopiedGraph | None = None,
    frozen: FrozenGraphs | None = None,
    verdicts: Sequence[str] = (),
    plan: str | None = None,
) -> Artifact:
    """Writes every file of the artifact except its graphs into `folder`, its manifest last, and opens the artifact.

    `verdicts`: what was found of frozen graphs, for the record. `plan`: the plan, as text, of calls that have a top_k and name no
    plan.
    """
    checkpoint = full.checkpoint
    all_graphs = {**full.graphs, **(first_look.graphs if first_look else {}), **(frozen.graphs if frozen else {})}
    split = None if first_look is None else first_look.split
    attached = recipe.attached_files()
    about = attached.pop(CARD, b"").decode()
    contents = {
        TOKENIZER: checkpoint.tokenizer_json(),
        CERTIFICATE: encode_certificate(certificate),
        CARD: render_card(
            checkpoint,
            recipe,
            certificate,
            about,
            full.short,
            frozen=frozen,
            frozen_look=first_look.frozen if first_look else None,
            split=split,
        ).encode(),
        **attached,
    }
    full_graph = _graph("full", full, recipe.variants())
    graphs = [
        full_graph if frozen is None or not frozen.is_full else _frozen_graph(full_graph, frozen),
        *([] if first_look is None else [_first_look_graph(first_look, recipe)]),
        *([] if frozen is None or frozen.is_full else [_frozen_graph(full_graph, frozen)]),
    ]
    min_onnxruntime = max(
        (graph_files.min_onnxruntime for graph_files in all_graphs.values()),
        key=lambda text: [int(part) for part in text.split(".")],
    )
    manifest = Manifest(
        format=format_of(graphs),
        model=Model(
            id=checkpoint.id,
            revision=checkpoint.revision,
            architecture=checkpoint.architecture,
        ),
        pair=Pair(
            template=checkpoint.pair_tokenizer().template(),
            vocabulary=checkpoint.vocabulary,
            max_length=checkpoint.max_length,
            prompt=checkpoint.prompt,
        ),
        graphs=graphs,
        files={name: FileEntry(size=len(content), sha256=hashlib.sha256(content).hexdigest()) for name, content in contents.items()}
        | {name: entry for graph_files in all_graphs.values() for name, entry in graph_files.files.items()},
        recipe=recipe.record()
        | ({} if first_look is None else dict(_first_look_record(first_look)))
        | ({"freeze_verdicts": [*verdicts]} if verdicts else {})
        | ({"kept": full.reused_from} if full.reused_from else {}),
        forced=is_forced,
        versions=versions(*LIBRARIES),
        onnxruntime=[min_onnxruntime, NEWEST_ONNXRUNTIME],
        plan=plan,
        self_tests=self_tests(certificate, shortest_tested(graphs)),
    )
    contents[MANIFEST] = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    try:
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror}") from error
    return Artifact.open(folder)


def _graph(role: Role, model: WrittenModel, variants: list[Variant]) -> Graph:
    checkpoint = model.checkpoint
    variants = [
        msgspec.structs.replace(variant, short=model.short.get(variant.file), packed=model.packed.get(variant.file))
        for variant in variants
    ]
    return Graph(
        name=role,
        role=role,
        layers=checkpoint.layers,
        operations=model.operations,
        signature=checkpoint.signature if model.frozen is None else checkpoint.signature.frozen(),
        relevance=checkpoint.relevance,
        activation=checkpoint.activation,
        variants=variants,
        frozen=model.frozen,
        split=model.split,
    )


def _frozen_graph(full: Graph, frozen: FrozenGraphs) -> Graph:
    """The manifest's record of the frozen graphs of `full`."""
    variants = [
        msgspec.structs.replace(
            variant,
            file=frozen_file(variant.file),
            weights=frozen.graphs[frozen_file(variant.file)].weights,
            short=variant.short if frozen.is_full else None,
        )
        for variant in full.variants
    ]
    graph = msgspec.structs.replace(
        full, operations=frozen.operations, signature=full.signature.frozen(), variants=variants, frozen=frozen.how
    )
    return graph if frozen.is_full else msgspec.structs.replace(graph, name=FROZEN, role="first-look")


def shortest_tested(graphs: Sequence[Graph]) -> dict[str, int]:
    """Tokens of the shortest pairs by which each file is tested: shorter ones another file scores, or it does not freeze them."""
    return {
        variant.file: 1 + max(variant.short.up_to if variant.short else 0, graph.frozen.whole_up_to if graph.frozen else 0)
        for graph in graphs
        for variant in graph.variants
    }


def _first_look_graph(first_look: WrittenModel | CopiedGraph, recipe: Recipe) -> Graph:
    if isinstance(first_look, CopiedGraph):
        return first_look.graph
    variants = []
    for variant in recipe.variants():
        file = first_look_file(variant.file)
        document = None
        if first_look.split is not None:
            document = DocumentGraph(file=document_file(file), weights=first_look.graphs[document_file(file)].weights)
        weights = first_look.graphs[file].weights
        variants.append(msgspec.structs.replace(variant, file=file, weights=weights, document=document))
    return _graph("first-look", first_look, variants)


def _first_look_record(first_look: WrittenModel | CopiedGraph) -> Mapping[str, str | int | float | bool | list[str] | None]:
    """The choices of the export that the manifest records for the first look."""
    if isinstance(first_look, CopiedGraph):
        return first_look.record
    student = first_look.checkpoint
    return {"first_look": student.id, "first_look_revision": student.revision}
