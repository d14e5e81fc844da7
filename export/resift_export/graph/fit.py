"""fit: the linear maps by which frozen documents give keys and values, in closed form.

A frozen layer has no state of the document's tokens. Its keys and values are fitted to those of the model that is not frozen, by
least squares with a ridge, from the last state before the frozen layers: https://en.wikipedia.org/wiki/Ridge_regression
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from resift_export.graph.freeze import KEY, VALUE, Attentions, DocumentMap, LayerMaps
from resift_export.graph.weights import open_session
from resift_export.progress import no_report, track

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import onnx_ir as ir
    from numpy.typing import NDArray

    from resift_export.progress import Report

RIDGE = 1e-4
"""The ridge, as a share of the mean variance of the state's components."""


class CalibrationRow(NamedTuple):
    """A pair by which the maps are fitted."""

    feed: Mapping[str, NDArray[np.int64]]
    """the graph's inputs, int64[1, width]"""
    updated: int
    """tokens at its beginning that all layers update"""


def fit(  # noqa: PLR0913 - a graph, what is fitted by what, and how progress is reported
    exact: ir.Model,
    layers: int,
    rows: Sequence[CalibrationRow],
    what: str,
    *,
    scratch: Path,
    report: Report = no_report,
) -> list[LayerMaps]:
    """The maps of the last `layers` of the float32 graph but the first of them, which reads the frozen state itself.

    `what` names the model in messages. The session is written to the folder `scratch`. Raises ExportError if the layers cannot be
    frozen.
    """
    attentions = Attentions(exact, what)
    state = attentions.projection(layers).inputs[0]
    assert state is not None
    nodes = attentions.nodes[len(attentions.nodes) - layers + 1 :]
    targets = [node.inputs[index] for node in nodes for index in (KEY, VALUE)]
    names = [str(value.name) for value in (state, *targets) if value is not None]
    if not nodes:
        return []
    session = open_session(exact, scratch, list(dict.fromkeys(names)))
    moments = _Moments()
    for feed, updated in track(f"fit {layers} frozen layers", rows, report):
        first, *others = (value[0, updated:] for value in session.run(names, dict(feed)))
        moments.add(first, np.concatenate(others, axis=1))
    maps = moments.solve(len(names) - 1)
    return [LayerMaps(*pair) for pair in zip(maps[::2], maps[1::2], strict=True)]


class _Moments:
    """Sums over the document's tokens, in float64, from which the maps are solved."""

    def __init__(self) -> None:
        self._count = 0
        self._sums: list[NDArray[np.float64]] = []

    def add(self, states: NDArray[np.float32], targets: NDArray[np.float32]) -> None:
        """Adds tokens: states [n, inputs] and what is to be computed from them, [n, outputs]."""
        inputs, outputs = states.astype(np.float64), targets.astype(np.float64)
        terms = [inputs.sum(0), outputs.sum(0), inputs.T @ inputs, inputs.T @ outputs]
        self._count += len(inputs)
        self._sums = [total + term for total, term in zip(self._sums, terms, strict=True)] if self._sums else terms

    def solve(self, parts: int) -> list[DocumentMap]:
        """The maps to each of the equal `parts` of the targets."""
        inputs, outputs, square, cross = (total / self._count for total in self._sums)
        covariance = square - np.outer(inputs, inputs)
        ridge = RIDGE * float(np.trace(covariance)) / len(covariance)
        weights = np.linalg.solve(covariance + ridge * np.eye(len(covariance)), cross - np.outer(inputs, outputs))
        bias = outputs - inputs @ weights
        return [
            DocumentMap(np.ascontiguousarray(matrix, np.float32), np.ascontiguousarray(vector, np.float32))
            for matrix, vector in zip(np.split(weights, parts, axis=1), np.split(bias, parts), strict=True)
        ]
