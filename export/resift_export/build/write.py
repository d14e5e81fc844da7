"""write: the files of an artifact, including its card and manifest."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from resift.artifact.certificate import encode_certificate, look_summary
from resift.artifact.coverage import LEAST_PAIRS
from resift.artifact.folder import Artifact
from resift.artifact.manifest import (
    CARD,
    CERTIFICATE,
    FORMAT,
    MANIFEST,
    TOKENIZER,
    FileEntry,
    Graph,
    Manifest,
    Model,
    Pair,
    ShortGraph,
)
from resift.artifact.stable_pairs import self_tests
from resift.errors import ExportError
from resift.runtime.providers import versions
from resift_export.build.first_look import first_look_file
from resift_export.graph.edit import oldest_onnxruntime
from resift_export.graph.weights import save, save_with_shared_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from resift.artifact.certificate import Certificate
    from resift.artifact.coverage import ClassAgreement
    from resift.artifact.manifest import Role, Variant
    from resift_export.build.short import ShortModel
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.recipe import Recipe

MIN_SHARED_SHORT = 1024
"""Size in bytes of the smallest tensor that a graph for short pairs shares with the graph it was made from: all but a few."""
LIBRARIES = ("resift", "torch", "transformers", "tokenizers", "onnx", "onnxscript", "onnxruntime", "numpy")
NEWEST_ONNXRUNTIME = "1.32.0"
"""The newest version with which artifacts were tested."""


class GraphFiles(NamedTuple):
    """The files of a graph in the artifact's folder."""

    files: dict[str, FileEntry]
    """the graph's file, and the file of its weights if the graph's file does not hold them"""
    min_onnxruntime: str
    """oldest version of onnxruntime that runs the graph, x.y.z"""
    weights_file: str | None = None
    """another graph's file that holds some of its weights"""


class WrittenModel(NamedTuple):
    """A checkpoint whose graphs are in the artifact's folder: the full model or a first look."""

    checkpoint: Checkpoint
    graphs: Mapping[str, GraphFiles]
    """by file"""
    operations: int
    """per token"""
    reused_from: str | None = None
    """fingerprint of the artifact that the graphs were copied from"""
    short: Mapping[str, ShortGraph] = MappingProxyType({})
    """the graphs for short pairs, which are among the `graphs`, by the file of the variant that they belong to"""


class CopiedGraph(NamedTuple):
    """A first look that was copied from another artifact, without its checkpoint."""

    graph: Graph
    graphs: Mapping[str, GraphFiles]
    """by file"""
    record: Mapping[str, str | int | float | bool | list[str] | None]
    """what that artifact's manifest records of its export"""


def write_graphs(folder: Path, models: Mapping[str, ir.Model]) -> dict[str, GraphFiles]:
    """Writes the models, by file, into `folder`. Raises ExportError if they cannot be written."""
    try:
        return {file: _write_graph(folder / file, model) for file, model in models.items()}
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror}") from error


def write_first_look(folder: Path, models: Mapping[str, ir.Model], graphs: Mapping[str, GraphFiles]) -> dict[str, GraphFiles]:
    """Writes a first look's models, by file, into `folder`, without the weights that the full `graphs` already hold there.

    Raises ExportError if they cannot be written.
    """
    weights_files = {first_look_file(file): [*graph_files.files][-1] for file, graph_files in graphs.items()}
    try:
        return {file: _write_graph(folder / file, model, weights_files[file]) for file, model in models.items()}
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror}") from error


def short_file(file: str) -> str:
    """The file of the graph for short pairs that belongs to the variant `file`."""
    return f"{file.removesuffix('.onnx')}.short.onnx"


def with_short(folder: Path, full: WrittenModel, models: Mapping[str, ShortModel]) -> WrittenModel:
    """Writes the graphs for short pairs, by the file of their variant, into `folder`, and returns `full` with them.

    Raises ExportError if they cannot be written.
    """
    graphs, short = dict(full.graphs), dict(full.short)
    try:
        for file, (model, up_to) in models.items():
            path = folder / short_file(file)
            graphs[path.name] = written = _write_graph(path, model, [*graphs[file].files][-1], MIN_SHARED_SHORT)
            short[file] = ShortGraph(file=path.name, up_to=up_to, weights=written.weights_file)
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror}") from error
    return full._replace(graphs=graphs, short=short)


def _write_graph(path: Path, model: ir.Model, weights_file: str | None = None, min_shared: int | None = None) -> GraphFiles:
    """Writes one graph. `weights_file`: a file of the same folder that may hold weights of it, of at least `min_shared` bytes."""
    min_onnxruntime = oldest_onnxruntime(model)
    if weights_file is not None and save_with_shared_weights(model, path, path.with_name(weights_file), min_shared):
        return GraphFiles({path.name: _entry(path)}, min_onnxruntime, weights_file)
    return GraphFiles({path.name: _entry(path) for path in save(model, path)}, min_onnxruntime)


def _entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(size=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def write(  # noqa: PLR0913 - everything that the artifact holds
    folder: Path,
    recipe: Recipe,
    full: WrittenModel,
    certificate: Certificate,
    *,
    is_forced: bool,
    first_look: WrittenModel | CopiedGraph | None = None,
    plan: str | None = None,
) -> Artifact:
    """Writes every file of the artifact except its graphs into `folder`, its manifest last, and opens the artifact.

    `plan`: the plan, as text, of calls that have a top_k and name no plan.
    """
    checkpoint = full.checkpoint
    all_graphs = {**full.graphs, **(first_look.graphs if first_look else {})}
    attached = recipe.attached_files()
    about = attached.pop(CARD, b"").decode()
    contents = {
        TOKENIZER: checkpoint.tokenizer_json(),
        CERTIFICATE: encode_certificate(certificate),
        CARD: render_card(checkpoint, recipe, certificate, about, full.short).encode(),
        **attached,
    }
    min_onnxruntime = max(
        (graph_files.min_onnxruntime for graph_files in all_graphs.values()),
        key=lambda text: [int(part) for part in text.split(".")],
    )
    manifest = Manifest(
        format=FORMAT,
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
        graphs=[
            _graph("full", full, recipe.variants()),
            *([] if first_look is None else [_first_look_graph(first_look, recipe)]),
        ],
        files={name: FileEntry(size=len(content), sha256=hashlib.sha256(content).hexdigest()) for name, content in contents.items()}
        | {name: entry for graph_files in all_graphs.values() for name, entry in graph_files.files.items()},
        recipe=recipe.record()
        | ({} if first_look is None else dict(_first_look_record(first_look)))
        | ({"kept": full.reused_from} if full.reused_from else {}),
        forced=is_forced,
        versions=versions(*LIBRARIES),
        onnxruntime=[min_onnxruntime, NEWEST_ONNXRUNTIME],
        plan=plan,
        self_tests=self_tests(certificate, {file: short.up_to + 1 for file, short in full.short.items()}),
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
    variants = [msgspec.structs.replace(variant, short=model.short.get(variant.file)) for variant in variants]
    return Graph(
        name=role,
        role=role,
        layers=checkpoint.layers,
        operations=model.operations,
        signature=checkpoint.signature,
        relevance=checkpoint.relevance,
        activation=checkpoint.activation,
        variants=variants,
    )


def _first_look_graph(first_look: WrittenModel | CopiedGraph, recipe: Recipe) -> Graph:
    if isinstance(first_look, CopiedGraph):
        return first_look.graph
    files = [(variant, first_look_file(variant.file)) for variant in recipe.variants()]
    variants = [
        msgspec.structs.replace(variant, file=file, weights=first_look.graphs[file].weights_file) for variant, file in files
    ]
    return _graph("first-look", first_look, variants)


def _first_look_record(first_look: WrittenModel | CopiedGraph) -> Mapping[str, str | int | float | bool | list[str] | None]:
    """The choices of the export that the manifest records for the first look."""
    if isinstance(first_look, CopiedGraph):
        return first_look.record
    student = first_look.checkpoint
    return {"first_look": student.id, "first_look_revision": student.revision}


def render_card(
    checkpoint: Checkpoint, recipe: Recipe, certificate: Certificate, about: str, short: Mapping[str, ShortGraph]
) -> str:
    """The model card: `about`, which describes the checkpoint, then how the artifact was made and its measurements."""
    columns = "| {0} | {1} | {2.overlap:.4f} | {2.tau:.4f} | {2.worst_tau:.4f} | {2.error:.2%} | {2.largest_error:.3f} | "
    rows = "\n".join(
        columns.format(file, _processors(recipe, file), agreement)
        + (f"{agreement.ndcg:.4f} ({agreement.checkpoint_ndcg:.4f}) |" if agreement.ndcg is not None else "no labels |")
        for file, agreement in certificate.agreement.items()
    )
    search_notes = "".join(f"\n{file}: {record.summary()}.\n" for file, record in certificate.search.items())
    place_notes = "".join(f"\n{file} was measured {place}.\n" for file, place in certificate.places.items())
    first_look_notes = "".join(
        f"\n{file}, the first look of plans: {look_summary(recalls)}.\n" for file, recalls in certificate.first_looks.items()
    )
    template = (Path(str(files("resift_export"))) / "data" / "card.md").read_text()
    return template.format(
        about=about.strip() or f"# {checkpoint.id}\n\nThe licence and the training data are those of the checkpoint.",
        id=checkpoint.id,
        revision=checkpoint.revision or "a local folder, without revision",
        architecture=checkpoint.architecture,
        max_length=checkpoint.max_length,
        activation=checkpoint.activation,
        prompt=f", the prompt {checkpoint.prompt!r} before every query" if checkpoint.prompt else "",
        reference=certificate.reference,
        precisions=", ".join(recipe.precisions),
        tracer=recipe.tracer,
        pools=len(certificate.pools),
        rows=rows,
        searched=search_notes + first_look_notes + place_notes,
        scripts=_script_rows(certificate),
        classes="\n".join(_class_row(each, certificate) for each in next(iter(certificate.classes.values()), [])),
        class_files=" | ".join(certificate.classes),
        class_rule="---|" * len(certificate.classes),
        least=LEAST_PAIRS,
        short_pools=len(certificate.short_pools),
        short="".join(
            f"{graph.file} scores pairs of up to {graph.up_to} tokens in place of {file}.\n" for file, graph in short.items()
        ),
        bounds=certificate.bounds,
    )


def _class_row(of_first: ClassAgreement, certificate: Certificate) -> str:
    """The card's row for one length class, given that of the first variant."""
    at = next(iter(certificate.classes.values())).index(of_first)
    return f"| {of_first.up_to} | {' | '.join(classes[at].summary() for classes in certificate.classes.values())} |"


def _script_rows(certificate: Certificate) -> str:
    """The card's rows by script of the pair."""
    measured = [certificate.scripts(file) for file in certificate.agreement]
    names = next(iter(measured), {})
    return "\n".join(f"| {name} | {' | '.join(each[name].summary() for each in measured)} |" for name in names)


def _processors(recipe: Recipe, file: str) -> str:
    """The processors that can run a file, as the card names them."""
    if any(variant.is_masked for variant in recipe.variants() if variant.file == file):
        return "CUDA"
    names = [" and ".join(variant.instruction_sets) for variant in recipe.variants() if variant.file == file]
    return " or ".join(names) or "any"
