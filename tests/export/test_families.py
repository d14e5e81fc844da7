"""Every architecture: trace, optimize, quantize, and rank as PyTorch does."""

from __future__ import annotations

import numpy as np
import pytest

import tiny
from resift import Reranker, Settings
from resift.artifact import Artifact
from resift.parity import Certificate, logits_of
from resift_export import checkpoint

# Hypothetical neighbours of one pair: short, long, cut at max length, and its twin.
NEIGHBOURS = ["", "short", "a longer text of some words " * 4, "long " * 300]

pytestmark = pytest.mark.parametrize("family", tiny.FAMILIES)


def test_float32_logits_are_those_of_pytorch(family, artifact_of, checkpoint_of):
    loaded = checkpoint.load(str(checkpoint_of(family)))
    documents = [*tiny.texts()[1:40:3], *NEIGHBOURS]
    with Reranker.load(artifact_of(family), settings=Settings(precision="float32")) as reranker:
        found = logits_of(reranker, "how do tides work", documents)
    reference = loaded.reference("how do tides work", documents)
    assert np.ptp(reference) > 0.5
    np.testing.assert_allclose(found, reference, rtol=0, atol=2e-5)


def test_int8_passes_the_gate(family, artifact_of):
    # artifact_of did not force it, so the gate has held; what it saw is what the certificate says.
    opened = Artifact.open(artifact_of(family))
    certificate = Certificate.read(opened)
    assert not opened.manifest.forced
    assert certificate.agreement["model.int8.onnx"].violations(certificate.bounds) == []
    assert certificate.agreement["model.int8.onnx"].largest_error > 0


def test_int8_logits_do_not_depend_on_batch_mates(family, artifact_of):
    query, documents = "how do tides work", [*tiny.texts()[1:40:3], *NEIGHBOURS]
    with Reranker.load(artifact_of(family)) as reranker:
        together = logits_of(reranker, query, documents)
        alone = [logits_of(reranker, query, [document])[0] for document in documents]
        doubled = logits_of(reranker, query, [*documents, *reversed([f"{text} more" for text in documents])])
    assert together.tolist() == alone
    assert together.tolist() == doubled[: len(documents)].tolist()
