"""Checkpoints saved by sentence-transformers 6: their artifacts score like CrossEncoder.predict. Needs sentence-transformers 6."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
import torch

from resift import Reranker
from resift.artifact.agreement import Bounds
from resift.artifact.certificate import Certificate
from resift.artifact.folder import Artifact
from resift.cli.main import main
from resift.errors import ExportError, ExtraError
from resift.metrics import kendall_tau
from resift_export.checkpoint import load as checkpoint
from resift_export.convert import convert
from resift_export.graph.trace import trace_with_optimum
from resift_export.recipe import Recipe
from tests.support import modular, tiny
from tests.support.modular import PROMPT

pytest.importorskip("sentence_transformers", minversion="6")

QUERY = "how do tides work"
LIMIT = "long " * 300
"""Cut at max length."""
DOCUMENTS = [*tiny.texts()[1:40:3], "", "short", "a longer text of some words " * 4, LIMIT]
TOLERANCE = 1e-4
LOOSE = Bounds(worst_tau=0.75)
"""As in conftest.artifact_of: tiny models were not trained on relevance."""
FAMILY = {"ettin": "modernbert"}
FIRST_TOKEN = ("cls", "ettin")


@pytest.fixture(scope="module")
def saved(built, checkpoint_of):
    """saved(kind): the folder of a modular checkpoint; "plain": a classifier with another activation and a prompt."""

    def make(kind):
        if kind == "plain":
            source = checkpoint_of("bert")
            return built(
                "st-plain", lambda folder: modular.save_plain(folder, source, activation=torch.nn.Identity(), prompt=PROMPT)
            )
        source = checkpoint_of(FAMILY.get(kind, "bert"))
        return built(f"st-{kind}", lambda folder: modular.save_modular(folder, source, kind))

    return make


@pytest.fixture(scope="module")
def exported(built, saved, small_gate):
    """exported(kind): its artifact, with a float32 graph only."""

    def make(kind):
        recipe = Recipe(precisions=("float32",), gate=small_gate)
        return built(f"st-{kind}-artifact", lambda folder: convert(str(saved(kind)), folder, recipe))

    return make


def predicted(folder, query=QUERY, documents=DOCUMENTS, **options):
    """Scores float32[n] of CrossEncoder.predict; the end of the document is cut, as an artifact does."""
    pairs = [(query, document) for document in documents]
    return modular.encoder(folder).predict(
        pairs, show_progress_bar=False, processing_kwargs={"text": {"truncation": "only_second"}}, **options
    )


@pytest.mark.parametrize("kind", ["plain", "reversed", "ettin", "cls", "mean", "max", "last", "both"])
def test_scores_are_those_of_predict(kind, saved, exported):
    with Reranker.load(exported(kind)) as reranker:
        found = reranker.score(QUERY, DOCUMENTS)
        raw = reranker.logits(QUERY, DOCUMENTS)
    np.testing.assert_allclose(found, predicted(saved(kind)), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(raw, predicted(saved(kind), activation_fn=torch.nn.Identity()), rtol=0, atol=TOLERANCE)
    assert np.ptp(raw) > 0.1


@pytest.mark.parametrize("kind", ["plain", "reversed", "ettin", "cls", "mean", "max", "last", "both"])
@pytest.mark.parametrize("query", ["", QUERY], ids=["empty", "query"])
def test_every_length_from_the_empty_pair_to_one_beyond_the_last_position(kind, query, saved, exported):
    prompt = PROMPT if kind == "plain" else ""
    documents = tiny.of_every_length(modular.encoder(saved(kind)).tokenizer, f"{prompt}{query}")
    with Reranker.load(exported(kind)) as reranker:
        found = reranker.score(query, documents)
    np.testing.assert_allclose(found, predicted(saved(kind), query, documents), rtol=0, atol=TOLERANCE)


def test_a_module_after_the_classifier_reverses_the_order(saved, exported, checkpoint_of):
    with Reranker.load(exported("reversed")) as reranker:
        found = reranker.logits(QUERY, DOCUMENTS)
    before = checkpoint.load(str(checkpoint_of("bert"))).reference(QUERY, DOCUMENTS)
    np.testing.assert_allclose(found, 0.5 - 3 * before, rtol=0, atol=10 * TOLERANCE)
    assert kendall_tau(found, before) < -0.9


@pytest.mark.parametrize("kind", ["cls", "ettin"])
def test_modules_made_of_a_classifiers_own_weights_score_as_it_does(kind, saved, checkpoint_of):
    plain = checkpoint.load(str(checkpoint_of(FAMILY.get(kind, "bert"))))
    loaded = checkpoint.load(str(saved(kind)))
    np.testing.assert_allclose(loaded.reference(QUERY, DOCUMENTS), plain.reference(QUERY, DOCUMENTS), rtol=0, atol=TOLERANCE)


def test_the_last_layer_reads_one_token_where_the_pooling_does(exported, artifact_of):
    operations = {kind: Artifact.open(exported(kind)).manifest.full.operations for kind in ("cls", "mean", "ettin")}
    # Operations per token: the head, which reads one, is not among them.
    assert operations["cls"] == Artifact.open(artifact_of("bert")).manifest.full.operations
    assert operations["ettin"] == Artifact.open(artifact_of("modernbert")).manifest.full.operations
    assert operations["mean"] > operations["cls"]


@pytest.mark.parametrize("kind", ["ettin", "plain"])
def test_int8_is_certified_against_predict(kind, saved, home):
    opened = Artifact.open(convert(str(saved(kind)), home / "out", Recipe(bounds=LOOSE)))
    certificate = Certificate.read(opened)
    assert certificate.reference.startswith("CrossEncoder.predict of sentence-transformers 6")
    pool = certificate.pools[7]
    reference = predicted(saved(kind), pool.query, pool.documents, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(pool.checkpoint, reference, rtol=0, atol=TOLERANCE)
    with Reranker.load(opened.folder) as reranker:
        found = reranker.score(QUERY, DOCUMENTS)
    bound = certificate.agreement["model.int8.onnx"].largest_error
    assert np.abs(found - predicted(saved(kind))).max() < 2 * bound
    assert reranker.precision == "int8"


def test_the_activation_is_not_config_jsons(saved, tmp_path, small_gate):
    """config.json says sigmoid and config_sentence_transformers.json identity; the latter counts."""
    folder = shutil.copytree(saved("plain"), tmp_path / "two")
    config = json.loads((folder / "config.json").read_text())
    config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
    (folder / "config.json").write_text(json.dumps(config))
    assert checkpoint.load(str(folder)).activation == "identity"
    assert predicted(folder).min() < 0
    (folder / "modules.json").unlink()
    assert checkpoint.load(str(folder)).activation == "sigmoid"
    assert predicted(folder).min() > 0


def test_the_prompt_is_in_the_manifest_and_on_the_card(exported, capsys):
    opened = Artifact.open(exported("plain"))
    assert opened.manifest.pair.prompt == PROMPT
    assert f"the prompt {PROMPT!r} before every query" in (opened.folder / "README.md").read_text()
    assert main(["info", "--all", str(opened.folder)]) == 0
    assert f"prompt: {PROMPT}" in capsys.readouterr().out
    assert main(["verify", str(opened.folder)]) == 0
    assert "against CrossEncoder.predict of sentence-transformers 6" in capsys.readouterr().out


def test_the_prompt_changes_scores(saved):
    """Without it the tests above would fail."""
    changes = predicted(saved("plain")) - predicted(saved("plain"), prompt="")
    assert np.median(np.abs(changes)) > 100 * TOLERANCE


@pytest.mark.parametrize(("name", "prompt"), [("other", "x: "), ("", "")])
def test_another_prompt_or_none(saved, name, prompt):
    loaded = checkpoint.load(str(saved("plain")), prompt_name=name)
    assert loaded.prompt == prompt
    expected = predicted(saved("plain"), prompt=prompt, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(loaded.reference(QUERY, DOCUMENTS), expected, rtol=0, atol=TOLERANCE)


def test_a_query_too_long_counts_the_prompt(saved):
    loaded = checkpoint.load(str(saved("plain")))
    tokenizer = loaded.pair_tokenizer()
    prompt = len(loaded.tokenizer(PROMPT, add_special_tokens=False)["input_ids"])
    # 192 - 3 special tokens leave 189, of which a quarter, 47, is for the document.
    found = tokenizer.encode("a " * 300, ["a document"])
    assert found.query_tokens_cut == pytest.approx(300 + prompt - 142, abs=1)


def test_the_longest_pair_of_the_module_counts(saved, tmp_path):
    folder = shutil.copytree(saved("plain"), tmp_path / "shorter")
    settings = json.loads((folder / "sentence_bert_config.json").read_text())
    (folder / "sentence_bert_config.json").write_text(json.dumps({**settings, "max_seq_length": 40}))
    loaded = checkpoint.load(str(folder))
    assert loaded.max_length == loaded.encoder.max_seq_length == 40
    expected = predicted(folder, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(loaded.reference(QUERY, DOCUMENTS), expected, rtol=0, atol=TOLERANCE)
    assert not np.allclose(expected, predicted(saved("plain"), activation_fn=torch.nn.Identity()), atol=0.01)


def test_lower_case_of_the_module_counts(saved, tmp_path):
    folder = shutil.copytree(saved("plain"), tmp_path / "lower")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "NFC"}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    documents = ["TIDES RISE AND Fall", "tides rise and fall"]
    reference = checkpoint.load(str(folder)).reference(QUERY, documents)
    settings = json.loads((folder / "sentence_bert_config.json").read_text())
    (folder / "sentence_bert_config.json").write_text(json.dumps({**settings, "do_lower_case": True}))
    loaded = checkpoint.load(str(folder))
    lowered = loaded.reference(QUERY, documents)
    assert abs(reference[0] - reference[1]) > 0.01
    assert lowered[0] == pytest.approx(lowered[1], abs=TOLERANCE)
    np.testing.assert_allclose(lowered, predicted(folder, QUERY, documents, activation_fn=torch.nn.Identity()), atol=TOLERANCE)
    rows = loaded.pair_tokenizer().encode(QUERY, documents)
    assert rows.row(0)[0].tolist() == rows.row(1)[0].tolist()


def test_a_pooling_that_is_not_supported(saved):
    with pytest.raises(ExportError, match=r"has the mode weightedmean; expected cls, lasttoken, max, mean"):
        checkpoint.load(str(saved("weighted")))


def test_modules_without_a_score(saved, tmp_path):
    folder = shutil.copytree(saved("cls"), tmp_path / "headless")
    listed = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(listed[:-1]))
    with pytest.raises(ExportError, match="gives no scores; expected one whose module_output_name is scores"):
        checkpoint.load(str(folder))


def test_a_pickle_in_a_modules_folder(saved, tmp_path):
    folder = shutil.copytree(saved("cls"), tmp_path / "pickled")
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(ExportError, match=r"2_Dense has no safetensors weights \(found: config\.json, pytorch_model\.bin\)"):
        checkpoint.load(str(folder))


def test_an_embedding_model_is_refused(saved, tmp_path):
    folder = shutil.copytree(saved("cls"), tmp_path / "embeds")
    settings = json.loads((folder / "config_sentence_transformers.json").read_text())
    (folder / "config_sentence_transformers.json").write_text(json.dumps({**settings, "model_type": "SentenceTransformer"}))
    with pytest.raises(ExportError, match=r"lacks the weights classifier.* \(not an embedding model\)"):
        checkpoint.load(str(folder))


@pytest.mark.parametrize("installed", ["missing", "older"])
def test_without_sentence_transformers(saved, monkeypatch, installed):
    if installed == "missing":
        monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    else:
        monkeypatch.setattr("resift.evaluate.cross_encoder.version", lambda name: "5.4.1")
    plain = checkpoint.load(str(saved("plain")))
    assert plain.reference_name.startswith("transformers ")
    expected = predicted_elsewhere(saved("plain"))
    np.testing.assert_allclose(plain.reference(QUERY, DOCUMENTS), expected, rtol=0, atol=TOLERANCE)
    with pytest.raises(ExtraError, match=r"Transformer, Pooling, Dense, Dense.*pip install 'sentence-transformers>=6'"):
        checkpoint.load(str(saved("cls")))


def predicted_elsewhere(folder):
    """Logits computed only by transformers, with the prompt put before the query by hand."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = []
    for document in DOCUMENTS:
        row = tokenizer([PROMPT + QUERY], [document], truncation="only_second", max_length=tiny.MAX_LENGTH, return_tensors="pt")
        with torch.inference_mode():
            found.append(model(**row).logits[0, 0].item())
    return np.array(found)


def test_weights_are_in_memory_once(saved):
    for kind in ("plain", "cls"):
        loaded = checkpoint.load(str(saved(kind)))
        assert loaded.encoder[0].model is loaded.model


def test_optimum_would_trace_the_model_alone(saved):
    with pytest.raises(ExportError, match="without its other modules"):
        trace_with_optimum(checkpoint.load(str(saved("cls"))))
