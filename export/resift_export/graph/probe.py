"""probe: evaluates a value of a traced graph at several of the widths that the engine may run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from onnx_ir.passes import common

from resift_export.graph.edit import array_of
from resift_export.graph.weights import open_session

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

WIDTHS = (1, 2, 3, 31, 127)
"""Widths at which a value is evaluated, in addition to the model's max length."""
BATCH_SIZE = 2


def values_at_widths(model: ir.Model, value: ir.Value, max_length: int) -> Iterator[np.ndarray | None]:
    """Yields `value` at several widths, beginning with the widest, the model's max length.

    Yielding one at a time limits memory: a mask of 8,192 tokens squared takes 64 MB. A constant is yielded once; None if the value
    is neither constant nor computed.
    """
    probe = model.clone()
    target = next((out for node in probe.graph for out in node.outputs if out.name == value.name), None)
    if target is None:
        yield array_of(value)
        return
    probe.graph.outputs[:] = [target]
    common.RemoveUnusedNodesPass()(probe)
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(probe, Path(folder))
    for width in sorted({*(width for width in WIDTHS if width < max_length), max_length}, reverse=True):
        feed = {item.name: np.full((BATCH_SIZE, width), 5, np.int64) for item in session.get_inputs()}
        yield cast("np.ndarray", session.run(None, feed)[0])
