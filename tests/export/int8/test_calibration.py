"""The counted operations of a graph's products."""

from __future__ import annotations

import pytest

from resift_export.graph.optimize import optimize
from resift_export.int8.calibration import operations_of
from tests.support import tiny


@pytest.mark.parametrize("are_shapes_known", [True, False])
def test_operations_are_those_of_every_token(trace_of_source, are_shapes_known, tmp_path):
    model = optimize(trace_of_source.clone(), tiny.MAX_LENGTH)
    if not are_shapes_known:  # as in optimum's traces
        for node in model.graph:
            for value in node.outputs:
                value.shape = None
    hidden, intermediate = tiny.SIZE["hidden_size"], tiny.SIZE["intermediate_size"]
    # Two layers; the last one computes only keys and values for every token, all else for the first token.
    assert operations_of(model, tmp_path) == 2 * (4 * hidden**2 + 2 * hidden * intermediate + 2 * hidden**2)
