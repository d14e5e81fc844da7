"""The three APIs over a real connection: what is asked, answered and refused, each in its own words."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from resift import Reranker
from tests.conftest import edit
from tests.support import tiny

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from tests.support.serving import serving

QUERY, DOCUMENTS = "how do tides work", tiny.texts()[1:40:2]
LONG = "tide " * 1000
PATHS = {"/v2/rerank": "documents", "/v1/rerank": "documents", "/rerank": "texts"}
ALL = pytest.mark.parametrize(("path", "field"), PATHS.items(), ids=lambda value: value.strip("/").replace("/", "-"))


@pytest.fixture(scope="module")
def served(reranker):
    with serving({"org/tiny": reranker}, {"./tiny": "org/tiny"}) as running:
        yield running


def message(reply) -> str:
    """The refusal's own words, from the field that each API's clients read."""
    content = reply.json()
    return content["error"] if reply.request.url.path == "/rerank" else content["message"]


def test_cohere_v2(served, reranker):
    reply = served.post("/v2/rerank", {"model": "rerank-v3.5", "query": QUERY, "documents": DOCUMENTS, "top_n": 3})
    ranking = reranker.rerank(QUERY, DOCUMENTS, top_k=3)
    assert reply.status_code == 200
    found = reply.json()
    assert found["results"] == [
        {"index": result.index, "relevance_score": pytest.approx(1 / (1 + np.exp(-result.logit)), rel=1e-6)} for result in ranking
    ]
    assert found["meta"]["api_version"] == {"version": "2"}
    assert found["meta"]["tokens"]["input_tokens"] == sum(
        len(reranker.tokenizer.encode(QUERY, [document]).ids) for document in DOCUMENTS
    )
    assert "warnings" not in found["meta"]
    assert found["id"] == reply.headers["x-request-id"]


def test_cohere_v1_and_jina_in_one(served, reranker):
    documents = [{"text": text, "page": page} for page, text in enumerate(DOCUMENTS[:4])] + DOCUMENTS[4:6]
    body = {"model": "jina-reranker-v2", "query": QUERY, "documents": documents, "return_documents": True}
    found = served.post("/v1/rerank", body).json()
    ranking = reranker.rerank(QUERY, DOCUMENTS[:6])
    assert found["model"] == "org/tiny"
    assert found["usage"]["total_tokens"] == found["usage"]["prompt_tokens"] > 0
    assert [result["index"] for result in found["results"]] == [result.index for result in ranking]
    objects = [document if isinstance(document, dict) else {"text": document} for document in documents]
    assert [result["document"] for result in found["results"]] == [objects[result.index] for result in ranking]
    assert "document" not in served.post("/v1/rerank", body | {"return_documents": False}).json()["results"][0]
    assert "document" not in served.post("/v1/rerank", body | {"return_documents": None}).json()["results"][0]


def test_rank_fields_are_read_in_their_order(served, reranker):
    documents = [{"title": "Tides", "body": text, "n": 1} for text in DOCUMENTS[:3]]
    found = served.post("/v1/rerank", {"query": QUERY, "documents": documents, "rank_fields": ["title", "body", "none"]}).json()
    expected = reranker.rerank(QUERY, [f"Tides\n{text}" for text in DOCUMENTS[:3]])
    assert [result["relevance_score"] for result in found["results"]] == [
        pytest.approx(1 / (1 + np.exp(-result.logit)), rel=1e-6) for result in expected
    ]


def test_tei_answers_its_own_documentations_example(served, reranker):
    query, texts = "What is Deep Learning?", ["Deep Learning is not...", "Deep learning is..."]
    ranking = reranker.rerank(query, texts)
    found = served.post("/rerank", {"query": query, "texts": texts, "raw_scores": False}).json()
    assert found == [
        {"index": result.index, "score": pytest.approx(1 / (1 + np.exp(-result.logit)), rel=1e-6)} for result in ranking
    ]
    found = served.post(
        "/rerank", {"query": query, "texts": texts, "raw_scores": True, "return_text": True, "truncate": True}
    ).json()
    assert found == [{"index": result.index, "text": texts[result.index], "score": result.logit} for result in ranking]


@pytest.mark.parametrize(
    ("change", "status", "error_type", "said"),
    [
        ({"texts": []}, 400, "Empty", "`texts` cannot be empty"),
        ({"texts": ["a"] * 1001}, 413, "Validation", "batch size 1001 > maximum allowed batch size 1000"),
        (
            {"texts": ["tide", LONG], "truncate": False},
            413,
            "Validation",
            "Input validation error: `inputs` must have less than 192 tokens. Given: ",
        ),
        ({"query": "", "texts": ["a", ""]}, 413, "Validation", "Input validation error: `inputs` cannot be empty"),
        ({"texts": "a"}, 422, "Validation", "Expected `array`, got `str` - at `$.texts`"),
        ({"texts": None}, 422, "Validation", "Expected `array`, got `null`"),
        ({"truncation_direction": "up"}, 422, "Validation", "$.truncation_direction"),
        ({"truncation_direction": "Left"}, 422, "Validation", "at its end only"),
        ({"raw_scores": 1}, 422, "Validation", "$.raw_scores"),
        ({"budget_ms": 0}, 422, "Validation", "$.budget_ms"),
        ({"budget_ms": "5"}, 422, "Validation", "$.budget_ms"),
        ({"plan": "fast"}, 422, "Validation", "needs a graph first-look"),
        ({"plan": "quick"}, 422, "Validation", "needs a graph quick"),
    ],
)
def test_tei_refuses_as_tei_does(served, change, status, error_type, said):
    reply = served.post("/rerank", {"query": QUERY, "texts": ["a"]} | change)
    assert (reply.status_code, reply.json()["error_type"]) == (status, error_type)
    assert said in reply.json()["error"]


@pytest.mark.parametrize("direction", ["right", "Right"])
def test_tei_takes_what_tei_takes(served, direction):
    body = {"query": "", "texts": ["a", LONG], "truncate": None, "truncation_direction": direction, "unknown": {"x": 1}}
    assert served.post("/rerank", body).status_code == 200
    assert (
        served.post("/rerank", {"query": "", "texts": ["a"], "truncation_direction": "Left", "truncate": False}).status_code == 200
    )


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"documents": []}, 400, "$.documents"),
        ({"documents": ["a"] * 1001}, 400, "batch size 1001 > maximum allowed batch size 1000"),
        ({"documents": [1]}, 400, "$.documents[0]"),
        ({"documents": {"text": "a"}}, 400, "$.documents"),
        ({"query": ""}, 400, "$.query"),
        ({"query": None}, 400, "$.query"),
        ({"top_n": 0}, 400, "$.top_n"),
        ({"top_n": -1}, 400, "$.top_n"),
        ({"top_n": 1.5}, 400, "$.top_n"),
        ({"top_n": True}, 400, "$.top_n"),
        ({"max_tokens_per_doc": 0}, 400, "$.max_tokens_per_doc"),
        ({"budget_ms": 0}, 400, "$.budget_ms"),
        ({"budget_ms": True}, 400, "$.budget_ms"),
        ({"plan": "fast"}, 400, "needs a graph first-look"),
        ({"plan": 3}, 400, "$.plan"),
    ],
)
def test_cohere_and_jina_refuse_in_their_shape(served, path, change, status, said):
    reply = served.post(path, {"query": QUERY, "documents": ["a"]} | change)
    assert reply.status_code == status
    assert said in reply.json()["message"] == reply.json()["detail"]
    assert reply.json()["id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({}, "has the fields none"),
        ({"text": None}, "no value in text or content or page_content"),
        ({"text": ["a"]}, "has list in its field text"),
        ({"title": "a"}, "has the fields title"),
    ],
)
def test_a_document_without_text_is_named(served, document, said):
    reply = served.post("/v1/rerank", {"query": QUERY, "documents": ["a", document]})
    assert reply.status_code == 400
    assert said in reply.json()["message"]
    assert "documents[1]" in reply.json()["message"]


@ALL
def test_unknown_fields_are_ignored_and_of_a_key_that_occurs_twice_the_last_counts(served, path, field):
    content = json.dumps({"query": "bread", "query_": 1, field: DOCUMENTS[:2], "user": {"name": "me"}})
    reply = served.post(path, content=content.replace('"query_": 1', f'"query": {json.dumps(QUERY)}').encode())
    assert reply.status_code == 200
    expected = served.post(path, {"query": QUERY, field: DOCUMENTS[:2]})
    assert results(reply) == results(expected)


def results(reply) -> list[tuple[int, float]]:
    found = reply.json()
    rows = found if isinstance(found, list) else found["results"]
    return [(row["index"], row.get("score", row.get("relevance_score"))) for row in rows]


@pytest.mark.parametrize("top_n", [5, 6, 10**6, 10**30])
def test_top_n_beyond_the_documents_is_all_of_them(served, top_n):
    assert len(results(served.post("/v2/rerank", {"query": QUERY, "documents": DOCUMENTS[:5], "top_n": top_n}))) == 5


def test_max_tokens_per_doc_cuts_each_document(served, reranker):
    body = {"query": QUERY, "documents": [LONG, "tide tide", "tide"], "return_tokens_cut": True}
    one = len(reranker.tokenizer.encode("", ["tide"]).ids) - len(reranker.tokenizer.encode("", [""]).ids)
    found = served.post("/v2/rerank", body | {"max_tokens_per_doc": one}).json()
    assert {result["index"]: result["tokens_cut"] for result in found["results"]} == {0: 999 * one, 1: one, 2: 0}
    assert len({result["relevance_score"] for result in found["results"]}) == 1  # all three are read as "tide"
    assert found["meta"]["warnings"] == ["2 documents were too long and were cut at their end"]
    found = served.post("/v2/rerank", body | {"max_tokens_per_doc": 4096}).json()
    expected = reranker.rerank(QUERY, body["documents"])
    assert {result["index"]: result["tokens_cut"] for result in found["results"]} == {
        result.index: result.tokens_cut for result in expected
    }


def test_logits_are_bit_equal_to_the_librarys_whatever_shares_the_batch(served, reranker):
    pools = [(f"{QUERY} {number}", DOCUMENTS[number % 7 :]) for number in range(40)]
    with ThreadPoolExecutor(16) as threads:
        replies = list(
            threads.map(lambda pool: served.post("/rerank", {"query": pool[0], "texts": pool[1], "raw_scores": True}), pools)
        )
    shared = served.metric("te_batch_next_size_count") < sum(len(documents) for _, documents in pools)
    for (query, documents), reply in zip(pools, replies, strict=True):
        expected = reranker.logits(query, documents)
        found = np.empty(len(documents), np.float32)
        for index, score in results(reply):
            found[index] = score
        assert found.tobytes() == expected.tobytes()
    assert shared


@ALL
def test_half_a_surrogate_pair_is_read_as_in_the_library(served, reranker, path, field):
    query, documents = f"{QUERY} \ud83d", ["tides \ude00", "\ud83d\ud83d\ude00 moon", "sea"]
    body = {"query": query, field: documents, "raw_scores": True, "return_text": True, "return_documents": True}
    reply = served.post(path, content=json.dumps(body).encode())
    assert reply.status_code == 200
    ranking = reranker.rerank(query, documents)
    assert [index for index, _ in results(reply)] == [result.index for result in ranking]
    if path == "/rerank":
        assert [np.float32(score) for _, score in results(reply)] == [result.logit for result in ranking]
    whole = {"query": f"{QUERY} \ufffd", field: ["tides \ufffd", "\ufffd\U0001f600 moon", "sea"]}
    assert results(reply) == results(served.post(path, body | whole))


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_a_budget_ends_a_request_with_what_was_read_by_then(served, path):
    body = {"query": QUERY, "texts" if path == "/rerank" else "documents": DOCUMENTS}
    plain = results(served.post(path, body))
    assert results(served.post(path, body | {"budget_ms": 1e9, "plan": "full"})) == plain
    reply = served.post(path, body | {"budget_ms": 1e-6})
    found = results(reply)
    assert [index for index, _ in found] == list(range(len(DOCUMENTS)))
    scores = [score for _, score in found]
    assert scores == sorted(set(scores), reverse=True)
    assert 0 < scores[-1] <= scores[0] < 1
    marked = reply.json() if path == "/rerank" else reply.json()["results"]
    assert not any("scored_by" in result for result in marked)
    reply = served.post(path, body | {"plan": "full"})
    marked = reply.json() if path == "/rerank" else reply.json()["results"]
    assert {result["scored_by"] for result in marked} == {"full"}


def test_any_model_is_the_only_one(served):
    for model in ("rerank-english-v3.0", "org/tiny", None):
        assert served.post("/v1/rerank", {"model": model, "query": QUERY, "documents": ["a"]}).json()["model"] == "org/tiny"
    assert served.post("/v2/rerank", {"model": 3, "query": QUERY, "documents": ["a"]}).status_code == 400


@ALL
def test_of_several_models_one_is_named(reranker, one_at_a_time, path, field):
    models = {"first": reranker, "second": one_at_a_time}
    with serving(models, {"./two": "second", "rerank-v3.5": "second"}) as served:
        for name, true in ((None, "first"), ("first", "first"), ("./two", "second"), ("rerank-v3.5", "second")):
            reply = served.post(path, {"model": name, "query": QUERY, field: ["a"]})
            assert reply.status_code == 200
            if path == "/v1/rerank":
                assert reply.json()["model"] == true
        reply = served.post(path, {"model": "third", "query": QUERY, field: ["a"]})
        assert reply.status_code == 404
        assert all(name in message(reply) for name in ("'third'", "'first'", "'second'", "'rerank-v3.5'"))
        assert served.client.get("/info").json()["models"] == ["first", "second"]


def test_a_strict_server_knows_its_models_names_only(reranker):
    with serving({"org/tiny": reranker}, {"nick": "org/tiny"}, strict=True) as served:
        statuses = [
            served.post("/v2/rerank", {"model": model, "query": QUERY, "documents": ["a"]}).status_code
            for model in (None, "org/tiny", "nick", "rerank-v3.5")
        ]
    assert statuses == [200, 200, 200, 404]


def test_a_model_that_declares_no_sigmoid_is_still_served_in_0_to_1(copy):
    edit(copy, lambda manifest: manifest["graphs"][0].__setitem__("activation", "identity"))
    with Reranker.load(copy) as reranker, serving({"org/tiny": reranker}) as served:
        assert reranker.score(QUERY, DOCUMENTS).tolist() == reranker.logits(QUERY, DOCUMENTS).tolist()
        scores = [score for _, score in results(served.post("/v2/rerank", {"query": QUERY, "documents": DOCUMENTS}))]
    assert all(0 <= score <= 1 for score in scores)
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("error", ["InferenceError", "LogitsError", "RuntimeError"])
def test_a_fault_of_the_model_is_answered_in_each_apis_shape(served, monkeypatch, error):
    from resift import errors
    from resift.runtime.session import Session

    kind = getattr(errors, error, RuntimeError)

    def fail(self, batch):
        raise kind("the graph in /srv/model failed")

    monkeypatch.setattr(Session, "run", fail)
    replies = [served.post(path, {"query": f"{error}", field: ["a"]}) for path, field in PATHS.items()]
    assert [reply.status_code for reply in replies] == [500, 500, 424]
    said = "unexpected error" if error == "RuntimeError" else "the model failed"
    assert {message(reply) for reply in replies} == {f"{said}; the server's log has the cause under this request's id"}
    assert replies[2].json()["error_type"] == "Backend"


def test_a_model_whose_file_is_gone_is_a_fault_of_the_server_that_only_its_log_names(planned_artifact, tmp_path, capfd):
    import logging
    import shutil

    from resift.serve.logs import LOGGER, configure

    folder = shutil.copytree(planned_artifact, tmp_path / "model")
    configure("info")
    try:
        with Reranker.load(folder, plan="full") as reranker:  # which loads no first look before a request names it
            [look] = [graph for graph in reranker.artifact.manifest.graphs if graph.name == "first-look"]
            for variant in look.variants:
                (folder / variant.file).unlink()
            with serving({"tiny": reranker}) as served:
                replies = [
                    served.post(path, {"query": QUERY, field: ["a", "b"], "plan": "first-look:1,full"})
                    for path, field in PATHS.items()
                ]
    finally:
        for name in (LOGGER.name, "uvicorn"):
            logging.getLogger(name).handlers.clear()
    assert [reply.status_code for reply in replies] == [500, 500, 500]
    assert all("its files are damaged or gone" in message(reply) for reply in replies)
    assert replies[2].json()["error_type"] == "Backend"
    assert not any(str(tmp_path) in reply.text for reply in replies)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    causes = [line["cause"] for line in lines if line["event"] == "request" and line["status"] == 500]
    assert len(causes) == 3
    assert all(str(folder) in cause for cause in causes)


def test_the_cohere_clients_rank_right(served, reranker):
    cohere = pytest.importorskip("cohere")
    expected = [result.index for result in reranker.rerank(QUERY, DOCUMENTS)]
    first = cohere.Client("key", base_url=served.url, timeout=30)
    second = cohere.ClientV2("key", base_url=served.url, timeout=30)
    old = first.rerank(model="rerank-v3.5", query=QUERY, documents=DOCUMENTS, return_documents=True)
    new = second.rerank(model="rerank-v3.5", query=QUERY, documents=DOCUMENTS, top_n=3)
    assert [result.index for result in old.results] == expected
    assert [result.document.text for result in old.results] == [DOCUMENTS[index] for index in expected]
    assert [result.index for result in new.results] == expected[:3]
    with pytest.raises(cohere.BadRequestError, match="top_n"):
        second.rerank(model="rerank-v3.5", query=QUERY, documents=DOCUMENTS, top_n=0)
