"""Samples of the activations that enter each product of a float32 graph, taken over the calibration set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from resift_export.graph import serialize

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import onnx_ir as ir

ROWS = 2048
"""Token vectors kept for each observed value: some 15 per pair of the built-in set."""
SEED = 7


def sample(
    model: ir.Model, names: Sequence[str], feeds: Iterable[Mapping[str, np.ndarray]], rows: int = ROWS
) -> dict[str, np.ndarray]:
    """Runs `model` over `feeds` and returns float32[<= rows, size] of each named value, drawn evenly from the pairs.

    Every pair contributes the same number of tokens, always including the first, which the head reads.
    """
    session = onnxruntime.InferenceSession(_with_outputs(model, names), providers=["CPUExecutionProvider"])
    feeds = list(feeds)
    share = max(1, rows // len(feeds))
    random = np.random.default_rng(SEED)
    kept: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for feed in feeds:
        for name, value in zip(names, session.run(list(names), dict(feed)), strict=True):
            vectors = value.reshape(-1, value.shape[-1])
            others = 1 + random.permutation(len(vectors) - 1)[: share - 1]
            kept[name].append(vectors[np.concatenate([[0], np.sort(others)])])
    return {name: np.concatenate(vectors) for name, vectors in kept.items()}


def _with_outputs(model: ir.Model, names: Sequence[str]) -> bytes:
    """The model with the named values as outputs, serialized."""
    observed = model.clone()
    values = {value.name: value for node in observed.graph for value in node.outputs}
    observed.graph.outputs[:] = [values[name] for name in names]
    return serialize(observed)
