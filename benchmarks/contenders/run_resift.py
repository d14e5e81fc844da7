"""resift with one of its plans, and new or prepared documents."""

from __future__ import annotations

import atexit
from pathlib import Path
from tempfile import TemporaryDirectory

from protocol import scores_by_place, serve


def load(model, threads, plan="full", documents="new"):
    """`documents`: "new" to all calls, or "prepared" in a store, before the clock starts."""
    from resift import Reranker, Settings

    store = TemporaryDirectory(prefix="resift-states-") if documents == "prepared" else None
    settings = Settings(threads=threads, document_cache=0, store=store.name if store else "auto")
    reranker = Reranker.load(model or None, settings=settings)

    def scores(ranking, documents):
        return scores_by_place([result.index for result in ranking], len(documents))

    def score(query, documents):
        return scores(reranker.rerank(query, documents, plan=plan), documents)

    def score_many(pools):
        queries, documents = zip(*pools, strict=True)
        return list(map(scores, reranker.rerank_many(queries, documents, plan=plan), documents))

    if store is None:
        return score, score_many
    atexit.register(store.cleanup)
    return score, score_many, preparing(reranker, Path(store.name))


def preparing(reranker, folder):
    """A function that adds the documents of pools to the store in a folder."""
    from resift.pools.preparation import fill_store, header_of
    from resift.states.writer import StoreWriter

    header = header_of(reranker)

    def prepare(pools):
        with StoreWriter(folder, header) as writer:
            fill_store(reranker, (document for _, documents in pools for document in documents), writer)

    prepare([])  # a process looks for a store when it begins to read, and only seconds later again
    return prepare


serve(load, ("resift", "onnxruntime", "tokenizers", "numpy"))
