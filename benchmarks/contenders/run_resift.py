"""resift with one of its plans."""

from __future__ import annotations

from protocol import scores_by_place, serve


def load(model, threads, plan="full"):
    from resift import Reranker, Settings

    reranker = Reranker.load(model or None, settings=Settings(threads=threads))

    def scores(ranking, documents):
        return scores_by_place([result.index for result in ranking], len(documents))

    def score(query, documents):
        return scores(reranker.rerank(query, documents, plan=plan), documents)

    def score_many(pools):
        queries, documents = zip(*pools, strict=True)
        return list(map(scores, reranker.rerank_many(queries, documents, plan=plan), documents))

    return score, score_many


serve(load, ("resift", "onnxruntime", "tokenizers", "numpy"))
