"""flash-rerank, an engine in Rust on onnxruntime; its wheels are for Windows alone."""

from __future__ import annotations

from protocol import serve


def load(model, _threads):
    from flash_rerank import Reranker

    loaded = Reranker(model)

    def score(query, documents):
        scores = [0.0] * len(documents)
        for index, value in loaded.rerank(query, documents):
            scores[index] = value
        return scores

    return score


serve(load, ("flash-rerank",))
