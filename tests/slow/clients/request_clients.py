"""What clients.py asks, and clients that are applications: their requests, re-expressed, with how they read answers."""

from __future__ import annotations

from pathlib import Path

import requests

QUERY = "why are there two high tides a day"
FILE = Path(__file__).parents[3] / "examples" / "tides.txt"
DOCUMENTS = FILE.read_text(encoding="utf-8").splitlines()
TOP = 3
KEY = "a-key-of-the-test"
MODEL = "rerank-v3.5"
HEADERS = {"Authorization": f"Bearer {KEY}"}


def post(url, **body):
    reply = requests.post(url, json=body, headers=HEADERS, timeout=30)
    reply.raise_for_status()
    return reply.json()


def get(url):
    reply = requests.get(url, headers=HEADERS, timeout=30)
    reply.raise_for_status()
    return reply.json()


def best(scores):
    """The TOP best of (index, score) pairs."""
    return sorted(scores, key=lambda pair: -pair[1])[:TOP]


def tei_by_requests(url):
    return [(rank["index"], rank["score"]) for rank in post(f"{url}/rerank", query=QUERY, texts=DOCUMENTS, truncate=True)][:TOP]


def dify(url):
    """Its OpenAI-compatible provider: it looks the model up when credentials are saved, and takes the text from the answer."""
    assert get(f"{url}/v1/models/{MODEL}")["object"] == "model"
    found = post(f"{url}/v1/rerank", model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=TOP, return_documents=True)["results"]
    assert all(result["document"]["text"] == DOCUMENTS[result["index"]] for result in found)
    return [(result["index"], result["relevance_score"]) for result in found]


def dify_without_v1(url):
    found = post(f"{url}/rerank", model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=TOP, return_documents=True)["results"]
    return [(result["index"], result["relevance_score"]) for result in found]


def ragflow_xinference(url):
    """Booleans as text, all results, and the numbers of tokens."""
    body = {"model": MODEL, "query": QUERY, "return_documents": "true", "return_len": "true", "documents": DOCUMENTS}
    reply = post(f"{url}/v1/rerank", **body)
    tokens = reply["meta"]["tokens"]
    assert tokens["input_tokens"] + tokens["output_tokens"] > 0
    return best((result["index"], result["relevance_score"]) for result in reply["results"])


def ragflow_localai(url):
    reply = post(f"{url}/rerank", model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=len(DOCUMENTS))
    return best((result["index"], result["relevance_score"]) for result in reply["results"])


def lightrag(url):
    """It is given the whole path, here with a slash at its end, and reads `results`."""
    reply = post(f"{url}/v1/rerank/", model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=TOP)
    return [(result["index"], result["relevance_score"]) for result in reply["results"]]


def gpustack_score(url):
    reply = post(f"{url}/v1/score", model=MODEL, text_1=QUERY, text_2=DOCUMENTS)
    assert reply["usage"]["total_tokens"] > 0
    return best((pair["index"], pair["score"]) for pair in reply["data"])


def vllm_score(url):
    reply = post(f"{url}/score", model=MODEL, queries=[QUERY] * len(DOCUMENTS), documents=DOCUMENTS)
    return best((pair["index"], pair["score"]) for pair in reply["data"])


def llama_cpp(url):
    """The cases of its server's own tests of reranking."""
    for path in ("rerank", "reranking", "v1/rerank", "v1/reranking"):
        for top_n, count in ((None, len(DOCUMENTS)), (2, 2), (len(DOCUMENTS), len(DOCUMENTS)), (99, len(DOCUMENTS))):
            asked = {"query": QUERY} | ({} if top_n is None else {"top_n": top_n})
            reply = post(f"{url}/{path}", documents=DOCUMENTS, **asked)
            assert len(reply["results"]) == count
            assert reply["usage"]["prompt_tokens"] == reply["usage"]["total_tokens"]
            if path != "v1/rerank":
                assert len(post(f"{url}/{path}", texts=DOCUMENTS, **asked)) == count
        for documents in ([], None, 123, [1, 2, 3]):
            refused = requests.post(f"{url}/{path}", json={"query": QUERY, "documents": documents}, headers=HEADERS, timeout=30)
            assert refused.status_code == 400
            assert "error" in refused.json()
    reply = post(f"{url}/reranking", query=QUERY, documents=DOCUMENTS, top_n=TOP)
    return [(result["index"], result["relevance_score"]) for result in reply["results"]]


BY_REQUEST = dict.fromkeys(
    (
        tei_by_requests,
        dify,
        dify_without_v1,
        ragflow_xinference,
        ragflow_localai,
        lightrag,
        gpustack_score,
        vllm_score,
        llama_cpp,
    ),
    "requests",
)
"""Each of them with the package that sends it."""
