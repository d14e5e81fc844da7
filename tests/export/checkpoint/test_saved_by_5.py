"""Checkpoints as sentence-transformers 5 saves them, written by hand: artifacts score accordingly, also without the library."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import transformers

from resift import Reranker
from resift.artifact.folder import Artifact
from resift_export.convert import convert
from resift_export.recipe import Recipe
from tests.support import tiny

QUERY = "how do tides work"
DOCUMENTS = [*tiny.texts()[1:40:3], "", "short", "long " * 300]
TOLERANCE = 1e-4
PROMPT = "find what answers this question: "
SIGMOID, IDENTITY = "torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"
MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]
TRANSFORMER = {
    "transformer_task": "sequence-classification",
    "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
    "module_output_name": "scores",
}


def by_1(activation):
    """The entry that 5.1.2 adds to config.json; it writes no other file."""
    return {"config.json": {"sentence_transformers": {"activation_fn": activation, "version": "5.1.2"}}}


def by_7(activation, prompts, name):
    """The files that 5.7.0 writes; it adds nothing to config.json."""
    settings = {
        "__version__": {"pytorch": "2.13.0+cpu", "sentence_transformers": "5.7.0", "transformers": "5.24.0"},
        "activation_fn": activation,
        "default_prompt_name": name,
        "model_type": "CrossEncoder",
        "prompts": prompts,
    }
    return {"modules.json": MODULES, "config_sentence_transformers.json": settings, "sentence_bert_config.json": TRANSFORMER}


SAVED = {
    "5.1 identity": (by_1(IDENTITY), "identity", ""),
    "5.1 sigmoid": (by_1(SIGMOID), "sigmoid", ""),
    "5.7 sigmoid": (by_7(SIGMOID, {}, None), "sigmoid", ""),
    # config.json keeps the activation of 5.1, which no longer counts
    "5.1, then 5.7": ({**by_1(SIGMOID), **by_7(IDENTITY, {"search": PROMPT}, "search")}, "identity", PROMPT),
}


@pytest.fixture(params=SAVED)
def saved(request, checkpoint_of, tmp_path):
    """The folder of a checkpoint, the activation and the prompt."""
    files, activation, prompt = SAVED[request.param]
    folder = shutil.copytree(checkpoint_of("bert"), tmp_path / "saved")
    for name, content in files.items():
        before = json.loads((folder / name).read_text()) if name == "config.json" else {}
        (folder / name).write_text(json.dumps({**before, **content} if isinstance(content, dict) else content))
    return folder, activation, prompt


def by_hand(folder, prompt):
    """Logits computed only by transformers, one pair at a time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = []
    for document in DOCUMENTS:
        row = tokenizer([prompt + QUERY], [document], truncation="only_second", max_length=tiny.MAX_LENGTH, return_tensors="pt")
        with torch.inference_mode():
            found.append(model(**row).logits[0, 0].item())
    return np.array(found)


@pytest.mark.usefixtures("cheap")
def test_scores_have_the_saved_activation_and_prompt(saved, home, small_gate):
    folder, activation, prompt = saved
    opened = Artifact.open(convert(str(folder), home / "out", Recipe(precisions=("float32",), gate=small_gate)))
    assert opened.manifest.pair.prompt == prompt
    logits = by_hand(folder, prompt)
    expected = logits if activation == "identity" else 1 / (1 + np.exp(-logits))
    with Reranker.load(opened.folder) as reranker:
        np.testing.assert_allclose(reranker.score(QUERY, DOCUMENTS), expected, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(reranker.logits(QUERY, DOCUMENTS), logits, rtol=0, atol=TOLERANCE)


def test_the_prompt_and_the_activation_change_scores(checkpoint_of):
    """Without them the test above would fail."""
    plain, prompted = (by_hand(checkpoint_of("bert"), prompt) for prompt in ("", PROMPT))
    assert np.median(np.abs(prompted - plain)) > 100 * TOLERANCE
    assert np.abs(plain).max() > 1
