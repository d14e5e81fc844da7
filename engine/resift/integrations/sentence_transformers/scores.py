"""Scores: turns logits into the return values of sentence-transformers' CrossEncoder, with activations and softmax."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from resift.errors import ExtraError, InputError
from resift.scoring import activate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray


class Identity:
    """The logits as scores; stands for torch.nn.Identity()."""

    def __call__(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits."""
        return logits

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Sigmoid(Identity):
    """Scores in [0, 1]; stands for torch.nn.Sigmoid()."""

    def __call__(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The sigmoid of each logit."""
        return activate(logits, "sigmoid")


class Card:
    """Receives the figures that sentence-transformers' evaluators write into a model card; no card is written."""

    def __init__(self) -> None:
        self.figures: list[Mapping[str, Any]] = []

    def set_evaluation_metrics(self, evaluator: object, metrics: Mapping[str, Any], epoch: int = 0, step: int = 0) -> None:  # noqa: ARG002
        """Keeps the `metrics`."""
        self.figures.append(metrics)


def scores_of(outputs: NDArray[np.float32], activation: Callable[..., Any], *, softmax: bool) -> NDArray[Any]:
    """Scores [n], or [n, labels] of a model with several labels, from its outputs float32[n, labels].

    `activation` receives the outputs as a torch.Tensor if torch has been imported, as functions written for sentence-transformers
    expect, and otherwise, or if it is a numpy ufunc, as an array; it is not called if there are no outputs. Scores have the type
    that it returns. Raises InputError if it returns another number of rows.
    """
    if not len(outputs):
        return np.empty(0, np.float32)
    torch = None if isinstance(activation, Identity | np.ufunc) else sys.modules.get("torch")
    returned = activation(outputs if torch is None else torch.from_numpy(outputs))
    if torch is not None and isinstance(returned, torch.Tensor):
        is_short = returned.dtype in (torch.float16, torch.bfloat16)
        returned = (returned.float() if is_short else returned).detach().cpu().numpy()
    scores: NDArray[Any] = np.asarray(returned)
    if scores.ndim == 0 or len(scores) != len(outputs):
        raise InputError(f"activation_fn returned shape {scores.shape} for logits of shape {outputs.shape}; expected as many rows")
    if outputs.shape[1] == 1 and scores.ndim > 1:
        scores = scores.squeeze(-1)
    if softmax and scores.ndim > 1:
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores = powers / powers.sum(axis=1, keepdims=True)
    return scores


def array_of(scores: NDArray[Any]) -> NDArray[Any]:
    """The scores as sentence-transformers returns them in numpy: float32, but float64 if there are none."""
    return scores.astype(np.float32) if len(scores) else np.array([])


def import_torch() -> Any:
    """The module torch. Raises ExtraError if it is not installed."""
    try:
        return import_module("torch")
    except ImportError as error:
        raise ExtraError(
            f"convert_to_tensor, and convert_to_numpy=False, give torch.Tensors, and torch cannot be imported ({error}): "
            "pip install torch, or use the numpy array that is returned without them"
        ) from error
