"""A checkpoint in sentence-transformers, next to the same one as the toolchain runs it. Needs sentence-transformers 6."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from resift.errors import ExtraError, InputError
from resift.evaluate.systems import CheckpointSystem
from resift.pools.reading import CandidatePool

QUERY = "how do the tides of the sea work " * 10
"""More than half of the longest pair: cut first where the longer text is."""
DOCUMENTS = ["The pull of the moon raises the sea. " * 40, "Bread rises by yeast.", "Tides follow the moon and the sun."]
POOL = CandidatePool(QUERY, DOCUMENTS, "q")


@pytest.fixture
def installed():
    return pytest.importorskip("sentence_transformers", minversion="6")


def scored(checkpoint, pool=POOL):
    with checkpoint.open([pool]) as scorer:
        return scorer, scorer.score(pool)


@pytest.mark.parametrize("labels", [1, 2])
def test_logits_are_those_of_the_toolchain_and_only_the_document_is_cut(installed, checkpoint_of, labels):
    from resift_export.checkpoint import load as checkpoint

    folder = checkpoint_of("bert", labels)
    reference = checkpoint.load(str(folder))
    scorer, found = scored(CheckpointSystem(folder))
    assert found.keys == pytest.approx(reference.reference(QUERY, DOCUMENTS), abs=1e-4)
    assert (scorer.kind, scorer.precision, scorer.name) == ("checkpoint", "float32", f"{folder.name} PyTorch")
    encoder = installed.CrossEncoder(str(folder), device="cpu")
    outputs = encoder.predict([(QUERY, DOCUMENTS[0])], activation_fn=lambda logits: logits)[0]
    assert found.keys[0] != pytest.approx(outputs if labels == 1 else outputs[1] - outputs[0], abs=1e-3)


def test_scores_are_on_the_checkpoints_scale(installed, checkpoint_of):
    _, found = scored(CheckpointSystem(checkpoint_of("bert")))
    assert found.scores == pytest.approx(1 / (1 + np.exp(-found.keys)), abs=1e-6)


def test_a_shorter_limit(installed, checkpoint_of):
    pool, folder = CandidatePool("tides", DOCUMENTS, "q"), checkpoint_of("bert")
    first, second = (scored(CheckpointSystem(folder, max_length=limit), pool)[1].keys for limit in (None, 48))
    assert np.isclose(first, second, atol=1e-4).tolist() == [False, True, True]


def test_a_query_that_would_be_cut_is_refused_before_anything_is_scored(installed, checkpoint_of):
    with pytest.raises(InputError, match=r"query 'q' is \d+ tokens too long for the checkpoint"):
        scored(CheckpointSystem(checkpoint_of("bert")), CandidatePool(QUERY * 5, DOCUMENTS, "q"))


@pytest.mark.parametrize("broken", ["missing", "empty", "pickle"])
def test_what_cannot_be_loaded(installed, checkpoint_of, tmp_path, broken):
    folder = tmp_path / "checkpoint"
    if broken != "missing":
        folder.mkdir()
    if broken == "pickle":
        for path in checkpoint_of("bert").iterdir():
            (folder / path.name.replace("model.safetensors", "pytorch_model.bin")).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"cannot load the checkpoint .*expected a cross-encoder's folder with safetensors"):
        scored(CheckpointSystem(folder))


def test_without_sentence_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ExtraError, match="pip install 'sentence-transformers>=6'"):
        scored(CheckpointSystem("anything"))


def test_an_older_sentence_transformers(installed, monkeypatch):

    monkeypatch.setattr("resift.evaluate.cross_encoder.version", lambda name: "5.4.1")
    with pytest.raises(ExtraError, match=r"sentence-transformers is 5\.4\.1; expected 6 or newer"):
        scored(CheckpointSystem("anything"))
