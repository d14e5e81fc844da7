"""Every family's artifact computes here what it computed where it was exported, or is refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from resift import ProviderError, Reranker, Settings
from resift.artifact.certificate import Certificate
from resift.artifact.folder import Artifact
from resift.metrics import kendall_tau
from tests.support import tiny


@pytest.mark.parametrize(("precision", "error"), [("float32", 1e-3), ("int8", 0.1)])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_logits_are_those_of_the_certificate(family, precision, error, artifact_of):
    try:
        loaded = Reranker.load(artifact_of(family), settings=Settings(precision=precision))
    except ProviderError as older:
        assert "or newer: pip install -U onnxruntime" in str(older)
        pytest.skip(f"{family}: {older}")
    with loaded:
        for pool in Certificate.read(loaded.artifact).pools[::8]:
            found, recorded = loaded.logits(pool.query, pool.documents), np.array(pool.variants[loaded.variant.file])
            np.testing.assert_allclose(found, recorded, rtol=0, atol=error, err_msg=pool.query)
            assert kendall_tau(found, recorded) >= 0.95


def test_what_computed_otherwise_before_1_22_is_refused_there(artifact_of):
    assert Artifact.open(artifact_of("modernbert")).manifest.onnxruntime[0] == "1.22.0"
    assert Artifact.open(artifact_of("bert")).manifest.onnxruntime[0] == "1.20.0"
