"""The default tracer checked against optimum's exporter. Needs the extra `optimum`, which pins an older transformers."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from resift_export.checkpoint import load as checkpoint
from resift_export.convert import convert
from resift_export.graph.edit import serialize
from resift_export.graph.optimize import optimize
from resift_export.graph.trace import trace, trace_with_optimum
from resift_export.int8.calibration import operations_of
from resift_export.recipe import Recipe
from tests.support import tiny

pytest.importorskip("optimum.exporters.onnx", reason="needs the extra optimum in a separate environment")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_both_tracers_give_the_same_logits(family, tmp_path):
    loaded = checkpoint.load(str(tiny.save(tmp_path / family, family)))
    graphs = [optimize(tracer(loaded), loaded.max_length) for tracer in (trace, trace_with_optimum)]
    sessions = [onnxruntime.InferenceSession(serialize(graph), providers=["CPUExecutionProvider"]) for graph in graphs]
    random = np.random.default_rng(3)
    assert all(operations_of(graph, tmp_path) > 0 for graph in graphs)
    for rows, width in ((1, 3), (2, 8), (3, loaded.max_length)):
        ids = random.integers(5, loaded.vocabulary - 1, (rows, width))
        feed = {"input_ids": ids, "token_type_ids": (np.arange(width)[None] > width // 2).repeat(rows, 0).astype(np.int64)}
        ours, theirs = (session.run(None, {item.name: feed[item.name] for item in session.get_inputs()})[0] for session in sessions)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_an_artifact_can_be_made_with_it(tmp_path):
    source = tiny.save(tmp_path / "bert", "bert")
    convert(str(source), tmp_path / "out", Recipe(tracer="optimum", precisions=("float32",)))
    assert (tmp_path / "out" / "model.float32.onnx").is_file()
