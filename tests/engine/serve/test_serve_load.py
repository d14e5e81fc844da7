"""More work than there is time for: what is refused, given up and dropped, and how a server ends."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest

from resift import Reranker
from tests.support import tiny

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from resift.serve.config import Config
from resift.serve.logs import LOGGER, configure
from resift.serve.models import Models
from resift.serve.request import Refusal
from resift.serve.run import build_server
from resift.serve.service import Service
from tests.support.serving import serving, until

QUERY, DOCUMENTS = "how do tides work", tiny.texts()[1:40:2]
PATHS = {"/v2/rerank": "documents", "/v1/rerank": "documents", "/rerank": "texts"}
COHERE = {"id", "message", "detail", "error"}
SHAPES = {"/v2/rerank": COHERE, "/v1/rerank": COHERE, "/rerank": {"error", "error_type"}}


def body(path: str, documents=DOCUMENTS) -> dict:
    return {"query": QUERY, PATHS[path]: documents}


def check_refusals(served, statuses) -> None:
    """All three APIs refuse, with their status and shape, and with a time to try again."""
    check_refused([served.post(path, body(path)) for path in PATHS], statuses)


def check_refused(replies, statuses) -> None:
    for path, reply, status in zip(PATHS, replies, statuses, strict=True):
        assert reply.status_code == status
        assert set(reply.json()) == SHAPES[path]
        assert 1 <= int(reply.headers["retry-after"]) <= 60


@pytest.fixture
def logged(capfd):
    """logged(): the records that the server has written to standard error since `configure`, which the test calls."""
    yield lambda: [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    for name in (LOGGER.name, "uvicorn"):
        logging.getLogger(name).handlers.clear()


@pytest.fixture
def threads():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_more_requests_than_allowed_are_429(one_at_a_time, gate, threads):
    opened, _, _ = gate
    with serving({"tiny": one_at_a_time}, max_concurrent_requests=1) as served:
        until(lambda: served.service.admission.requests == 0)
        first = threads.submit(served.post, "/v2/rerank", body("/v2/rerank"))
        until(lambda: served.service.admission.bodies == 1)
        check_refusals(served, (429, 429, 429))
        assert served.metric("resift_rejected_total", reason="busy") == 3
        assert served.client.get("/health").status_code == 200  # is no rerank request
        opened.set()
        assert first.result().status_code == 200
        assert served.post("/v2/rerank", body("/v2/rerank")).status_code == 200


def test_more_tokens_than_may_wait_are_429(artifact, gate, threads):
    from resift import Reranker, Settings

    opened, begun, _ = gate
    with (
        Reranker.load(artifact, settings=Settings(threads=1, waiting_tokens=600)) as reranker,
        serving({"tiny": reranker}) as served,
    ):
        until(begun.is_set)  # the warm-up's first batch is held
        first = threads.submit(served.post, "/rerank", body("/rerank", [text[:40] for text in DOCUMENTS[:3]]))
        until(lambda: served.service.admission.requests == 1 and not served.service.admission.characters)
        refused = threads.submit(served.post, "/rerank", body("/rerank", [f"{text} {text}" for text in DOCUMENTS]))
        until(lambda: len(reranker._workers._new) == 2)
        opened.set()
        assert first.result().status_code == 200
        assert refused.result().status_code == 429
        assert refused.result().json()["error_type"] == "Overloaded"
        assert 1 <= int(refused.result().headers["retry-after"]) <= 60


def test_more_characters_than_may_wait_are_429(one_at_a_time, monkeypatch, threads):
    begun, go_on, parts = threading.Event(), threading.Event(), type(one_at_a_time.tokenizer).parts

    def held(*arguments, **more):
        begun.set()
        assert go_on.wait(60)
        return parts(*arguments, **more)

    with serving({"tiny": one_at_a_time}, max_waiting_characters=3000) as served:
        until(lambda: served.service.is_ready)
        monkeypatch.setattr(type(one_at_a_time.tokenizer), "parts", held)
        first = threads.submit(served.post, "/rerank", body("/rerank"))
        until(begun.is_set)
        assert served.metric("resift_waiting_characters") > 0
        check_refusals(served, (429, 429, 429))
        go_on.set()
        assert first.result().status_code == 200
        assert served.metric("resift_waiting_characters") == 0


def test_past_the_deadline_a_request_is_given_up_and_its_rows_are_dropped(one_at_a_time, gate, threads):
    opened, begun, rows = gate
    with serving({"tiny": one_at_a_time}, request_seconds=100) as served:
        until(begun.is_set)
        asked = [threads.submit(served.post, path, body(path)) for path in PATHS]
        until(lambda: len(one_at_a_time._workers._new) == 3)
        served.put_forward(101)
        check_refused([each.result() for each in asked], (504, 504, 429))
        opened.set()
        until(lambda: served.metric("resift_waiting_rows", model="tiny") == 0)
        until(lambda: served.metric("resift_dropped_rows_total", model="tiny") == 3 * len(DOCUMENTS))
        until(lambda: served.service.is_ready)
        assert sum(rows) == 3  # the warm-up's own


def test_the_rows_of_a_client_that_goes_away_leave_the_queue(one_at_a_time, gate):
    opened, begun, rows = gate
    content = json.dumps(body("/rerank")).encode()
    head = f"POST /rerank HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n".encode()
    with serving({"tiny": one_at_a_time}) as served:
        until(begun.is_set)  # the warm-up's first batch is held
        with served.connect() as connection:
            connection.sendall(head + content)
            until(lambda: served.service.admission.requests == 1 and not served.service.admission.characters)
            until(lambda: one_at_a_time._workers._new)
        until(lambda: served.service.admission.requests == 0)
        opened.set()
        until(lambda: served.service.is_ready)
        # A request is counted when it has ended, which is after what its client saw.
        until(lambda: served.metric("resift_requests_total", api="tei", status="499") == 1)
        assert served.metric("resift_disconnected_total") == 1
        assert served.metric("resift_dropped_rows_total", model="tiny") == len(DOCUMENTS)
        assert sum(rows) == 3


def test_ready_says_when_the_models_are_warm(one_at_a_time, gate):
    opened, begun, _ = gate
    with serving({"tiny": one_at_a_time}) as served:
        until(begun.is_set)
        assert (served.client.get("/ready").status_code, served.client.get("/health").status_code) == (503, 200)
        opened.set()
        until(lambda: served.service.is_ready)
        assert served.client.get("/ready").json() == {"status": "ready"}


def test_the_first_look_is_warm_as_well(planned_artifact):
    with Reranker.load(planned_artifact) as fresh, serving({"tiny": fresh}) as served:
        until(lambda: served.service.is_ready)
        assert all(fresh._workers._scheduler.pace.knows(graph) for graph in ("full", "first-look"))


def test_a_stopping_server_finishes_what_it_accepted_and_refuses_the_rest(one_at_a_time, gate, threads):
    opened, _, _ = gate
    with serving({"tiny": one_at_a_time}) as served:
        accepted = [threads.submit(served.post, path, body(path)) for path in PATHS]
        until(lambda: served.service.admission.requests == 3)
        served.running.handle_exit(15, None)
        assert served.client.get("/ready").status_code == 503
        check_refusals(served, (503, 503, 503))
        opened.set()
        replies = [each.result() for each in accepted]
        assert [reply.status_code for reply in replies] == [200, 200, 200]
        expected = one_at_a_time.rerank(QUERY, DOCUMENTS)
        assert [row["index"] for row in replies[2].json()] == [result.index for result in expected]
        until(lambda: served.running.should_exit)


def test_a_server_that_has_stopped_long_enough_refuses_what_is_left(one_at_a_time, gate, threads):
    opened, _, _ = gate
    with serving({"tiny": one_at_a_time}, shutdown_seconds=0.1) as served:
        accepted = [threads.submit(served.post, path, body(path)) for path in PATHS]
        until(lambda: served.service.admission.requests == 3)
        served.running.handle_exit(15, None)
        replies = [each.result() for each in accepted]
        opened.set()
    assert [reply.status_code for reply in replies] == [503, 503, 503]
    assert replies[2].json()["error_type"] == "Unhealthy"
    assert served.service.unanswered == 3


def test_a_second_signal_refuses_what_was_accepted_and_counts_it(one_at_a_time, gate, threads):
    opened, _, _ = gate
    with serving({"tiny": one_at_a_time}) as served, served.connect() as half:
        accepted = [threads.submit(served.post, path, body(path)) for path in PATHS]
        half.sendall(b"POST /rerank HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{")
        until(lambda: served.service.admission.requests == 4)
        served.running.handle_exit(15, None)
        served.running.handle_exit(15, None)
        replies = [each.result() for each in accepted]
        assert half.recv(100).startswith(b"HTTP/1.1 503 ")
        opened.set()
    assert [reply.status_code for reply in replies] == [503, 503, 503]
    assert {reply.headers["connection"] for reply in replies} == {"close"}
    assert served.service.unanswered == 4


def test_a_request_that_takes_time_to_end_is_ended_once():
    service = Service(Config(), Models({}, {}))

    async def request():
        async with service.accept():
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)

    async def end() -> None:
        asked = asyncio.ensure_future(request())
        for _ in range(3):  # as on each tick of the server
            await asyncio.sleep(0)
            service.end()
        with pytest.raises(Refusal, match="shutting down"):
            await asked

    asyncio.run(end())
    assert service.unanswered == 1


def test_connections_that_the_system_has_queued_are_refused_and_not_reset(reranker):
    content = json.dumps(body("/rerank")).encode()
    head = f"POST /rerank HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n".encode()
    late, done = [], threading.Event()
    with serving({"tiny": reranker}) as served:
        until(lambda: served.service.is_ready)

        def stop():
            for _ in range(20):
                late.append(served.connect())
                late[-1].sendall(head + content)
            served.running.handle_exit(15, None)
            served.running._stop_listening()
            done.set()

        served.running.servers[0].get_loop().call_soon_threadsafe(stop)
        assert done.wait(60)
        assert [connection.recv(100)[:13] for connection in late] == [b"HTTP/1.1 503 "] * 20
        for connection in late:
            connection.close()
    assert served.service.unanswered == 0


def test_a_key_is_asked_for_where_there_is_one(reranker):
    with serving({"tiny": reranker}, api_key="sesame") as served:
        for given in (None, "sesame", "Bearer", "Bearer sesam", "Bearer sesame2", "Basic sesame", "Bearer \xff"):
            headers = {} if given is None else {"authorization": given.encode("latin-1")}
            for path in PATHS:
                reply = served.post(path, body(path), headers=headers)
                assert (reply.status_code, set(reply.json())) == (401, SHAPES[path])
                assert reply.headers["www-authenticate"] == "Bearer"
            assert {served.client.get(path, headers=headers).status_code for path in ("/info", "/metrics")} == {401}
        for given in ("Bearer sesame", "bearer sesame", "Bearer  sesame"):
            assert served.post("/rerank", body("/rerank"), headers={"authorization": given}).status_code == 200
            assert served.client.get("/info", headers={"authorization": given}).status_code == 200
        assert {served.client.get(path).status_code for path in ("/health", "/docs", "/openapi.json")} == {200}
        assert served.client.get("/openapi.json").json()["security"] == [{"key": []}]


def test_metrics_count_what_was_done(reranker):
    from prometheus_client.parser import text_string_to_metric_families

    with serving({"tiny": reranker}) as served:
        until(lambda: served.service.is_ready)
        before = {name: served.metric(name) for name in ("te_batch_next_size_sum", "te_batch_next_tokens_sum")}
        reply = served.post("/v1/rerank", {"query": QUERY, "documents": [*DOCUMENTS, "tide " * 500], "return_tokens_cut": True})
        cut = sum(result["tokens_cut"] for result in reply.json()["results"])
        assert cut > 0
        assert served.metric("resift_tokens_cut_total") == cut
        until(lambda: served.metric("resift_requests_total", api="cohere-jina-v1", status="200") == 1)  # once it is sent
        assert served.metric("te_batch_next_size_sum") - before["te_batch_next_size_sum"] == len(DOCUMENTS) + 1
        tokens = served.metric("te_batch_next_tokens_sum") - before["te_batch_next_tokens_sum"]
        assert tokens == reply.json()["usage"]["total_tokens"]
        for name in ("tokenize_seconds", "queue_seconds", "request_documents"):
            assert served.metric(f"resift_{name}_count") == 1
        reply = served.client.get("/metrics")
        assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert {"resift_requests", "resift_waiting_tokens"} <= {each.name for each in text_string_to_metric_families(reply.text)}


def test_the_stages_of_a_request_are_told(reranker):
    with serving({"tiny": reranker}) as served:
        told = served.post("/rerank", body("/rerank")).headers["server-timing"]
    stages = dict(part.split(";dur=") for part in told.split(", "))
    assert list(stages) == ["tokenize", "queue", "run", "total"]
    assert all(float(milliseconds) >= 0 for milliseconds in stages.values())


def test_the_documentation_needs_neither_scripts_nor_the_internet(reranker):
    import base64
    import hashlib
    import re

    with serving({"tiny": reranker}) as served:
        reply = served.client.get("/docs")
        assert served.client.get("/openapi.json").json()["openapi"] == "3.1.0"
    style = re.search(r"<style>(.*?)</style>", reply.text, re.DOTALL)[1]
    policy = reply.headers["content-security-policy"]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy
    assert not re.search(r"<script|src=|https?://", reply.text)
    assert all(path in reply.text for path in PATHS)


@pytest.mark.parametrize("with_texts", [False, True])
def test_logs_are_json_lines_without_texts_unless_asked(reranker, with_texts, logged):
    configure("info")
    with serving({"tiny": reranker}, log_texts=with_texts) as served:
        served.post("/rerank", {"query": QUERY, "texts": ["Ein Kätzchen\n"]}, headers={"x-request-id": "mine:1"})
        served.post("/rerank", {"query": QUERY, "texts": []})
    lines = logged()
    found, refused = [line for line in lines if line["event"] == "request"]
    assert (found["request_id"], found["status"], found["path"], found["documents"]) == ("mine:1", 200, "/rerank", 1)
    assert (refused["status"], refused["refused"]) == (400, "empty")
    assert ("texts" in found) == with_texts
    assert ("Kätzchen" in str(lines)) == with_texts


def test_uvloop_is_not_used_where_it_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvloop", ModuleType("uvloop"))  # without any loop
    config = Config(port=0)
    running = build_server(config, Service(config, Models({}, {})))
    running.handle_exit(15, None)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running.run([listening])


def test_a_model_that_cannot_run_ends_the_server(one_at_a_time, monkeypatch):
    from resift.errors import InferenceError
    from resift.runtime.session import Session

    def fail(self, batch):
        raise InferenceError("no memory for a batch")

    monkeypatch.setattr(Session, "run", fail)
    config = Config(port=0)
    running = build_server(config, Service(config, Models({"tiny": one_at_a_time}, {})))
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(InferenceError, match="no memory"):
        running.run([listening])


def test_probes_are_logged_only_when_they_fail(one_at_a_time, gate, logged):
    configure("info")
    opened, _, _ = gate
    with serving({"tiny": one_at_a_time}) as served:
        assert served.client.get("/ready").status_code == 503
        assert served.client.get("/health").status_code == 200
        assert served.client.get("/metrics").status_code == 200
        opened.set()
    lines = logged()
    assert [(line["path"], line["status"]) for line in lines if line["event"] == "request"] == [("/ready", 503)]
