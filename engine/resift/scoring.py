"""Logits to relevance, relevance to scores. Pure numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from resift.calibration import READING
from resift.errors import LogitsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resift.artifact.folder import Artifact
    from resift.artifact.manifest import Activation, Relevance
    from resift.settings import ResolvedSettings, Scale

ACTIVATION: dict[Scale, Activation] = {"logit": "identity", "sigmoid": "sigmoid"}
"""From the scale of scores to the activation that gives it."""


def logit_identity(artifact: Artifact, resolved: ResolvedSettings) -> dict[str, Any]:
    """What the logits of pairs depend on beside their texts, for `ScoreCalibration.check`: the artifact, and how pairs are read."""
    reading = {name: getattr(resolved, name) for name in READING}
    return {"artifact": artifact.fingerprint(), "model": artifact.manifest.model.id, **reading}


def relevance(logits: NDArray[np.float32], rule: Relevance, *, positions: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """The relevance that pairs are ranked on, float32[n], from logits float32[n, labels].

    "logit" (one label): the logit itself; "log-odds" (two labels): the second logit minus the first, whose sigmoid is the
    second softmax probability. Raises LogitsError for NaN or infinity; it names the document by its row, or by the row's entry in
    `positions`, int64[n].
    """
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.ascontiguousarray(logits[:, 0] if rule == "logit" else logits[:, 1] - logits[:, 0])
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        document = row if positions is None else int(positions[row])
        raise LogitsError(
            f"the model returned {logits[row].tolist()} for document {document}; expected finite logits: "
            "check the artifact on this machine with `resift verify`"
        )
    return values


def activate(logits: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    """Scores, float32 of the same shape."""
    if activation == "identity":
        return logits
    with np.errstate(under="ignore"):
        decay = np.exp(-np.abs(logits.astype(np.float64)))
        return (np.where(logits >= 0, 1.0, decay) / (1.0 + decay)).astype(np.float32)
