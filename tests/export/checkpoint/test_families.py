"""Every architecture, with one label and with two: its artifact computes the same logits as transformers."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
import transformers

from resift import Reranker, Settings
from resift.artifact.certificate import Certificate
from resift.artifact.folder import Artifact
from resift.metrics import kendall_tau
from tests.support import tiny

QUERY = "how do tides work"
# Documents of other lengths in the same pool: empty, short, longer, and cut at max length.
NEIGHBOURS = ["", "short", "a longer text of some words " * 4, "long " * 300]
DOCUMENTS = [*tiny.texts()[1:40:3], *NEIGHBOURS]
TOLERANCE = 1e-4
"""Between float32 logits of two libraries, which sum in different orders."""

every_family = pytest.mark.parametrize("family", tiny.FAMILIES)
QUICK = ("bert", "modernbert")
one_label_and_two = pytest.mark.parametrize(
    ("family", "labels"),
    [(family, 1) for family in tiny.FAMILIES]
    + [pytest.param(family, 2, marks=() if family == "bert" else pytest.mark.slow) for family in tiny.FAMILIES],
)


def answers(folder, documents, *, query=QUERY, change=lambda model, row: None) -> np.ndarray:
    """Logits [n, labels] computed only by transformers, one pair at a time, without padding and without this toolchain."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    accepted = inspect.signature(model.forward).parameters
    logits = []
    for document in documents:
        # Passed as lists: otherwise transformers treats an empty second text as missing.
        row = tokenizer([query], [document], truncation="only_second", max_length=tiny.MAX_LENGTH, return_tensors="pt")
        change(model, row)
        with torch.inference_mode():
            logits.append(model(**{name: tensor for name, tensor in row.items() if name in accepted}).logits[0].numpy())
    return np.array(logits)


def by_transformers(folder, documents, **options) -> np.ndarray:
    """The relevance by which documents are ranked: the single logit, or the log-odds of the second label."""
    logits = answers(folder, documents, **options)
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


@one_label_and_two
def test_float32_logits_are_those_of_transformers(family, labels, artifact_of, checkpoint_of):
    with Reranker.load(artifact_of(family, labels), settings=Settings(precision="float32")) as reranker:
        found = reranker.logits(QUERY, DOCUMENTS)
    reference = by_transformers(checkpoint_of(family, labels), DOCUMENTS)
    assert np.ptp(reference) > 0.5
    np.testing.assert_allclose(found, reference, rtol=0, atol=TOLERANCE)


@every_family
@pytest.mark.parametrize("query", ["", QUERY], ids=["empty", "query"])
def test_every_length_from_the_empty_pair_to_one_beyond_the_last_position(family, query, artifact_of, checkpoint_of):
    folder = checkpoint_of(family)
    documents = tiny.of_every_length(transformers.AutoTokenizer.from_pretrained(folder), query)
    with Reranker.load(artifact_of(family), settings=Settings(precision="float32")) as reranker:
        found = reranker.logits(query, documents)
        cut = {result.index: result.tokens_cut for result in reranker.rerank(query, documents)}
    np.testing.assert_allclose(found, by_transformers(folder, documents, query=query), rtol=0, atol=TOLERANCE)
    assert [cut[number] for number in range(len(documents))] == [0] * (len(documents) - 1) + [1]


@one_label_and_two
def test_int8_ranks_as_transformers_does(family, labels, artifact_of, checkpoint_of):
    with Reranker.load(artifact_of(family, labels), settings=Settings(precision="int8")) as reranker:
        found = reranker.logits(QUERY, DOCUMENTS)
    reference = by_transformers(checkpoint_of(family, labels), DOCUMENTS)
    errors = np.abs(found - reference)
    assert TOLERANCE < np.median(errors) < 0.02 * np.ptp(reference)
    assert errors.max() < 0.2 * np.ptp(reference)
    assert kendall_tau(found, reference) > 0.85


@one_label_and_two
def test_the_gate_compared_the_artifact_with_transformers(family, labels, artifact_of, checkpoint_of):
    opened = Artifact.open(artifact_of(family, labels))
    certificate = Certificate.read(opened)
    pool = certificate.pools[3]
    reference = by_transformers(checkpoint_of(family, labels), pool.documents, query=pool.query)
    np.testing.assert_allclose(pool.checkpoint, reference, rtol=0, atol=TOLERANCE)
    with Reranker.load(opened.folder, settings=Settings(precision="int8")) as reranker:
        found = reranker.logits(pool.query, pool.documents)
        assert np.array(pool.variants["model.int8.onnx"], np.float32).tolist() == found.tolist()
    assert not opened.manifest.forced


def without_segments(model, row) -> None:
    row["token_type_ids"].zero_()


def with_another_separator(model, row) -> None:
    """Replaces the last separator, which ends the document."""
    row["input_ids"][0, -1] = 7


def with_tokens_swapped(model, row) -> None:
    row["input_ids"][0, 1:-1] = row["input_ids"][0, 1:-1].flip(0)


def with_positions_shifted(model, row) -> None:
    """Shifts the table by one more position with every pair."""
    table = next(module for name, module in model.named_modules() if name.endswith("position_embeddings"))
    table.weight.data = table.weight.data.roll(1, 0)


READ_BY = {
    without_segments: ("bert", "electra", "albert"),
    with_another_separator: tiny.FAMILIES,
    with_tokens_swapped: tiny.FAMILIES,
    with_positions_shifted: [family for family in tiny.FAMILIES if family not in ("deberta-v2", "modernbert")],
}


@pytest.mark.parametrize(("change", "family"), [(change, family) for change, families in READ_BY.items() for family in families])
def test_a_mistake_in_the_inputs_would_show(family, change, checkpoint_of):
    # The tests above can fail: for inputs that are slightly wrong, these checkpoints' logits differ by far more than the tolerance.
    folder = checkpoint_of(family)
    changes = np.abs(by_transformers(folder, DOCUMENTS, change=change) - by_transformers(folder, DOCUMENTS))
    assert np.median(changes) > 100 * TOLERANCE


@pytest.mark.parametrize("family", tiny.quickly(*QUICK))
def test_one_label_of_two_alone_would_show(family, checkpoint_of):
    logits = answers(checkpoint_of(family, 2), DOCUMENTS)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], by_transformers(checkpoint_of(family), DOCUMENTS), atol=TOLERANCE)
    assert np.median(np.abs(logits[:, 0])) > 100 * TOLERANCE


@every_family
def test_int8_logits_do_not_depend_on_batch_mates(family, artifact_of):
    with Reranker.load(artifact_of(family)) as reranker:
        batched = reranker.logits(QUERY, DOCUMENTS)
        single = [reranker.logits(QUERY, [document])[0] for document in DOCUMENTS]
        doubled = reranker.logits(QUERY, [*DOCUMENTS, *reversed([f"{text} more" for text in DOCUMENTS])])
    assert batched.tolist() == single
    assert batched.tolist() == doubled[: len(DOCUMENTS)].tolist()
