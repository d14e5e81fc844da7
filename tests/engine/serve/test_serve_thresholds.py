"""Probabilities and thresholds in the answers of a server whose settings are calibrated."""

from __future__ import annotations

import numpy as np
import pytest

from resift import Reranker, Settings
from resift.calibration import ScoreCalibration
from resift.scoring import logit_identity
from tests.support import tiny

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from tests.support.serving import serving

QUERY, DOCUMENTS = "how do tides work", tiny.texts()[1:12:2]
COHERE = {"query": QUERY, "documents": DOCUMENTS}
FORMATS = {
    "/v2/rerank": (COHERE, "results"),
    "/v1/rerank": (COHERE, "results"),
    "/v1/rerank?": (COHERE | {"truncation": True}, "data"),
    "/rerank": ({"query": QUERY, "texts": DOCUMENTS}, None),
}
FORMAT = pytest.mark.parametrize("path", FORMATS)


def rows(reply, field):
    assert reply.status_code == 200
    return reply.json() if field is None else reply.json()[field]


@pytest.fixture(scope="module")
def calibrated(artifact, reranker):
    """One to which the middle of the documents' logits is as good as none."""
    middle = float(np.median(reranker.logits(QUERY, DOCUMENTS)))
    identity = logit_identity(reranker.artifact, reranker.resolved)
    calibration = ScoreCalibration(method="platt", slope=1.0, intercept=-middle, **identity)
    with Reranker.load(artifact, settings=Settings(calibration=calibration)) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def served(calibrated):
    with serving({"tiny": calibrated}) as running:
        yield running


@FORMAT
def test_each_result_has_its_probability(served, calibrated, path):
    body, field = FORMATS[path]
    found = [(row["index"], row["probability"]) for row in rows(served.post(path, body), field)]
    assert found == [(result.index, result.probability) for result in calibrated.rerank(QUERY, DOCUMENTS)]
    assert found[0][1] > 0.5 > found[-1][1]


@FORMAT
def test_only_documents_that_reach_the_threshold_are_returned(served, calibrated, path):
    body, field = FORMATS[path]
    everything = [result.index for result in calibrated.rerank(QUERY, DOCUMENTS)]
    half = [result.index for result in calibrated.rerank(QUERY, DOCUMENTS, threshold=0.5)]
    assert 0 < len(half) < len(everything)
    for threshold, expected in ((0, everything), (0.5, half), (1, []), (None, everything)):
        assert [row["index"] for row in rows(served.post(path, body | {"threshold": threshold}), field)] == expected
    limit = {"top_k": 1} if field == "data" else {"top_n": 1}
    assert [row["index"] for row in rows(served.post(path, body | {"threshold": 0.5} | limit), field)] == half[:1]


@FORMAT
@pytest.mark.parametrize("threshold", [-0.1, 1.1, "much", [0.5]])
def test_what_is_no_probability_is_refused(served, path, threshold):
    body, _ = FORMATS[path]
    reply = served.post(path, body | {"threshold": threshold})
    assert reply.status_code == (422 if path == "/rerank" else 400)
    assert "$.threshold" in reply.text


@FORMAT
def test_without_a_calibration_there_is_no_probability_and_no_threshold(reranker, path):
    body, field = FORMATS[path]
    with serving({"tiny": reranker}) as plain:
        assert not any("probability" in row for row in rows(plain.post(path, body), field))
        reply = plain.post(path, body | {"threshold": 0.5})
    assert reply.status_code == (422 if path == "/rerank" else 400)
    assert "this server has no calibration to compute any" in reply.text


def test_what_the_full_model_did_not_score_has_no_probability_and_passes_no_threshold(planned_artifact, planned):
    calibration = ScoreCalibration(method="platt", slope=1.0, intercept=0.0, **logit_identity(planned.artifact, planned.resolved))
    with (
        Reranker.load(planned_artifact, settings=Settings(calibration=calibration)) as loaded,
        serving({"planned": loaded}) as served,
    ):
        body = COHERE | {"plan": "first-look:2,full"}
        found = served.post("/v2/rerank", body).json()["results"]
        assert ["probability" in row for row in found] == [True, True, False, False, False, False]
        reply = served.post("/v2/rerank", body | {"threshold": 0}).json()
    assert [row["index"] for row in reply["results"]] == [row["index"] for row in found[:2]]
    assert reply["meta"]["warnings"] == ["4 documents were not scored by the full model, and pass no threshold"]


def test_the_document_has_the_threshold(served):
    schemas = served.client.get("/openapi.json").json()["components"]["schemas"]
    for name in ("V2Request", "V1Request", "VoyageRequest", "RerankRequest"):
        [number, nothing] = schemas[name]["properties"]["threshold"]["anyOf"]
        assert (number["minimum"], number["maximum"], nothing["type"]) == (0, 1, "null")
