"""sentence-transformers' CrossEncoder on PyTorch in float32, as its documentation shows; with the option compile, torch.compile."""

from __future__ import annotations

from protocol import pairs_of, serve, split


def load(model, threads, mode=""):
    import torch
    from sentence_transformers import CrossEncoder

    torch.set_num_threads(threads)
    encoder = CrossEncoder(model, device="cpu")
    if mode == "compile":
        encoder.model.compile(dynamic=True)  # without it, every new shape is compiled anew

    def score_many(pools):
        return split(encoder.predict(pairs_of(pools), show_progress_bar=False), pools)

    return (lambda query, documents: score_many([(query, documents)])[0]), score_many


serve(load, ("sentence-transformers", "transformers", "torch", "tokenizers"))
