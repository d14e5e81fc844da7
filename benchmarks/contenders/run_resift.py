"""Runs resift with int8."""

from __future__ import annotations

from protocol import serve


def load(model, threads):
    from resift import Reranker, Settings

    return Reranker.load(model or None, settings=Settings(threads=threads)).score


serve(load, ("resift", "onnxruntime", "tokenizers", "numpy"))
