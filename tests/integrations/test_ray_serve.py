"""The server on Ray Serve, asked over HTTP. The embedded model ranks, so no toolchain is needed."""

from __future__ import annotations

import os
import socket

import pytest

pytest.importorskip("ray.serve", reason="needs the extra ray-serve, which has an environment of its own in .ci/full")

import httpx
import ray
from ray import serve

from resift import InputError, Reranker, Settings
from resift.integrations.ray.serve import application, deployment
from resift.serve.config import Config

QUERY = "how do tides work"
DOCUMENTS = ["Bread rises because yeast makes gas.", "The moon pulls the sea into tides.", "A clock in the harbour."]
KEY = {"authorization": "Bearer key"}


@pytest.fixture(scope="module")
def client():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray.init(address="local", num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application({"api_key": "key", "max_replicas": "2", "threads": "1"}))
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=KEY, timeout=60) as asking:
            yield asking
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.fixture(scope="module")
def ranking():
    with Reranker.load(settings=Settings(threads=1)) as reranker:
        return reranker.rerank(QUERY, DOCUMENTS)


def test_tei_answers_with_the_librarys_logits_to_the_bit(client, ranking):
    answer = client.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS, "raw_scores": True})
    assert answer.status_code == 200, answer.text
    assert [(row["index"], row["score"]) for row in answer.json()] == [(row.index, row.logit) for row in ranking]


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_cohere_and_jina_answer_in_the_same_order(client, ranking, path):
    answer = client.post(path, json={"query": QUERY, "documents": DOCUMENTS, "top_n": 2})
    assert answer.status_code == 200, answer.text
    assert [row["index"] for row in answer.json()["results"]] == [row.index for row in ranking][:2]


def test_it_is_ready_once_deployed_and_answers_errors_as_the_server_does(client):
    assert client.get("/ready").status_code == 200
    assert client.post("/v2/rerank", json={"query": QUERY}).status_code == 400
    assert client.post("/v2/rerank", content=b"{").status_code == 415
    assert client.get("/nothing").json()["message"] == "no route '/nothing'"
    assert client.post("/v2/rerank", json={}, headers={"authorization": "Bearer other"}).status_code == 401


def test_the_number_of_replicas_follows_the_load_between_its_bounds(client):
    [status] = serve.status().applications.values()
    assert status.deployments["resift"].replica_states == {"RUNNING": 1}
    made = deployment(Config(threads=3, max_concurrent_requests=64), min_replicas=2, max_replicas=5)
    scaling = made._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, made.max_ongoing_requests) == (2, 5, 64)
    assert made.ray_actor_options["num_cpus"] == 3


REFUSED = {
    "no key": ({}, "set RESIFT_SERVE_API_KEY, or pass no_auth=true"),
    "unknown": ({"api_key": "k", "modle": "x"}, "'modle' is not a setting; expected one of min_replicas, max_replicas, model"),
    "Serve's own": ({"api_key": "k", "port": 1}, "port is a setting of Ray Serve"),
    "no replicas": ({"api_key": "k", "min_replicas": 0}, "min_replicas is 0; expected"),
    "not a number": ({"api_key": "k", "max_replicas": "many"}, "max_replicas is 'many'"),
    "crossed": ({"api_key": "k", "min_replicas": 9}, "min_replicas is 9 and max_replicas 8"),
    "bad threads": ({"api_key": "k", "threads": "none"}, "--threads: expected .*; found 'none'"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_arguments_that_cannot_be_used_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        application(arguments)
