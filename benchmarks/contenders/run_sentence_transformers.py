"""Runs sentence-transformers' CrossEncoder on PyTorch in float32, as its documentation shows."""

from __future__ import annotations

from protocol import serve


def load(model, threads):
    import torch
    from sentence_transformers import CrossEncoder

    torch.set_num_threads(threads)
    encoder = CrossEncoder(model, device="cpu")

    def score(query, documents):
        return encoder.predict([(query, document) for document in documents], show_progress_bar=False)

    return score


serve(load, ("sentence-transformers", "transformers", "torch", "tokenizers"))
