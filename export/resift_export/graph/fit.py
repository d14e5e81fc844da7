"""fit: the linear maps by which frozen documents give keys and values, in closed form.

A frozen layer has no state of the document's tokens. Its keys and values are fitted to those of the graph that is not frozen, by
least squares with a ridge, from the last state before the frozen layers: https://en.wikipedia.org/wiki/Ridge_regression. The ridge
is chosen by rows that are held out. To count a token by how much it is read, or by the square of that, gained nothing.

An int8 graph is fitted by itself: from the state as it is quantized, to the keys and values that it computes.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from resift_export.graph.edit import array_of
from resift_export.graph.freeze import KEY, VALUE, Attentions, DocumentMap, LayerMaps
from resift_export.graph.weights import open_session
from resift_export.progress import no_report, track

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import onnx_ir as ir
    from numpy.typing import NDArray

    from resift_export.progress import Report

RIDGES = (1e-4, 1e-6, 1e-5, 1e-3, 1e-2, 1e-1)
"""The ridges that are tried, as shares of the mean square of the state's components; the first where no row is held out."""


class CalibrationRow(NamedTuple):
    """A pair by which the maps are fitted."""

    feed: Mapping[str, NDArray[np.int64]]
    """the graph's inputs, int64[1, width]"""
    updated: int
    """tokens at its beginning that all layers update"""
    is_held_out: bool = False
    """whether the ridge is chosen by it"""


def fit(  # noqa: PLR0913 - a graph, what is fitted by what, and how progress is reported
    model: ir.Model,
    layers: int,
    rows: Sequence[CalibrationRow],
    what: str,
    *,
    scratch: Path,
    report: Report = no_report,
) -> list[LayerMaps]:
    """The maps of the last `layers` of the graph but the first of them, which reads the frozen state itself.

    `what` names the model in messages. The session is written to the folder `scratch`. Raises ExportError if the layers cannot be
    frozen.
    """
    attentions = Attentions(model, what)
    projection = attentions.projection(layers)
    nodes = attentions.nodes[len(attentions.nodes) - layers + 1 :]
    if not nodes:
        return []
    values = [projection.inputs[0], *(node.inputs[index] for node in nodes for index in (KEY, VALUE))]
    names = [str(value.name) for value in values if value is not None]
    session = open_session(model, scratch, list(dict.fromkeys(names)))
    learned: list[_Moments] = []
    held_out: list[_Moments] = []
    for row in track(f"fit {layers} frozen layers", rows, report):
        state, *read = (value[0, row.updated :] for value in session.run(names, dict(row.feed)))
        states = _floats(state, projection)
        found = [_Moments.of(states, np.concatenate(pair, axis=1)) for pair in zip(read[::2], read[1::2], strict=True)]
        sums = held_out if row.is_held_out else learned
        sums[:] = [total.add(each) for total, each in zip(sums, found, strict=True)] if sums else found
    return [_maps(*moments) for moments in zip_longest(learned, held_out)]


def _floats(state: NDArray[np.generic], projection: ir.Node) -> NDArray[np.float64]:
    """The state that a product reads, as numbers, if it is quantized."""
    if projection.op_type == "MatMul":
        return state.astype(np.float64)
    scale, zero_point = (array_of(projection.inputs[index]) for index in (2, 4))
    assert scale is not None
    assert zero_point is not None
    return np.asarray((state.astype(np.float64) - zero_point.astype(np.float64)) * scale, np.float64)


def _maps(moments: _Moments, held_out: _Moments | None) -> LayerMaps:
    """The maps to the keys, and to the values, each with the ridge that errs least on what is held out; fitted to all."""
    ridges = [RIDGES[0]] * 2
    if held_out is not None:
        errors = [held_out.errors(moments.solve(ridge)).reshape(2, -1).sum(axis=1) for ridge in RIDGES]
        ridges = [RIDGES[best] for best in np.argmin(errors, axis=0)]
        moments = moments.add(held_out)
    matrices = [np.split(moments.solve(ridge), 2, axis=1)[part].astype(np.float32) for part, ridge in enumerate(ridges)]
    return LayerMaps(*(DocumentMap(np.ascontiguousarray(matrix[:-1]), matrix[-1].copy()) for matrix in matrices))


class _Moments(NamedTuple):
    """Sums over tokens, in float64, from which maps are solved. A state has a last component of 1, for the bias."""

    square: NDArray[np.float64]
    """[inputs + 1, inputs + 1]: states times states"""
    cross: NDArray[np.float64]
    """[inputs + 1, outputs]: states times what is computed from them"""
    norms: NDArray[np.float64]
    """[outputs]: the squares of that"""

    @classmethod
    def of(cls, states: NDArray[np.float64], targets: NDArray[np.floating]) -> Self:
        """Those of tokens: states [n, inputs], and what is to be computed from them, [n, outputs]."""
        inputs, outputs = np.column_stack([states, np.ones(len(states))]), targets.astype(np.float64)
        return cls(inputs.T @ inputs, inputs.T @ outputs, np.square(outputs).sum(axis=0))

    def add(self, other: Self) -> Self:
        """Adds other tokens, in place."""
        for mine, theirs in zip(self, other, strict=True):
            np.add(mine, theirs, out=mine)
        return self

    def solve(self, ridge: float) -> NDArray[np.float64]:
        """[inputs + 1, outputs]: the map, its last row the bias. `ridge`: a share of the mean square of a component."""
        squares = np.diag(self.square)[:-1]
        penalty = np.append(np.full(len(squares), ridge * squares.mean()), 0.0)
        return np.asarray(np.linalg.solve(self.square + np.diag(penalty), self.cross), np.float64)

    def errors(self, linear: NDArray[np.float64]) -> NDArray[np.float64]:
        """[outputs]: the sums of squared errors of a map."""
        return np.asarray(self.norms - 2 * (linear * self.cross).sum(axis=0) + (linear * (self.square @ linear)).sum(axis=0))
