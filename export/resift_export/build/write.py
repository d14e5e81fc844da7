"""write: the files of an artifact, including its card and manifest."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from resift.artifact.certificate import look_summary
from resift.artifact.folder import Artifact
from resift.artifact.manifest import CARD, CERTIFICATE, FORMAT, MANIFEST, TOKENIZER, FileEntry, Graph, Manifest, Model, Pair
from resift.errors import ExportError
from resift_export.build.first_look import file_of_look
from resift_export.graph.edit import oldest_onnxruntime
from resift_export.graph.weights import save, save_sharing

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


class Written(NamedTuple):
    """A graph in the artifact's folder."""

    files: dict[str, FileEntry]
    """its file, and that of its weights if it does not hold them itself"""
    oldest: str
    """version of onnxruntime that runs it, x.y.z"""
    lender: str | None = None
    """another graph's file that holds some of its weights"""


class FirstLook(NamedTuple):
    """The graph that decides who is read in full."""

    checkpoint: Checkpoint
    graphs: Mapping[str, Written]
    """by file"""
    operations: int
    """per token"""


def write_graphs(folder: Path, models: Mapping[str, ir.Model]) -> dict[str, Written]:
    """Writes the models, by file, into `folder`. Raises ExportError if it cannot."""
    try:
        return {file: _write_graph(folder / file, model) for file, model in models.items()}
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror}") from error


def write_looks(folder: Path, models: Mapping[str, ir.Model], graphs: Mapping[str, Written]) -> dict[str, Written]:
    """Writes a first look's models, by file, into `folder`, less the weights that its full `graphs` hold there already.

    Raises ExportError if it cannot.
    """
    lenders = {file_of_look(file): [*written.files][-1] for file, written in graphs.items()}
    try:
        return {file: _write_graph(folder / file, model, lenders[file]) for file, model in models.items()}
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror}") from error


def _write_graph(path: Path, model: ir.Model, lender: str | None = None) -> Written:
    """`lender`: a file there that may hold some of its weights."""
    oldest = oldest_onnxruntime(model)
    if lender is not None and save_sharing(model, path, path.with_name(lender)):
        return Written({path.name: _entry(path)}, oldest, lender)
    return Written({path.name: _entry(path) for path in save(model, path)}, oldest)


def _entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(size=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def write(  # noqa: PLR0913 - everything the artifact holds
    folder: Path,
    checkpoint: Checkpoint,
    recipe: Recipe,
    graphs: Mapping[str, Written],
    certificate: Certificate,
    *,
    operations: int,
    forced: bool,
    first_look: FirstLook | None = None,
    plan: str | None = None,
    kept: str | None = None,
) -> Artifact:
    """Writes every file of the artifact but its graphs into `folder`, its manifest last, and opens it.

    `graphs`: what `write_graphs` wrote, the recipe's variants by file. `operations`: operations per token, for the manifest.
    `plan`: as text, what serves calls with a top_k that name none. `kept`: the fingerprint of the artifact that `graphs` are of.
    """
    every = {**graphs, **(first_look.graphs if first_look else {})}
    attached = recipe.attached_files()
    about = attached.pop(CARD, b"").decode()
    contents = {
        TOKENIZER: checkpoint.tokenizer_json(),
        CERTIFICATE: msgspec.json.format(msgspec.json.encode(certificate), indent=1),
        CARD: card(checkpoint, recipe, certificate, about).encode(),
        **attached,
    }
    oldest = max((written.oldest for written in every.values()), key=lambda found: [int(part) for part in found.split(".")])
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
            _graph("full", checkpoint, operations, recipe.variants()),
            *([] if first_look is None else [_look(first_look, recipe)]),
        ],
        files={name: FileEntry(size=len(content), sha256=hashlib.sha256(content).hexdigest()) for name, content in contents.items()}
        | {name: entry for written in every.values() for name, entry in written.files.items()},
        recipe=recipe.record() | ({} if first_look is None else _record(first_look.checkpoint)) | ({"kept": kept} if kept else {}),
        forced=forced,
        versions={name: version(name) for name in LIBRARIES},
        onnxruntime=[oldest, NEWEST_ONNXRUNTIME],
        plan=plan,
    )
    contents[MANIFEST] = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    try:
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror}") from error
    return Artifact.open(folder)


def _graph(role: Role, checkpoint: Checkpoint, operations: int, variants: list[Variant]) -> Graph:
    return Graph(
        name=role,
        role=role,
        layers=checkpoint.layers,
        operations=operations,
        signature=checkpoint.signature,
        relevance=checkpoint.relevance,
        activation=checkpoint.activation,
        variants=variants,
    )


def _look(look: FirstLook, recipe: Recipe) -> Graph:
    files = [(variant, file_of_look(variant.file)) for variant in recipe.variants()]
    variants = [msgspec.structs.replace(variant, file=file, weights=look.graphs[file].lender) for variant, file in files]
    return _graph("first-look", look.checkpoint, look.operations, variants)


def _record(student: Checkpoint) -> dict[str, str | int | float | bool | list[str] | None]:
    """What the manifest records of the student among the choices of the export."""
    return {"first_look": student.id, "first_look_revision": student.revision}


def card(checkpoint: Checkpoint, recipe: Recipe, certificate: Certificate, about: str) -> str:
    """The model card: `about`, which describes the checkpoint, then how the artifact was made and what was measured."""
    columns = "| {0} | {1} | {2.overlap:.4f} | {2.tau:.4f} | {2.worst_tau:.4f} | {2.error:.2%} | {2.largest_error:.3f} | "
    rows = "\n".join(
        columns.format(file, _processors(recipe, file), found)
        + (f"{found.ndcg:.4f} ({found.checkpoint_ndcg:.4f}) |" if found.ndcg is not None else "no labels |")
        for file, found in certificate.agreement.items()
    )
    searched = "".join(f"\n{file}: {found.summary()}.\n" for file, found in certificate.search.items())
    looks = "".join(f"\n{file}, the first look of plans: {look_summary(kept)}.\n" for file, kept in certificate.first_looks.items())
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
        searched=searched + looks,
        bounds=certificate.bounds,
    )


def _processors(recipe: Recipe, file: str) -> str:
    """The processors that run a file, as the card names them."""
    needed = [" and ".join(variant.instruction_sets) for variant in recipe.variants() if variant.file == file]
    return " or ".join(needed) or "any"
