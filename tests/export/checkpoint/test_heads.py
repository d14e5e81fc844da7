"""Heads other than those of one or two labels: several labels of which one means relevant, regression, half precision."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import transformers

from resift import Reranker
from resift.artifact.folder import Artifact
from resift.cli.main import main
from resift.errors import ExportError
from resift_export.checkpoint import load as checkpoint
from resift_export.convert import convert
from resift_export.recipe import Recipe
from tests.support import tiny

QUERY = "how do tides work"
DOCUMENTS = [*tiny.texts()[1:40:3], "", "short", "long " * 300]
TOLERANCE = 1e-4
NAMES = ["contradiction", "entailment", "neutral"]


@pytest.fixture(scope="module")
def three(built, checkpoint_of):
    """A tiny BERT with three labels; the logit of the second one equals that of the checkpoint with one label."""

    def make(folder):
        shutil.copytree(checkpoint_of("bert"), folder)
        one = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint_of("bert"))
        one.config.num_labels = 3
        one.config.id2label = dict(enumerate(NAMES))
        one.config.label2id = {name: number for number, name in enumerate(NAMES)}
        model = transformers.AutoModelForSequenceClassification.from_config(one.config)
        weights = one.state_dict()
        torch.manual_seed(3)
        for name in ("classifier.weight", "classifier.bias"):
            others = torch.randn(2, *weights[name].shape[1:]) * weights["classifier.weight"].std()
            weights[name] = torch.cat([others[:1], weights[name], others[1:]])
        model.load_state_dict(weights)
        model.save_pretrained(folder)

    return built("bert-3", make)


def logits_of(folder, documents=DOCUMENTS):
    """Logits float32[n, labels] computed only by transformers."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for document in documents:
        row = tokenizer([QUERY], [document], truncation="only_second", max_length=tiny.MAX_LENGTH, return_tensors="pt")
        with torch.inference_mode():
            found.append(model(**row).logits[0].numpy())
    return np.array(found)


def log_odds(logits, number):
    probabilities = np.exp(logits.astype(np.float64))
    selected = probabilities[:, number] / probabilities.sum(1)
    return np.log(selected / (1 - selected))


@pytest.mark.parametrize("label", [pytest.param("entailment", marks=pytest.mark.slow), "2"])
def test_the_log_odds_of_the_label_that_means_relevant_rank(three, home, small_gate, capsys, label):
    """Their sigmoid is the label's softmax probability."""
    command = ["export", str(three), str(home / "out"), "--precision", "float32", "--gate", str(small_gate)]
    assert main([*command, "--relevant-label", label]) == 0
    capsys.readouterr()
    opened = Artifact.open(home / "out")
    graph = opened.manifest.full
    assert (graph.signature.labels, graph.relevance, opened.manifest.recipe["relevant_label"]) == (1, "logit", label)
    with Reranker.load(opened.folder) as reranker:
        found = reranker.logits(QUERY, DOCUMENTS)
    number = NAMES.index(label) if label in NAMES else int(label)
    np.testing.assert_allclose(found, log_odds(logits_of(three), number), rtol=0, atol=TOLERANCE)
    assert np.ptp(found) > 0.5


@pytest.mark.parametrize("independent", [{"problem_type": "multi_label_classification"}, {"problem_type": "regression"}])
def test_a_label_that_excludes_no_other_ranks_by_its_own_logit(three, tmp_path, independent):
    folder = shutil.copytree(three, tmp_path / "independent")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **independent}))
    loaded = checkpoint.load(str(folder), relevant_label="neutral")
    np.testing.assert_allclose(loaded.reference(QUERY, DOCUMENTS), logits_of(three)[:, 2], rtol=0, atol=TOLERANCE)


def test_of_two_labels_the_first_can_be_the_relevant_one(checkpoint_of):
    folder = checkpoint_of("bert", 2)
    logits = logits_of(folder)
    second, first = (checkpoint.load(str(folder), relevant_label=label) for label in (None, "0"))
    np.testing.assert_allclose(second.reference(QUERY, DOCUMENTS), logits[:, 1] - logits[:, 0], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(first.reference(QUERY, DOCUMENTS), logits[:, 0] - logits[:, 1], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, r"has 3 labels \(contradiction, entailment, neutral\).*name the one that means relevant with --relevant-label"),
        ("relevant", r"has no label 'relevant'; expected one of contradiction, entailment, neutral, or its number from 0"),
        ("3", "has no label '3'"),
        ("-1", "has no label '-1'"),
        ("²", "has no label '²'"),
    ],
)
def test_a_label_that_is_not_there(three, label, message):
    with pytest.raises(ExportError, match=message):
        checkpoint.load(str(three), relevant_label=label)


def test_one_label_needs_no_choice(checkpoint_of):
    with pytest.raises(ExportError, match="has one label, by which it ranks; leave --relevant-label 0 out"):
        checkpoint.load(str(checkpoint_of("bert")), relevant_label="0")


def test_regression_is_one_label(checkpoint_of, tmp_path):
    folder = shutil.copytree(checkpoint_of("bert"), tmp_path / "regression")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "problem_type": "regression"}))
    loaded = checkpoint.load(str(folder))
    assert (loaded.activation, loaded.relevance) == ("sigmoid", "logit")
    np.testing.assert_allclose(loaded.reference(QUERY, DOCUMENTS), logits_of(folder)[:, 0], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("precision", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_half_precision_is_read_in_float32(checkpoint_of, home, tmp_path, small_gate, precision):
    folder = shutil.copytree(checkpoint_of("bert"), tmp_path / "half")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    model.to(precision).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(precision).removeprefix("torch.")
    loaded = checkpoint.load(str(folder))
    assert {tensor.dtype for tensor in loaded.model.parameters()} == {torch.float32}
    expected = logits_of(folder)[:, 0]
    np.testing.assert_allclose(loaded.reference(QUERY, DOCUMENTS), expected, rtol=0, atol=TOLERANCE)
    with Reranker.load(convert(str(folder), home / "out", Recipe(precisions=("float32",), gate=small_gate))) as reranker:
        np.testing.assert_allclose(reranker.logits(QUERY, DOCUMENTS), expected, rtol=0, atol=TOLERANCE)
