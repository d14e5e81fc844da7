"""infinity-emb's engine with PyTorch, in the process and without its HTTP server."""

from __future__ import annotations

import asyncio

from protocol import serve


def load(model, threads):
    import torch
    from infinity_emb import AsyncEmbeddingEngine, EngineArgs

    torch.set_num_threads(threads)
    arguments = EngineArgs(model_name_or_path=model, engine="torch", device="cpu", bettertransformer=False, model_warmup=False)
    engine = AsyncEmbeddingEngine.from_args(arguments)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(engine.astart())

    async def ask(query, documents):
        results, _ = await engine.rerank(query=query, docs=documents, raw_scores=True)
        scores = [0.0] * len(documents)
        for result in results:
            scores[result.index] = result.relevance_score
        return scores

    async def ask_all(pools):
        return await asyncio.gather(*(ask(query, documents) for query, documents in pools))

    def score(query, documents):
        return loop.run_until_complete(ask(query, documents))

    return score, lambda pools: loop.run_until_complete(ask_all(pools))


serve(load, ("infinity-emb", "sentence-transformers", "transformers", "torch"))
