"""A checkpoint whose int8 graph errs on short pairs alone: the gate's long pools accept it, its short pools do not."""

from __future__ import annotations

import pytest

from resift import ParityError, Reranker
from resift.artifact.agreement import Bounds, check_bounds
from resift.artifact.certificate import Certificate
from resift.artifact.coverage import ClassAgreement, check_classes
from resift.artifact.folder import Artifact
from resift_export.build import export as pipeline
from resift_export.build.short import tokens_to_mend
from resift_export.convert import convert
from resift_export.graph.trace import TRACERS
from resift_export.recipe import Recipe

BOUNDS = Bounds(worst_tau=0.75)


@pytest.fixture(scope="module")
def fragile(source, tmp_path_factory):
    """A tiny BERT in which a token that only the short pools have, that of unknown words, is far outside the calibrated ranges."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("fragile") / "checkpoint"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    with torch.no_grad():
        row = model.bert.embeddings.word_embeddings.weight[tokenizer.unk_token_id]
        row.zero_()
        row[0] = 100.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_what_the_long_pools_accept_is_not_accepted_where_short_pairs_err(fragile, home):
    forced = Artifact.open(convert(fragile, home / "forced", Recipe(bounds=BOUNDS), force=True))
    certificate = Certificate.read(forced)
    check_bounds(certificate.agreement["model.int8.onnx"], BOUNDS, "the long pools")
    with pytest.raises(ParityError, match=r"does not score pairs of every length like its checkpoint: of up to \d+ tokens"):
        check_classes(certificate.classes["model.int8.onnx"], BOUNDS, "the short pools")
    assert forced.manifest.forced


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([0.01, 0.01, 0.01, 0.01, 0.01], None),
        ([0.06, 0.01, 0.01, 0.01, 0.01], 16),
        ([0.01, 0.06, 0.01, None, None], 16),
        ([0.06, None, 0.06, 0.01, 0.01], 32),
        ([None, None, None, 0.06, 0.01], 64),
        ([0.06, 0.01, 0.01, 0.01, 0.06], None),  # what fails at 128 tokens is refused, not mended
    ],
)
def test_a_graph_for_short_pairs_reads_up_to_the_longest_class_that_fails_and_16_tokens_at_least(errors, expected):
    classes = [ClassAgreement(up_to=8 << number, pairs=100, error=error) for number, error in enumerate(errors)]
    assert tokens_to_mend(classes, Bounds()) == expected


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("up_to", [pytest.param(None, marks=pytest.mark.slow), 16])
def test_a_kept_graph_is_traced_only_where_it_gets_one_for_short_pairs(source, artifact, home, monkeypatch, up_to):
    tracer, traced = TRACERS["torch"], []
    monkeypatch.setitem(TRACERS, "torch", lambda loaded: traced.append(loaded.id) or tracer(loaded))
    monkeypatch.setattr(pipeline, "tokens_to_mend", lambda classes, bounds: up_to)
    recipe = Recipe(precisions=("int8", "float32"), bounds=BOUNDS)
    later = Artifact.open(convert(source, home / "later", recipe, keep=str(artifact)))
    kept, int8 = Artifact.open(artifact).manifest, later.manifest.full.variants[0]
    assert len(traced) == (up_to is not None)
    assert (int8.short.up_to if int8.short else None) == up_to
    assert later.manifest.files[int8.file] == kept.files[int8.file]
    assert later.manifest.full.operations == kept.full.operations
    with Reranker.load(artifact) as before, Reranker.load(later.folder) as after:
        texts = ["short", "the moon pulls the sea " * 8]
        differences = before.logits("tides", texts) - after.logits("tides", texts)
    assert differences[1] == 0
    assert (differences[0] != 0) == (up_to is not None)
