"""fastembed's TextCrossEncoder with a custom model; the option is the ONNX file to load."""

from __future__ import annotations

from protocol import pairs_of, serve, split


def load(model, threads, file):
    from fastembed.common.model_description import ModelSource
    from fastembed.rerank.cross_encoder import TextCrossEncoder

    TextCrossEncoder.add_custom_model("compared/model", ModelSource(hf="compared/model"), file)
    encoder = TextCrossEncoder("compared/model", threads=threads, specific_model_path=model)
    return encoder.rerank, lambda pools: split(encoder.rerank_pairs(pairs_of(pools)), pools)


serve(load, ("fastembed", "onnxruntime", "tokenizers", "numpy"))
