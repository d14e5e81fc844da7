"""write: the files of an artifact, including its card and manifest."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from resift.artifact.certificate import look_summary
from resift.artifact.folder import Artifact
from resift.artifact.manifest import CARD, CERTIFICATE, FORMAT, MANIFEST, TOKENIZER, FileEntry, Graph, Manifest, Model, Pair
from resift.errors import ExportError
from resift.runtime.providers import versions
from resift_export.build.first_look import first_look_file
from resift_export.graph.edit import oldest_onnxruntime
from resift_export.graph.weights import save, save_with_shared_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from resift.artifact.certificate import Certificate
    from resift.artifact.manifest import Role, Variant
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.recipe import Recipe

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


def _write_graph(path: Path, model: ir.Model, weights_file: str | None = None) -> GraphFiles:
    """Writes one graph. `weights_file`: a file of the same folder that may hold some of its weights."""
    min_onnxruntime = oldest_onnxruntime(model)
    if weights_file is not None and save_with_shared_weights(model, path, path.with_name(weights_file)):
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
    first_look: WrittenModel | None = None,
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
        CERTIFICATE: msgspec.json.format(msgspec.json.encode(certificate), indent=1),
        CARD: render_card(checkpoint, recipe, certificate, about).encode(),
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
        | ({} if first_look is None else _first_look_record(first_look.checkpoint))
        | ({"kept": full.reused_from} if full.reused_from else {}),
        forced=is_forced,
        versions=versions(*LIBRARIES),
        onnxruntime=[min_onnxruntime, NEWEST_ONNXRUNTIME],
        plan=plan,
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


def _first_look_graph(first_look: WrittenModel, recipe: Recipe) -> Graph:
    files = [(variant, first_look_file(variant.file)) for variant in recipe.variants()]
    variants = [
        msgspec.structs.replace(variant, file=file, weights=first_look.graphs[file].weights_file) for variant, file in files
    ]
    return _graph("first-look", first_look, variants)


def _first_look_record(student: Checkpoint) -> dict[str, str | int | float | bool | list[str] | None]:
    """The choices of the export that the manifest records for the student."""
    return {"first_look": student.id, "first_look_revision": student.revision}


def render_card(checkpoint: Checkpoint, recipe: Recipe, certificate: Certificate, about: str) -> str:
    """The model card: `about`, which describes the checkpoint, then how the artifact was made and its measurements."""
    columns = "| {0} | {1} | {2.overlap:.4f} | {2.tau:.4f} | {2.worst_tau:.4f} | {2.error:.2%} | {2.largest_error:.3f} | "
    rows = "\n".join(
        columns.format(file, _processors(recipe, file), agreement)
        + (f"{agreement.ndcg:.4f} ({agreement.checkpoint_ndcg:.4f}) |" if agreement.ndcg is not None else "no labels |")
        for file, agreement in certificate.agreement.items()
    )
    search_notes = "".join(f"\n{file}: {record.summary()}.\n" for file, record in certificate.search.items())
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
        searched=search_notes + first_look_notes,
        bounds=certificate.bounds,
    )


def _processors(recipe: Recipe, file: str) -> str:
    """The processors that can run a file, as the card names them."""
    names = [" and ".join(variant.instruction_sets) for variant in recipe.variants() if variant.file == file]
    return " or ".join(names) or "any"
