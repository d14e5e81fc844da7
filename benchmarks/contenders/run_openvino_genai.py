"""OpenVINO GenAI's TextRerankPipeline, which needs neither PyTorch nor transformers."""

from __future__ import annotations

from protocol import scores_by_place, serve

EVERY = 1 << 20
"""More results than any pool has documents."""


def load(model, threads):
    import openvino_genai

    pipeline = openvino_genai.TextRerankPipeline(model, "CPU", top_n=EVERY, INFERENCE_NUM_THREADS=threads)

    def score(query, documents):
        return scores_by_place([index for index, _ in pipeline.rerank(query, documents)], len(documents))

    return score


serve(load, ("openvino-genai", "openvino", "openvino-tokenizers"))
