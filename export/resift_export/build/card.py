"""card: the model card of an artifact."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from resift.artifact.certificate import look_summary
from resift.artifact.coverage import LEAST_PAIRS
from resift_export.build.graph_files import DOCUMENT_SUFFIX, FROZEN, packed_file, unfrozen_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from resift.artifact.certificate import Certificate
    from resift.artifact.coverage import ClassAgreement
    from resift.artifact.signature import Frozen, Split
    from resift.artifact.variant import ShortGraph
    from resift_export.build.graph_files import FrozenGraphs
    from resift_export.checkpoint.load import Checkpoint
    from resift_export.recipe import Recipe


def render_card(  # noqa: PLR0913 - everything that it tells of
    checkpoint: Checkpoint,
    recipe: Recipe,
    certificate: Certificate,
    about: str,
    short: Mapping[str, ShortGraph],
    *,
    frozen: FrozenGraphs | None = None,
    frozen_look: Frozen | None = None,
    split: Split | None = None,
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
    ) + ("" if frozen_look is None else f"\nIn the first look, {_frozen_layers(frozen_look)}.\n")
    first_look_notes += "".join(_look_note(file, classes) for file, classes in certificate.look_classes.items())
    if recipe.packed:
        place_notes += "".join(_packed_note(variant.file) for variant in recipe.variants() if variant.is_masked)
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
        )
        + ("" if frozen is None else _frozen_note(frozen))
        + ("" if split is None else _split_note(split)),
        bounds=certificate.bounds,
    )


def _packed_note(file: str) -> str:
    """What the card says of the packed graph of a masked variant."""
    return f"\n{packed_file(file)} computes no padding. A GPU runs it in place of {file}, if it computes the same there.\n"


def _frozen_note(frozen: FrozenGraphs) -> str:
    """What the card says of frozen graphs."""
    use = "in place of the graphs that they were made from" if frozen.is_full else f"in plans that name the graph {FROZEN}"
    return f"{' and '.join(frozen.graphs)} score pairs {use}: in these, {_frozen_layers(frozen.how)}.\n"


def _frozen_layers(how: Frozen) -> str:
    return f"the last {how.layers} layers no longer update the document of a pair of more than {how.whole_up_to} tokens"


def _split_note(split: Split) -> str:
    """What the card says of a split first look."""
    return (
        f"The first look is split after layer {split.layers}: the file `*{DOCUMENT_SUFFIX}` computes states of a document alone, "
        f"{split.size} bytes a token, and the other file reads them with a query of up to {split.query_tokens} tokens. Of a "
        f"document, the first {split.document_tokens} tokens are read.\n"
    )


def _look_note(file: str, classes: Sequence[ClassAgreement]) -> str:
    """How a split first look agrees with its own checkpoint, by length of the pair."""
    found = "; ".join(f"up to {each.up_to} tokens: {each.summary()}" for each in classes)
    return f"\n{file}, against its own checkpoint: {found}.\n"


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
    variants = [variant for variant in recipe.variants() if variant.file == unfrozen_file(file)]
    if any(variant.is_masked for variant in variants):
        return "CUDA"
    return " or ".join(" and ".join(variant.instruction_sets) for variant in variants) or "any"
