"""Logits to relevance, relevance to scores. Pure numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from resift.errors import LogitsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Activation = Literal["identity", "sigmoid"]
ACTIVATIONS: tuple[Activation, ...] = ("identity", "sigmoid")


def relevance(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32[n], what pairs are ranked on, from logits float32[n, labels].

    One label: its logit. Two labels: the log-odds of the second, whose sigmoid is the softmax's second value.
    Raises LogitsError for NaN or infinity.
    """
    if not np.isfinite(logits).all():
        bad = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
        raise LogitsError(
            f"the model answered {logits[bad].tolist()} for pair {bad} of its batch; expected finite logits: "
            "the artifact does not fit this onnxruntime or machine, check it with `resift verify`"
        )
    return np.ascontiguousarray(logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0])


def activate(logits: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    """Scores, float32 of the same shape, on the scale the model declares."""
    if activation == "identity":
        return logits
    return (0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))).astype(np.float32)
