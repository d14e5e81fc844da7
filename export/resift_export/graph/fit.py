"""fit: the linear maps by which frozen documents give keys and values, in closed form.

A frozen layer has no state of the document's tokens. Its keys and values are fitted to those of the graph that is not frozen, by
least squares with a ridge, from the last state before the frozen layers: https://en.wikipedia.org/wiki/Ridge_regression. A token
counts by how much the updated tokens read it in that layer, as its error reaches them so far. The ridge is chosen by rows that are
held out.

An int8 graph is fitted by itself: from the state as it is quantized, to the keys and values that it computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from resift_export.graph.edit import array_of
from resift_export.graph.freeze import KEY, QUERY, VALUE, Attentions, DocumentMap, LayerMaps
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
    values = [projection.inputs[0], *(node.inputs[index] for node in nodes for index in (QUERY, KEY, VALUE))]
    names = [str(value.name) for value in values if value is not None]
    session = open_session(model, scratch, list(dict.fromkeys(names)))
    fits = [_LayerFit(node) for node in nodes]
    for row in track(f"fit {layers} frozen layers", rows, report):
        state, *read = (value[0] for value in session.run(names, dict(row.feed)))
        states = _floats(state[row.updated :], projection)
        for each, *values_read in zip(fits, read[::3], read[1::3], read[2::3], strict=True):
            each.add(row, states, *values_read)
    return [each.maps() for each in fits]


def _floats(state: NDArray[np.generic], projection: ir.Node) -> NDArray[np.float64]:
    """The state that a product reads, as numbers, if it is quantized."""
    if projection.op_type == "MatMul":
        return state.astype(np.float64)
    scale, zero_point = array_of(projection.inputs[2]), array_of(projection.inputs[4])
    return (state.astype(np.float64) - np.float64(0 if zero_point is None else zero_point)) * scale


def _attention(node: ir.Node, queries: NDArray[np.float32], keys: NDArray[np.float32]) -> NDArray[np.float64]:
    """float64[tokens]: the mean square of what the `queries` read of each of the `keys`, over the heads."""
    heads = node.attributes["num_heads"].as_int()
    size = keys.shape[1] // heads
    of_queries, of_keys = (values.astype(np.float64).reshape(-1, heads, size).swapaxes(0, 1) for values in (queries, keys))
    scores = of_queries @ of_keys.swapaxes(1, 2) * node.attributes.get_float("scale", size**-0.5)
    shares = np.exp(scores - scores.max(axis=2, keepdims=True))
    shares /= shares.sum(axis=2, keepdims=True)
    return np.asarray(np.square(shares).mean(axis=(0, 1)))


class _LayerFit:
    """The fit of one frozen layer."""

    def __init__(self, node: ir.Node) -> None:
        """`node`: the layer's attention."""
        self._node = node
        self._moments: dict[bool, _Moments] = {}  # by whether it is held out

    def add(
        self,
        row: CalibrationRow,
        states: NDArray[np.float64],
        queries: NDArray[np.float32],
        keys: NDArray[np.float32],
        values: NDArray[np.float32],
    ) -> None:
        """Adds the document of a row. `states`: of its tokens; the others: of all tokens of the row, in this layer."""
        weights = _attention(self._node, queries[: row.updated], keys)[row.updated :]
        found = _Moments.of(states, np.concatenate([keys, values], axis=1)[row.updated :], weights)
        if row.is_held_out in self._moments:
            self._moments[row.is_held_out].add(found)
        else:
            self._moments[row.is_held_out] = found

    def maps(self) -> LayerMaps:
        """The maps to the keys, and to the values, each with the ridge that errs least on what is held out; fitted to all."""
        moments, ridges = self._moments[False], [RIDGES[0]] * 2
        if True in self._moments:
            held_out = self._moments[True]
            errors = [held_out.errors(moments.solve(ridge)).reshape(2, -1).sum(axis=1) for ridge in RIDGES]
            ridges = [RIDGES[best] for best in np.argmin(errors, axis=0)]
            moments.add(held_out)
        matrices = [np.split(moments.solve(ridge), 2, axis=1)[part].astype(np.float32) for part, ridge in enumerate(ridges)]
        return LayerMaps(*(DocumentMap(np.ascontiguousarray(matrix[:-1]), matrix[-1].copy()) for matrix in matrices))


class _Moments(NamedTuple):
    """Weighted sums over tokens, in float64, from which maps are solved. A state has a last component of 1, for the bias."""

    square: NDArray[np.float64]
    """[inputs + 1, inputs + 1]: states times states"""
    cross: NDArray[np.float64]
    """[inputs + 1, outputs]: states times what is computed from them"""
    norms: NDArray[np.float64]
    """[outputs]: the squares of that"""

    @classmethod
    def of(cls, states: NDArray[np.float64], targets: NDArray[np.floating], weights: NDArray[np.float64]) -> Self:
        """Those of tokens: states [n, inputs], what is to be computed from them, [n, outputs], and how much each counts, [n]."""
        inputs, outputs = np.column_stack([states, np.ones(len(states))]), targets.astype(np.float64)
        weighted = (inputs * weights[:, None]).T
        return cls(weighted @ inputs, weighted @ outputs, weights @ np.square(outputs))

    def add(self, other: Self) -> None:
        """Adds other tokens, in place."""
        for mine, theirs in zip(self, other, strict=True):
            np.add(mine, theirs, out=mine)

    def solve(self, ridge: float) -> NDArray[np.float64]:
        """[inputs + 1, outputs]: the map, its last row the bias. `ridge`: a share of the mean square of a component."""
        squares = np.diag(self.square)[:-1]
        penalty = np.append(np.full(len(squares), ridge * squares.mean()), 0.0)
        return np.linalg.solve(self.square + np.diag(penalty), self.cross)

    def errors(self, linear: NDArray[np.float64]) -> NDArray[np.float64]:
        """[outputs]: the sums of squared errors of a map."""
        return np.asarray(self.norms - 2 * (linear * self.cross).sum(axis=0) + (linear * (self.square @ linear)).sum(axis=0))
