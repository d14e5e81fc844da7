"""finer: products of an int8 graph with 16-bit activations and some 11-bit weights, whose levels are those of the int8 graph."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from resift import ExportError
from resift.artifact.external_weights import SMALLEST
from resift_export.graph.edit import serialize
from resift_export.graph.optimize import optimize
from resift_export.graph.weights import save, save_with_shared_weights
from resift_export.int8.calibration import sample
from resift_export.int8.finer import CENTRE, STEPS, exact_weights, int8_products, pack, refine, remainders
from resift_export.int8.products import products
from resift_export.int8.quantize import quantize
from resift_export.int8.ranges import choose_ranges
from tests.support import tiny

PLACES = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(-0.5, 0.5, width=32))


@given(PLACES, st.sampled_from([STEPS, 63]))
def test_a_remainder_is_off_by_half_of_its_own_step(places, largest):
    steps = remainders(places, largest)
    assert np.abs(steps.astype(int)).max() <= largest
    assert np.abs(steps / (2 * largest) - places).max() <= 0.5 / (2 * largest) + 1e-6


@given(PLACES)
def test_remainders_are_packed_two_in_a_byte(places):
    steps = remainders(places, STEPS)
    packed = pack(steps)
    assert packed.shape == ((len(steps) + 1) // 2, *steps.shape[1:])
    unpacked = np.concatenate([packed & 15, packed >> 4])[: len(steps)].astype(int) - CENTRE
    assert (unpacked == steps).all()


def test_a_weight_outside_its_levels_step_has_the_largest_remainder():
    assert remainders(np.array([[0.6, -7.0]], np.float32), STEPS).tolist() == [[STEPS, -STEPS]]


@pytest.fixture(scope="module")
def graphs(trace_of_source, tmp_path_factory):
    """A tiny BERT's float32 graph, the int8 graph made from it, and pairs of short texts."""
    random = np.random.default_rng(1)
    ids = [random.integers(5, tiny.VOCABULARY, (1, width)) for width in (6, 9, 12, 14, 8, 7)]
    feeds = [{"input_ids": row, "token_type_ids": (np.arange(row.shape[1]) > 3).astype(np.int64)[None]} for row in ids]
    exact = optimize(trace_of_source.clone(), tiny.MAX_LENGTH)
    names = list(dict.fromkeys(str(product.source.name) for product in products(exact)))
    samples = sample(exact, names, feeds, tmp_path_factory.mktemp("scratch"))
    return exact, quantize(exact.clone(), choose_ranges(exact, samples)), feeds


def run(content, feeds):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(content, options)
    return np.concatenate([session.run(None, dict(feed))[0] for feed in feeds])


def test_the_more_products_are_finer_the_nearer_it_is_to_float32(graphs):
    exact, int8, feeds = graphs
    expected, weights, names = run(serialize(exact), feeds), exact_weights(exact), list(int8_products(int8))
    assert names
    assert set(names) <= weights.keys()
    errors = [np.abs(run(serialize(refine(int8, weights, names[:count])), feeds) - expected).max() for count in (0, len(names))]
    before = np.abs(run(serialize(int8), feeds) - expected).max()
    assert errors[1] < before / 4
    assert errors[1] < errors[0]


def test_a_pair_is_scored_to_the_bit_as_beside_others(graphs):
    exact, int8, feeds = graphs
    content = serialize(refine(int8, exact_weights(exact), list(int8_products(int8))))
    rows = [{name: np.repeat(value, 3, axis=0) for name, value in feed.items()} for feed in feeds]
    assert (run(content, rows).reshape(-1, 3) == run(content, feeds)).all()


def test_its_file_holds_no_large_weights_that_the_int8_file_has(graphs, tmp_path):
    exact, int8, feeds = graphs
    [path] = save(int8, tmp_path / "int8.onnx")
    refined = refine(ir.load(path), exact_weights(exact), list(int8_products(int8)))
    assert save_with_shared_weights(refined, tmp_path / "short.onnx", [path], 1024)
    tensors = ir.load(tmp_path / "short.onnx").graph.initializers.values()
    large = [value.const_value for value in tensors if value.const_value.nbytes >= SMALLEST]
    assert large
    assert all(isinstance(tensor, ir.ExternalTensor) for tensor in large)
    alone = run(serialize(refined), feeds)
    assert (run(str(tmp_path / "short.onnx"), feeds) == alone).all()


def test_weights_of_other_products_and_shapes_are_refused(graphs):
    exact, int8, _ = graphs
    names, weights = list(int8_products(int8)), exact_weights(exact)
    shape = re.escape(str(weights[names[0]].shape))
    with pytest.raises(ExportError, match=f"has {names[0]} of the shape {shape}, which the checkpoint's graph has not; leave"):
        refine(int8, {}, names[:1])
    with pytest.raises(
        ExportError, match=rf"has {names[0]} of the shape {shape}, which the checkpoint's graph has of the shape \(3, 2\)"
    ):
        refine(int8, {**weights, names[0]: np.zeros((3, 2), np.float32)}, names[:1])
