"""What real clients send, at the URLs to which they send it: each is answered in the form that it reads."""

from __future__ import annotations

import numpy as np
import pytest

from resift import Reranker
from resift.errors import InputError
from tests.support import tiny

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from tests.support.serving import serving

QUERY, DOCUMENTS = "how do tides work", tiny.texts()[1:12:2]
ASKED = {"model": "m", "query": QUERY, "documents": DOCUMENTS}
RAGFLOW = ASKED | {"return_documents": "true", "return_len": "true"}
PAIRS = {"model": "m", "text_1": QUERY, "text_2": DOCUMENTS}
TEI = {"query": QUERY, "texts": DOCUMENTS}
VOYAGE = ASKED | {"top_k": 2}
CLIENTS = [
    ("Cohere v2", "/v2/rerank", ASKED | {"top_n": 2, "max_tokens_per_doc": 4096}, "results"),
    ("LiteLLM cohere", "/v2/rerank", ASKED | {"top_n": 2, "return_documents": True}, "results"),
    ("Cohere v1", "/v1/rerank", ASKED | {"top_n": 2, "return_documents": True, "max_chunks_per_doc": 10}, "results"),
    ("Jina", "/v1/rerank", ASKED | {"documents": [{"text": text} for text in DOCUMENTS], "top_n": 2}, "results"),
    ("RAGFlow, Xinference", "/v1/rerank", RAGFLOW, "results"),
    ("RAGFlow, LocalAI", "/rerank", ASKED | {"top_n": len(DOCUMENTS)}, "results"),
    ("Dify, OpenAI-compatible", "/v1/rerank", ASKED | {"top_n": None, "return_documents": True}, "results"),
    ("Dify, without /v1", "/rerank", ASKED | {"top_n": None, "return_documents": True}, "results"),
    ("Open WebUI", "/v1/rerank", ASKED | {"top_n": len(DOCUMENTS)}, "results"),
    ("LightRAG", "/rerank", ASKED | {"top_n": 2}, "results"),
    ("a URL with a slash", "/v1/rerank/", ASKED, "results"),
    ("a number as text", "/v1/rerank", ASKED | {"top_n": "2"}, "results"),
    ("infinity_client", "/rerank", ASKED | {"return_documents": False, "raw_scores": False, "top_n": 2}, "results"),
    ("LiteLLM hosted_vllm", "/rerank", ASKED | {"top_n": 2, "return_documents": True}, "results"),
    ("vLLM", "/v2/rerank", ASKED | {"truncate_prompt_tokens": -1}, "results"),
    ("llama.cpp", "/reranking", ASKED, "results"),
    ("llama.cpp", "/v1/reranking", ASKED | {"top_n": 99}, "results"),
    ("llama.cpp, in TEI's form", "/reranking", TEI | {"top_n": 2}, "TEI"),
    ("text-embeddings-inference", "/rerank", TEI | {"raw_scores": False, "return_text": True, "truncate": True}, "TEI"),
    ("LiteLLM huggingface", "/rerank", TEI | {"truncation_direction": "Right", "truncate": False, "top_n": 2}, "TEI"),
    ("rerankers, voyage", "/v1/rerank", VOYAGE | {"return_documents": True}, "data"),
    ("voyageai", "/v1/rerank", ASKED | {"top_k": None, "truncation": True}, "data"),
    ("vLLM's score", "/score", PAIRS, "scores"),
    ("GPUStack's score", "/v1/score", PAIRS, "scores"),
    ("vLLM's score, newer", "/v1/score", {"queries": [QUERY], "documents": DOCUMENTS}, "scores"),
    ("vLLM's score, newer", "/score", {"queries": QUERY, "items": DOCUMENTS}, "scores"),
    ("vLLM's score, newer", "/score", {"data_1": QUERY, "data_2": DOCUMENTS}, "scores"),
]


@pytest.fixture(scope="module")
def served(reranker):
    with serving({"org/tiny": reranker}, {"rerank-v3.5": "org/tiny"}) as running:
        yield running


@pytest.fixture(scope="module")
def expected(reranker):
    """The documents' numbers and relevance, best first."""
    ranking = reranker.rerank(QUERY, DOCUMENTS)
    return [(result.index, pytest.approx(1 / (1 + np.exp(-result.logit)), rel=1e-6)) for result in ranking]


@pytest.mark.parametrize(("client", "path", "body", "form"), CLIENTS, ids=[f"{name} {path}" for name, path, *_ in CLIENTS])
def test_each_client_is_answered_in_its_form(served, expected, client, path, body, form):
    reply = served.post(path, body)
    assert reply.status_code == 200, reply.text
    content = reply.json()
    top = body.get("top_n", body.get("top_k"))
    best = expected[: None if top is None else int(top)]
    if form == "TEI":
        assert [(row["index"], row["score"]) for row in content] == best
        assert all(row.get("text") == (DOCUMENTS[row["index"]] if "return_text" in body else None) for row in content)
    elif form == "results":
        assert [(row["index"], row["relevance_score"]) for row in content["results"]] == best
        wanted = body.get("return_documents") in (True, "true")
        texts = [row.get("document", {}).get("text") for row in content["results"]]
        assert texts == [DOCUMENTS[index] if wanted else None for index, _ in best]
        assert content["meta"]["billed_units"] == {"search_units": 1}
        assert content["meta"]["tokens"] == {"input_tokens": content["meta"]["tokens"]["input_tokens"], "output_tokens": 0}
        assert path == "/v2/rerank" or content["usage"]["total_tokens"] == content["meta"]["tokens"]["input_tokens"] > 0
    elif form == "data":
        assert set(content) == {"object", "data", "model", "usage"}
        assert [(row["index"], row["relevance_score"]) for row in content["data"]] == best
        wanted = body.get("return_documents")
        assert [row.get("document") for row in content["data"]] == [DOCUMENTS[index] if wanted else None for index, _ in best]
        assert set(content["usage"]) == {"total_tokens"}
    else:
        assert set(content) == {"id", "object", "created", "model", "data", "usage"}
        assert [(row["index"], row["score"]) for row in content["data"]] == sorted(expected, key=lambda row: row[0])
        assert {row["object"] for row in content["data"]} == {"score"}
        assert content["usage"]["prompt_tokens"] == content["usage"]["total_tokens"] > content["usage"]["completion_tokens"] == 0


def test_equal_lists_are_scored_in_pairs(served, reranker):
    left = [QUERY, "bread", QUERY, "the moon"]
    reply = served.post("/score", {"text_1": left, "text_2": DOCUMENTS[:4], "use_activation": False})
    assert [row["score"] for row in reply.json()["data"]] == [
        reranker.logits(query, [document])[0] for query, document in zip(left, DOCUMENTS, strict=False)
    ]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "there is no `text_1`"),
        ({"text_1": "a"}, "there is no `text_2`"),
        ({"text_1": "a", "text_2": []}, "`text_2` is empty"),
        ({"queries": ["a", "b"], "documents": ["a", "b", "c"]}, "`queries` has 2 texts and `documents` 3"),
        ({"text_1": ["a", "b"], "text_2": "a"}, "`text_1` has 2 texts and `text_2` 1"),
        ({"text_1": "a", "text_2": [1]}, "$.text_2"),
        ({"text_1": "a", "text_2": ["a"] * 1001}, "batch size 1001 > maximum allowed batch size 1000"),
        ({"text_1": [str(n) for n in range(1001)], "text_2": ["a"] * 1001}, "batch size 1001 > maximum allowed batch size 1000"),
    ],
)
def test_pairs_that_cannot_be_are_refused_in_openais_form(served, body, said):
    reply = served.post("/v1/score", body)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["type"]) == (400, 400, "invalid_request_error")
    assert said in error["message"]


@pytest.mark.parametrize("documents", [[], None, 123, [1, 2, 3]])
@pytest.mark.parametrize("path", ["/rerank", "/reranking", "/v1/reranking", "/v1/rerank"])
def test_documents_that_cannot_be_are_refused_as_llama_cpp_does(served, path, documents):
    reply = served.post(path, {"query": "Machine learning is", "documents": documents})
    assert reply.status_code == 400
    assert "$.documents" in reply.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank", "/v1/reranking"])
@pytest.mark.parametrize("top_n", [0, "0", -1])
def test_no_results_are_nothing_to_ask_for(served, path, top_n):
    # As Cohere, Jina and infinity answer; vLLM alone takes 0 for all, and a client would not see which it got.
    reply = served.post(path, ASKED | {"top_n": top_n})
    assert reply.status_code == 400
    assert "$.top_n" in reply.json()["message"]


def test_texts_and_documents_at_once_are_teis(served):
    assert isinstance(served.post("/rerank", TEI | {"documents": DOCUMENTS}).json(), list)


def test_logits_are_given_where_infinity_and_vllm_give_them(served, reranker):
    logits = [result.logit for result in reranker.rerank(QUERY, DOCUMENTS)]
    for extra in ({"raw_scores": True}, {"use_activation": False}):
        found = served.post("/rerank", ASKED | extra).json()["results"]
        assert [row["relevance_score"] for row in found] == logits


def test_the_scale_of_scores_is_a_setting(reranker):
    logits = [result.logit for result in reranker.rerank(QUERY, DOCUMENTS)]
    with serving({"tiny": reranker}, scores="logit") as served:
        assert [row["relevance_score"] for row in served.post("/v2/rerank", ASKED).json()["results"]] == logits
        assert [row["relevance_score"] for row in served.post("/v1/rerank", VOYAGE).json()["data"]] == logits[:2]
        assert [row["score"] for row in served.post("/rerank", TEI).json()] == logits
        scores = served.post("/score", PAIRS).json()["data"]
    assert sorted((row["score"] for row in scores), reverse=True) == logits


def test_an_instruction_is_put_before_the_query(served, reranker):
    given = {"instruction": "find physics"}
    found = served.post("/rerank", ASKED | given | {"raw_scores": True}).json()["results"]
    expected = reranker.rerank(QUERY, DOCUMENTS, **given)
    assert [(row["index"], row["relevance_score"]) for row in found] == [(result.index, result.logit) for result in expected]
    assert [row["relevance_score"] for row in found] != [result.logit for result in reranker.rerank(QUERY, DOCUMENTS)]
    scores = served.post("/score", PAIRS | given | {"use_activation": False}).json()["data"]
    assert [row["score"] for row in scores] == reranker.logits(QUERY, DOCUMENTS, **given).tolist()


def test_a_document_comes_back_with_its_fields_and_with_text(served):
    documents = [{"title": "Tides", "body": "The moon."}, {"text": "Bread.", "page": 3}, {"content": "Sea.", "text": 7}]
    body = {"query": QUERY, "documents": documents[:1], "rank_fields": ["title", "body"], "return_documents": True}
    [found] = served.post("/v1/rerank", body).json()["results"]
    assert found["document"] == {"title": "Tides", "body": "The moon.", "text": "Tides\nThe moon."}
    for path in ("/v1/rerank", "/v2/rerank"):
        reply = served.post(path, {"query": QUERY, "documents": documents[1:], "return_documents": True})
        assert {row["index"]: row["document"] for row in reply.json()["results"]} == {
            0: {"text": "Bread.", "page": 3},
            1: {"content": "Sea.", "text": "7"},
        }


def test_a_template_says_what_is_read_of_objects(reranker):
    documents = [{"title": "Tides", "body": text} for text in DOCUMENTS]
    expected = reranker.rerank(QUERY, [f"Tides\n{text}" for text in DOCUMENTS])
    with serving({"tiny": reranker}, document_template="{title}\n{body}") as served:
        found = served.post("/rerank", {"query": QUERY, "documents": documents, "raw_scores": True}).json()["results"]
    assert [(row["index"], row["relevance_score"]) for row in found] == [(result.index, result.logit) for result in expected]


def test_a_hundred_documents_are_one_search_unit(served):
    for count, units in ((100, 1), (101, 2)):
        reply = served.post("/v2/rerank", {"query": QUERY, "documents": ["a"] * count})
        assert reply.json()["meta"]["billed_units"] == {"search_units": units}


def test_voyage_refuses_what_is_too_long_if_it_may_not_be_cut(served):
    body = {"query": QUERY, "documents": ["tide " * 1000]}
    assert served.post("/v1/rerank", body | {"truncation": True}).status_code == 200
    reply = served.post("/v1/rerank", body | {"truncation": False})
    assert reply.status_code == 400
    assert "must have less than" in reply.json()["detail"]


def test_models_are_listed_in_openais_form(served):
    reply = served.client.get("/v1/models").json()
    assert (reply["object"], [model["id"] for model in reply["data"]]) == ("list", ["org/tiny", "rerank-v3.5"])
    assert {(model["object"], model["owned_by"], type(model["created"])) for model in reply["data"]} == {("model", "resift", int)}
    assert served.client.get("/v1/models/org/tiny").json() == reply["data"][0]
    assert served.client.get("/v1/models/org%2Ftiny").json() == reply["data"][0]
    assert served.client.get("/v1/models/rerank-v3.5/").json() == reply["data"][1]
    assert served.client.get("/v1/models/any").json()["id"] == "org/tiny"  # as a request for it gets that model


def test_an_unknown_model_is_not_found_where_several_are(reranker, one_at_a_time):
    with serving({"first": reranker, "second": one_at_a_time}, {"nick": "second"}, api_key="k") as served:
        asked = {"authorization": "Bearer k"}
        reply = served.client.get("/v1/models/third", headers=asked)
        assert (reply.status_code, reply.json()["error"]["type"]) == (404, "not_found_error")
        assert all(name in reply.json()["error"]["message"] for name in ("'first'", "'second'", "'nick'"))
        assert [served.client.get(path).status_code for path in ("/v1/models", "/v1/models/first", "/info")] == [401] * 3
        assert served.client.get("/v1/models/nick", headers=asked).json()["id"] == "nick"


def test_info_has_the_fields_of_teis_document(served, reranker):
    found = served.client.get("/info").json()
    assert (found["served_model_name"], found["model_id"]) == ("org/tiny", reranker.artifact.manifest.model.id)
    required = {"model_dtype", "model_type", "max_concurrent_requests", "max_input_length", "max_batch_tokens"}
    assert required | {"max_client_batch_size", "auto_truncate", "tokenization_workers", "version"} <= set(found)


def test_other_origins_may_ask_only_if_they_are_set(reranker):
    origin = {"origin": "https://example.org"}
    preflight = origin | {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    with serving({"tiny": reranker}) as served:
        assert "access-control-allow-origin" not in served.client.post("/rerank", json=TEI, headers=origin).headers
        assert "access-control-allow-origin" not in served.client.options("/rerank", headers=preflight).headers
    with serving({"tiny": reranker}, cors_origin=["https://example.org"], api_key="k") as served:
        reply = served.client.options("/rerank", headers=preflight)
        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, "https://example.org")
        assert "POST" in reply.headers["access-control-allow-methods"]
        assert "authorization" in reply.headers["access-control-allow-headers"]
        reply = served.client.post("/rerank", json=TEI, headers=origin | {"authorization": "Bearer k"})
        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, "https://example.org")
        refused = served.client.options("/rerank", headers=preflight | {"origin": "https://example.com"})
        assert "access-control-allow-origin" not in refused.headers


def test_models_are_named_by_name_id_and_folder_and_never_by_path(artifact, copy, tmp_path):
    from resift.serve.config import Config
    from resift.serve.models import Models
    from resift.serve.request import Refusal

    other = copy.rename(tmp_path / "other-one")
    models = Models.load(Config(model=[str(artifact), str(other)], alias=[f"rerank-v3.5={other}"], name="mine"))
    try:
        true = models.rerankers["mine"].artifact.manifest.model.id
        assert list(models.rerankers) == ["mine", "other-one"]
        assert [models.choose(name)[0] for name in (None, "mine", true, artifact.name)] == ["mine"] * 4
        assert [models.choose(name)[0] for name in ("other-one", "rerank-v3.5")] == ["other-one"] * 2
        for name in ("unknown", str(artifact), str(other)):
            with pytest.raises(Refusal, match="is served; expected one of") as caught:
                models.choose(name)
            told = str(caught.value).partition("expected one of")[2]
            assert all(repr(known) in told for known in ("mine", true, artifact.name, "other-one", "rerank-v3.5"))
            assert str(artifact.parent) not in told
            assert str(tmp_path) not in told
    finally:
        models.close()


def test_models_of_one_name_need_other_folders(artifact, tmp_path):
    import shutil

    from resift.serve.config import Config
    from resift.serve.models import Models

    shutil.copytree(artifact, tmp_path / artifact.name)
    with pytest.raises(InputError, match=f"a model is named '{artifact.name}' already"):
        Models.load(Config(model=[str(artifact), str(tmp_path / artifact.name)]))


def test_the_embedded_model_has_its_two_names():
    from resift.serve.config import Config
    from resift.serve.models import Models

    models = Models.load(Config())
    try:
        assert list(models.names) == ["cross-encoder/ms-marco-MiniLM-L12-v2", "ms-marco-minilm-l12"]
        assert isinstance(models.rerankers[models.first], Reranker)
    finally:
        models.close()
