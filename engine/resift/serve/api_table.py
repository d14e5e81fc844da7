"""The table of APIs: which module answers which body at which path. A new format is a module like voyage.py, and a row here."""

from resift.serve import cohere, tei, vllm, voyage
from resift.serve.forms import ANY, Forms

HOSTED = {"top_n": cohere.V1, "top_k": voyage.RERANK, "truncation": voyage.RERANK, ANY: cohere.V1}
"""Cohere v1 and Jina, whose body and reply are one, and Voyage."""
SELF_HOSTED = {"texts": tei.RERANK, "documents": cohere.V1, ANY: tei.RERANK}
"""text-embeddings-inference, and infinity, vLLM, llama.cpp and LocalAI, which follow Jina."""
PATHS = {
    path: Forms(row)
    for path, row in {
        "/v2/rerank": {ANY: cohere.V2},
        "/v1/rerank": HOSTED,
        "/rerank": SELF_HOSTED,
        "/reranking": SELF_HOSTED,
        "/v1/reranking": SELF_HOSTED,
        "/score": {ANY: vllm.SCORE},
        "/v1/score": {ANY: vllm.SCORE},
    }.items()
}
