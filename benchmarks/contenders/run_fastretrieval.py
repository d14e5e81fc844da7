"""fastretrieval's TextCrossEncoder with a custom model; the option is the ONNX file to load."""

from __future__ import annotations

from protocol import pairs_of, serve, split


def load(model, threads, file):
    from fastretrieval.common.model_description import BaseModelDescription, ModelSource
    from fastretrieval.rerank import TextCrossEncoder
    from fastretrieval.rerank.cross_encoder.custom_text_cross_encoder import CustomTextCrossEncoder

    CustomTextCrossEncoder.add_model(BaseModelDescription("compared/model", ModelSource(hf="compared/model"), file))
    encoder = TextCrossEncoder("compared/model", threads=threads, specific_model_path=model, cuda=False)
    return encoder.rerank, lambda pools: split(encoder.rerank_pairs(pairs_of(pools)), pools)


serve(load, ("fastretrieval", "onnxruntime", "tokenizers", "numpy"))
