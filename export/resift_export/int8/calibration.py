"""Inputs of the products of a float32 graph: samples over the calibration set, and the operations per token."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from resift.artifact.signature import UPDATED
from resift_export.graph.edit import array_of
from resift_export.graph.freeze import PRODUCTS
from resift_export.graph.weights import open_session
from resift_export.memory import trim_heap
from resift_export.progress import no_report, track

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import onnx_ir as ir

    from resift_export.progress import Report

ROWS = 2048
"""Token vectors sampled of each observed value: some 15 per pair of the built-in set."""
SEED = 7
PROBE_WIDTHS = (8, 16)
"""Widths of the pairs by which `operations_of` distinguishes products of every token from others. In a frozen graph, the tokens of
the first are updated, and those of the second beyond them are not."""


class Calibration(NamedTuple):
    """A float32 graph and what it was calibrated with."""

    model: ir.Model
    feeds: Sequence[Mapping[str, np.ndarray]]
    """the graph's inputs, int64[1, width], for each pair of the calibration set; none if no variant is calibrated"""
    samples: Mapping[str, np.ndarray]
    """float32[rows, inputs] by name of the value, for a search only: they take as much memory as the weights"""
    scratch: Path
    """folder for sessions"""


def sample(
    model: ir.Model,
    names: Sequence[str],
    feeds: Sequence[Mapping[str, np.ndarray]],
    scratch: Path,
    *,
    report: Report = no_report,
) -> dict[str, np.ndarray]:
    """Runs `model` over `feeds` and returns float32[<= ROWS, size] for each named value, sampled evenly from the pairs.

    Every pair contributes the same number of tokens, always including the first one, which the head reads. The session is written
    to the folder `scratch`.
    """
    session = open_session(model, scratch, names)
    rows_per_pair = max(1, ROWS // len(feeds))
    random = np.random.default_rng(SEED)
    rows_by_name: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for feed in track("calibrate", feeds, report):
        for name, value in zip(names, session.run(list(names), dict(feed)), strict=True):
            vectors = value.reshape(-1, value.shape[-1])
            other_rows = 1 + random.permutation(len(vectors) - 1)[: rows_per_pair - 1]
            rows_by_name[name].append(vectors[np.concatenate([[0], np.sort(other_rows)])])
    del session
    trim_heap()
    samples: dict[str, np.ndarray] = {}
    for name in list(rows_by_name):
        samples[name] = np.concatenate(rows_by_name.pop(name))  # one at a time: memory does not hold all of them twice
    return samples


def operations_of(model: ir.Model, scratch: Path) -> int:
    """Multiplications and additions per token in products with constant weights, whatever their precision."""
    return sum(operations_by_product(model, scratch).values())


def operations_by_product(model: ir.Model, scratch: Path) -> dict[str, int]:
    """The operations per token of each product, by the name of its output.

    The model is run at two widths, as not every tracer records the shapes of values: products whose input does not grow with the
    width, such as the head's, run once per pair and count as 0. In a frozen graph, a token is one of a document.
    """
    names = [str(value.name) for value in model.graph.inputs]
    updated = {UPDATED: np.array(PROBE_WIDTHS[:1])} if UPDATED in names else {}
    narrow, wide = ({name: np.ones((1, width), np.int64) for name in names} | updated for width in PROBE_WIDTHS)
    return operations_between(model, scratch, narrow, wide, PROBE_WIDTHS[1] - PROBE_WIDTHS[0])


def operations_between(
    model: ir.Model, scratch: Path, narrow: Mapping[str, np.ndarray], wide: Mapping[str, np.ndarray], tokens: int
) -> dict[str, int]:
    """The operations of each product, as above, per token of the `tokens` by which the feed `wide` has more than `narrow`."""
    products = list(_products(model))
    names = list(dict.fromkeys(source for _, source, _ in products))
    session = open_session(model, scratch, names)
    before, after = (
        {name: value.size for name, value in zip(names, session.run(names, dict(feed)), strict=True)} for feed in (narrow, wide)
    )
    return {
        name: 2 * math.prod(shape) * (after[source] - before[source]) // (tokens * shape[0]) for name, source, shape in products
    }


def _products(model: ir.Model) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yields, for each product with a constant matrix, its name, the name of its input, and the matrix's shape."""
    for node in model.graph:
        source = node.inputs[0] if node.op_type in PRODUCTS else None
        if source is not None and source.producer() is not None:
            weights = array_of(node.inputs[1])
            if weights is not None and weights.ndim == 2:
                yield str(node.outputs[0].name), str(source.name), weights.shape
