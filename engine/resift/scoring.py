"""Logits to relevance, relevance to scores. Pure numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resift.errors import LogitsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resift.artifact.manifest import Activation, Relevance


def relevance(logits: NDArray[np.float32], rule: Relevance, *, positions: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """float32[n], what pairs are ranked on, from logits float32[n, labels].

    "logit" (one label): the logit itself; "log-odds" (two labels): the second logit minus the first, whose sigmoid is the
    second softmax probability. Raises LogitsError for NaN or infinity, which names the document by its row, or by `positions`,
    int64[n], if given.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        ranked = np.ascontiguousarray(logits[:, 0] if rule == "logit" else logits[:, 1] - logits[:, 0])
    if not np.isfinite(ranked).all():
        bad = int(np.flatnonzero(~np.isfinite(ranked))[0])
        named = bad if positions is None else int(positions[bad])
        raise LogitsError(
            f"the model returned {logits[bad].tolist()} for document {named}; expected finite logits: "
            "check the artifact on this machine with `resift verify`"
        )
    return ranked


def activate(logits: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    """Scores, float32 of the same shape, on the scale the model declares."""
    if activation == "identity":
        return logits
    with np.errstate(under="ignore"):
        falling = np.exp(-np.abs(logits.astype(np.float64)))
        return (np.where(logits >= 0, 1.0, falling) / (1.0 + falling)).astype(np.float32)
