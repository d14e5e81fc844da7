"""Runs real clients against a server: each must rank as `resift rerank` does. .ci/full runs it in a separate environment.

    pip install -r tests/slow/clients/clients.txt
    python tests/slow/clients/clients.py PATH_OF_RESIFT [--model ARTIFACT]

further_clients.txt names clients that cannot share their versions: install it in another environment, and pass it as --clients.
Starts `PATH_OF_RESIFT serve` with an API key. Exit code 1 if any client fails or ranks differently. resift does not have to be
installed in the environment of the clients.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import re
import subprocess
import sys
import traceback
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from request_clients import BY_REQUEST, DOCUMENTS, FILE, KEY, MODEL, QUERY, TOP, tei_by_requests


def cohere_v1(url):
    import cohere

    reply = cohere.Client(KEY, base_url=url).rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, return_documents=True, top_n=TOP)
    assert all(result.document.text == DOCUMENTS[result.index] for result in reply.results)
    return [(result.index, result.relevance_score) for result in reply.results]


def cohere_v2(url):
    import cohere

    reply = cohere.ClientV2(KEY, base_url=url).rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=TOP)
    assert reply.meta.tokens.input_tokens > 0
    return [(result.index, result.relevance_score) for result in reply.results]


def cohere_v2_async(url):
    import cohere

    async def ask():
        async with cohere.AsyncClientV2(KEY, base_url=url) as client:
            return await client.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=TOP)

    return [(result.index, result.relevance_score) for result in asyncio.run(ask()).results]


def cohere_errors(url):
    import cohere

    for key, change, kind in (
        ("wrong", {}, cohere.UnauthorizedError),
        (KEY, {"documents": []}, cohere.BadRequestError),
        (KEY, {"query": ""}, cohere.BadRequestError),
    ):
        try:
            cohere.ClientV2(key, base_url=url).rerank(**{"model": MODEL, "query": QUERY, "documents": DOCUMENTS} | change)
        except kind as error:
            message = error.body["message"]
        else:
            message = ""
        assert message, (kind, change or key)
    return cohere_v2(url)


def tei_by_huggingface_hub(url):
    # InferenceClient has no method for reranking; its users post through the session of huggingface_hub.
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    body = {"query": QUERY, "texts": DOCUMENTS}
    reply = get_session().post(f"{url}/rerank", json=body, headers=build_hf_headers(token=KEY))
    hf_raise_for_status(reply)
    return [(rank["index"], rank["score"]) for rank in reply.json()][:TOP]


def langchain_cohere_rerank(url):
    from langchain_cohere import CohereRerank

    return langchain(CohereRerank(cohere_api_key=KEY, base_url=url, model=MODEL, top_n=TOP))


def langchain_jina_rerank(url):
    from langchain_community.document_compressors import JinaRerank, jina_rerank

    jina_rerank.JINA_API_URL = f"{url}/v1/rerank"  # it has no parameter for the URL
    return langchain(JinaRerank(jina_api_key=KEY, top_n=TOP))


def langchain(compressor):
    from langchain_core.documents import Document

    found = compressor.compress_documents([Document(text, metadata={"n": n}) for n, text in enumerate(DOCUMENTS)], QUERY)
    assert all(document.page_content == DOCUMENTS[document.metadata["n"]] for document in found)
    return [(document.metadata["n"], document.metadata["relevance_score"]) for document in found]


def llamaindex_cohere_rerank(url):
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    return llamaindex(CohereRerank(api_key=KEY, base_url=url, model=MODEL, top_n=TOP, max_retries=1))


def llamaindex_jina_rerank(url):
    from llama_index.postprocessor.jinaai_rerank import JinaRerank

    return llamaindex(JinaRerank(api_key=KEY, base_url=f"{url}/v1", top_n=TOP))


def llamaindex_tei_rerank(url):
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    return llamaindex(TextEmbeddingInference(base_url=url, auth_token=f"Bearer {KEY}", top_n=TOP))


def llamaindex(postprocessor):
    from llama_index.core.schema import NodeWithScore, TextNode

    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(n)), score=0.0) for n, text in enumerate(DOCUMENTS)]
    found = postprocessor.postprocess_nodes(nodes, query_str=QUERY)
    return [(int(node.node.node_id), node.score) for node in found]


def litellm_cohere(url):
    return litellm("cohere", f"{url}/v2/rerank")


def litellm_jina_ai(url):
    return litellm("jina_ai", f"{url}/v1/rerank")


def litellm_infinity(url):
    return litellm("infinity", url, return_documents=False)  # it reads a document as a string, which no other client does


def litellm_hosted_vllm(url):
    return litellm("hosted_vllm", f"{url}/v1/rerank")  # it posts to /rerank


def litellm_huggingface(url):
    return litellm("huggingface", url)


def litellm(provider, url, *, return_documents=True):
    import litellm

    asked = {"query": QUERY, "documents": DOCUMENTS, "top_n": TOP, "return_documents": return_documents}
    reply = litellm.rerank(model=f"{provider}/{MODEL}", api_base=url, api_key=KEY, **asked)
    found = [result for result in reply.results if "document" in result]
    assert all(result["document"]["text"] == DOCUMENTS[result["index"]] for result in found)
    return [(result["index"], result["relevance_score"]) for result in reply.results]


def infinity_client(url):
    from infinity_client import AuthenticatedClient
    from infinity_client.api.default import rerank
    from infinity_client.models import RerankInput

    with AuthenticatedClient(base_url=url, token=KEY) as client:
        reply = rerank.sync(client=client, body=RerankInput(query=QUERY, documents=DOCUMENTS, model=MODEL, top_n=TOP))
    return [(result.index, result.relevance_score) for result in reply.results]


def rerankers_cohere(url):
    return rerankers("cohere", f"{url}/v1/rerank")


def rerankers_jina(url):
    return rerankers("jina", f"{url}/v1/rerank")


def rerankers_voyage(url):
    return rerankers("voyage", f"{url}/v1/rerank")


def rerankers_tei(url):
    return rerankers("text-embeddings-inference", f"{url}/rerank")


def rerankers(provider, url):
    from rerankers.models.api_rankers import APIRanker

    found = APIRanker(MODEL, KEY, provider, url=url).rank(QUERY, DOCUMENTS, doc_ids=list(range(len(DOCUMENTS))))
    return [(result.document.doc_id, result.score) for result in found.top_k(TOP)]


def voyageai(url):
    import voyageai

    found = voyageai.Client(KEY, base_url=f"{url}/v1").rerank(QUERY, DOCUMENTS, model="rerank-2.5", top_k=TOP).results
    assert all(result.document == DOCUMENTS[result.index] for result in found)
    return [(result.index, result.relevance_score) for result in found]


def openai_models(url):
    from openai import OpenAI

    with OpenAI(api_key=KEY, base_url=f"{url}/v1") as client:
        names = [model.id for model in client.models.list()]
        assert names
        assert client.models.retrieve(names[0]).id == names[0]
    return tei_by_requests(url)


CLIENTS = {
    cohere_v1: "cohere",
    cohere_v2: "cohere",
    cohere_v2_async: "cohere",
    cohere_errors: "cohere",
    tei_by_huggingface_hub: "huggingface_hub",
    langchain_cohere_rerank: "langchain-cohere",
    langchain_jina_rerank: "langchain-community",
    llamaindex_cohere_rerank: "llama-index-postprocessor-cohere-rerank",
    llamaindex_jina_rerank: "llama-index-postprocessor-jinaai-rerank",
    llamaindex_tei_rerank: "llama-index-postprocessor-tei-rerank",
    litellm_cohere: "litellm",
    litellm_jina_ai: "litellm",
    litellm_infinity: "litellm",
    litellm_hosted_vllm: "litellm",
    litellm_huggingface: "litellm",
    infinity_client: "infinity-client",
    rerankers_cohere: "rerankers",
    rerankers_jina: "rerankers",
    rerankers_voyage: "rerankers",
    rerankers_tei: "rerankers",
    voyageai: "voyageai",
    openai_models: "openai",
    **BY_REQUEST,
}
"""Each client with the name of its package."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("resift", help="the command to start, as in .venv/bin/resift")
    parser.add_argument("--model", default="", help="artifact (default: the embedded model)")
    parser.add_argument(
        "--clients", default=str(Path(__file__).with_name("clients.txt")), help="requirements whose clients are tried"
    )
    arguments = parser.parse_args()
    packages = {re.split(r"[<>=]", line)[0] for line in Path(arguments.clients).read_text(encoding="utf-8").split()}
    model = ["--model", arguments.model] if arguments.model else []
    expected = rank(arguments.resift, model)
    print(f"resift rerank: {expected}")
    failed = []
    with serving(arguments.resift, model) as url:
        for client, package in ((client, package) for client, package in CLIENTS.items() if package in packages):
            try:
                found = client(url)
                assert [index for index, _ in found] == [index for index, _ in expected], found
                assert all(abs(got - score) < 1e-6 for (_, got), (_, score) in zip(found, expected, strict=True)), found
            except Exception:  # noqa: BLE001 - every client is tried
                failed.append(client)
                traceback.print_exc()
            print(f"{'FAILED' if client in failed else 'ok':6} {client.__name__} ({package} {version(package)})", flush=True)
    return int(bool(failed))


def rank(resift: str, model: list[str]) -> list[tuple[int, float]]:
    """Index and relevance of the TOP best documents, from the logits that the command prints."""
    command = [resift, "rerank", QUERY, FILE, "--json", "--top-k", str(TOP), *model]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [(result["index"], 1 / (1 + math.exp(-result["logit"]))) for result in json.loads(output)["results"]]


@contextmanager
def serving(resift: str, model: list[str]):
    """Starts a server and yields its URL once it listens."""
    command = [resift, "serve", "--port", "0", *model]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "RESIFT_SERVE_API_KEY": KEY})
    try:
        for line in process.stderr:
            if line.startswith("{") and "port" in (event := json.loads(line)):
                break
            print(line, end="", file=sys.stderr)
        else:
            raise SystemExit(f"`{' '.join(command)}` ended before it listened")
        yield f"http://127.0.0.1:{event['port']}"
    finally:
        process.terminate()
        process.communicate()


if __name__ == "__main__":
    sys.exit(main())
