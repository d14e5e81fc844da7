"""FlashRank, which takes the whole pool in one padded forward, and the threads that onnxruntime chooses."""

from __future__ import annotations

from pathlib import Path

from protocol import scores_by_place, serve


def load(model, _threads):
    from flashrank import Ranker, RerankRequest

    folder = Path(model)
    ranker = Ranker(folder.name, cache_dir=str(folder.parent), log_level="ERROR")

    def score(query, documents):
        passages = [{"id": index, "text": document} for index, document in enumerate(documents)]
        return scores_by_place([passage["id"] for passage in ranker.rerank(RerankRequest(query, passages))], len(documents))

    return score


serve(load, ("flashrank", "onnxruntime", "tokenizers", "numpy"))
