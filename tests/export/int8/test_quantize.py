"""quantize: 7-bit weights, ranges chosen by the error of the product, and a graph in which all scales are fixed."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from resift_export.graph.edit import CONTRIB, array_of, serialize
from resift_export.int8 import ranges
from resift_export.int8.levels import VNNI_LEVELS, WEIGHT_LEVELS, quantize_weights
from resift_export.int8.products import products
from resift_export.int8.quantize import quantize
from resift_export.int8.ranges import Range, choose_range, choose_ranges, noise
from tests.support import tiny

FLOATS = st.floats(-1e4, 1e4, width=32)
MATRICES = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=FLOATS)


@given(MATRICES, st.sampled_from([WEIGHT_LEVELS, VNNI_LEVELS]))
def test_weights_are_seven_or_eight_bits_and_off_by_half_a_step(weights, largest):
    levels, scales = quantize_weights(weights, largest)
    assert levels.dtype == np.int8
    assert levels.shape == weights.shape
    assert scales.dtype == np.float32
    assert scales.shape == weights.shape[1:]
    assert np.abs(levels.astype(int)).max() <= largest
    assert (scales > 0).all()
    exact = weights.astype(np.float64)
    assert (np.abs(levels * scales.astype(np.float64) - exact) <= scales * 0.5001).all()


@given(MATRICES)
def test_each_column_uses_its_own_scale_in_full(weights):
    levels, scales = quantize_weights(weights)
    is_used = np.abs(weights).max(axis=0) > 1e-6
    assert (np.abs(levels.astype(int)).max(axis=0)[is_used] == 63).all()
    for column in range(weights.shape[1]):
        single, scale = quantize_weights(weights[:, [column]])
        assert single[:, 0].tolist() == levels[:, column].tolist()
        assert scale[0] == scales[column]


def test_zero_column():
    weights = np.array([[0, 1], [0, -3]], np.float32)
    levels, scales = quantize_weights(weights)
    assert levels.tolist() == [[0, 21], [0, -63]]
    assert np.isfinite(scales).all()
    assert scales[0] > 0


def test_two_products_fit_the_lanes_of_avx2():
    # vpmaddubsw sums two u8 x s8 products in 16 bits, with saturation.
    assert 255 * WEIGHT_LEVELS * 2 < 2**15 <= 255 * (WEIGHT_LEVELS + 2) * 2


@given(
    arrays(np.float32, (5, 3), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    st.floats(1e-6, 1e3),
    st.integers(0, 255),
    st.none() | arrays(np.float32, 3, elements=st.floats(0.0625, 16, width=32)),
)
def test_levels_are_bytes(activations, scale, zero_point, smoothing):
    levels = Range(scale, zero_point, smoothing).quantize(activations)
    assert levels.shape == activations.shape
    assert levels.min() >= 0
    assert levels.max() <= 255
    assert (levels == np.rint(levels)).all()
    assert Range(scale, zero_point, smoothing).quantize(np.zeros((1, 3), np.float32)).tolist() == [[zero_point] * 3]


def test_levels_of_known_values():
    chosen = Range(0.5, 10, np.array([1, 2], np.float32))
    assert chosen.quantize(np.array([[1.0, 1.0], [-5.0, -5.0], [1000, -0.3]], np.float32)).tolist() == [[12, 14], [0, 0], [255, 9]]


def int8_error(chosen, activations, weights):
    """Mean squared error of the whole int8 product, recomputed independently."""
    folded = weights if chosen.smoothing is None else weights / chosen.smoothing[:, None]
    levels, scales = quantize_weights(folded)
    found = (chosen.quantize(activations) - chosen.zero_point) @ (levels * scales.astype(np.float64)) * chosen.scale
    return float(np.square(found - activations.astype(np.float64) @ weights).mean())


def min_max(activations):
    low, high = min(float(activations.min()), 0.0), max(float(activations.max()), 0.0)
    scale = (high - low) / 255
    return Range(scale, round(-low / scale), None)


CHANNEL_3 = np.arange(24) == 3
FIRST_VALUE = np.arange(200 * 24).reshape(200, 24) == 0
KINDS = {
    "normal": lambda activations, weights: (activations, weights),
    "outlier channel": lambda activations, weights: (
        np.where(CHANNEL_3, activations * 60, activations),
        np.where(CHANNEL_3[:, None], weights / 20, weights),
    ),
    "outlier value": lambda activations, weights: (np.where(FIRST_VALUE, 40.0, activations), weights),
    "positive": lambda activations, weights: (np.abs(activations), weights),
    "negative": lambda activations, weights: (-np.abs(activations), weights),
    "shifted": lambda activations, weights: (activations + 5, weights),
    "constant": lambda activations, weights: (np.full_like(activations, 0.75), weights),
}


def sampled(kind, seed):
    random = np.random.default_rng(seed)
    activations, weights = KINDS[kind](random.normal(size=(200, 24)), random.normal(size=(24, 16)))
    return activations.astype(np.float32), weights.astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_chosen_range_is_never_worse_than_min_and_max(kind, seed):
    activations, weights = sampled(kind, seed)
    chosen = choose_range(activations, weights)
    assert 0 <= chosen.zero_point <= 255
    assert int8_error(chosen, activations, weights) <= int8_error(min_max(activations), activations, weights) * 1.001 + 1e-12


def test_chosen_range_evens_out_an_outlier_channel():
    activations, weights = sampled("outlier channel", 0)
    chosen = choose_range(activations, weights)
    assert chosen.smoothing is not None
    assert chosen.smoothing.argmin() == 3
    assert int8_error(chosen, activations, weights) < 0.2 * int8_error(min_max(activations), activations, weights)


def test_chosen_range_clips_a_lone_outlier():
    activations, weights = sampled("normal", 0)
    activations[0] = 0
    activations[0, 0] = 12
    weights[0] *= 0.05
    plain = choose_range(activations, weights)
    found, naive = int8_error(plain, activations, weights), int8_error(min_max(activations), activations, weights)
    assert found < 0.7 * naive


def exhaustive(activations, weights):
    """The smallest error of all ranges, each measured over all activations."""
    kinds = [ranges._SmoothedWeights.of(activations, weights, migration, WEIGHT_LEVELS) for migration in ranges.MIGRATIONS]
    return min(int8_error(found, activations, weights) for kind in kinds for found in kind.ranges(ranges.CLIPS))


FEW_FAR = np.arange(2048) % 400 == 7
LARGE_KINDS = {
    "normal": lambda activations: activations,
    "heavy tails": lambda activations: activations * np.abs(activations) ** 1.5,
    "a few far vectors": lambda activations: np.where(FEW_FAR[:, None], activations * 40, activations),
    "a few far values": lambda activations: np.where(FEW_FAR[:, None] & CHANNEL_3, 60.0, activations),
    "outlier channel": lambda activations: np.where(CHANNEL_3, activations * 60, activations),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", LARGE_KINDS)
def test_ranges_dropped_early_are_not_missed(kind, seed):
    random = np.random.default_rng(seed)
    activations = LARGE_KINDS[kind](random.normal(size=(2048, 24))).astype(np.float32)
    weights = random.normal(size=(24, 40)).astype(np.float32)
    chosen = choose_range(activations, weights)
    assert int8_error(chosen, activations, weights) <= 1.02 * exhaustive(activations, weights)


def test_most_ranges_are_dropped_by_a_part_of_the_activations(monkeypatch):
    multiplied, errors = [], ranges._SmoothedWeights.errors

    def counted(self, activation_range, activations, exact):
        multiplied.append(len(activations))
        return errors(self, activation_range, activations, exact)

    monkeypatch.setattr(ranges._SmoothedWeights, "errors", counted)
    random = np.random.default_rng(0)
    choose_range(random.normal(size=(2048, 24)).astype(np.float32), random.normal(size=(24, 40)).astype(np.float32))
    assert len(multiplied) > len(ranges.CLIPS) * len(ranges.MIGRATIONS)
    assert sum(multiplied) < 8 * 2048


def test_range_of_nothing_but_zeros():
    chosen = choose_range(np.zeros((4, 3), np.float32), np.ones((3, 2), np.float32))
    assert chosen.scale > 0
    assert chosen.quantize(np.zeros((1, 3), np.float32)).tolist() == [[chosen.zero_point] * 3]


@pytest.fixture(scope="module")
def graphs(artifact_of):
    folder = artifact_of("bert")
    return {precision: ir.load(folder / f"model.{precision}.onnx") for precision in ("float32", "int8")}


def ops(model, op_type):
    return [node for node in model.graph if node.op_type == op_type]


def test_every_large_product_is_int8(graphs):
    weighed = [array_of(node.inputs[1]).shape for node in ops(graphs["float32"], "MatMul")]
    assert len(weighed) == 6 * tiny.SIZE["num_hidden_layers"] + 2
    assert [array_of(node.inputs[1]).shape for node in ops(graphs["int8"], "MatMul")] == [(64, 1)]
    large = [shape for shape in weighed if min(shape) >= 16]
    integer = ops(graphs["int8"], "MatMulIntegerToFloat")
    assert sorted(array_of(node.inputs[1]).shape for node in integer) == sorted(large)
    assert {node.domain for node in integer} == {CONTRIB}
    assert len(products(graphs["float32"])) == len(large)
    assert products(graphs["int8"]) == []


def test_classifier_stays_as_it_was(graphs):
    exact, quantized = (array_of(ops(graphs[precision], "MatMul")[-1].inputs[1]) for precision in ("float32", "int8"))
    assert quantized.dtype == np.float32
    assert quantized.tolist() == exact.tolist()


def test_bias_joins_its_product(graphs):
    for node in ops(graphs["int8"], "MatMulIntegerToFloat"):
        assert array_of(node.inputs[6]).shape == (array_of(node.inputs[1]).shape[1],)
    biases = [node for node in ops(graphs["int8"], "Add") if any(value.const_value is not None for value in node.inputs)]
    assert [array_of(node.inputs[1]).shape for node in biases] == [(1,)]


def test_weights_and_zero_points_of_the_graph(graphs):
    exact = {array.tobytes(): array for array in (array_of(node.inputs[1]) for node in ops(graphs["float32"], "MatMul"))}
    assert exact
    for node in ops(graphs["int8"], "MatMulIntegerToFloat"):
        _, weights, scale, scales, zero_point = (array_of(value) for value in node.inputs[:5])
        assert weights.dtype == np.int8
        magnitudes = np.abs(weights.astype(int))
        assert magnitudes.max() == 63
        assert 255 * (magnitudes[0::2] + magnitudes[1::2]).max() < 2**15
        assert (zero_point.dtype, zero_point.shape, scale.dtype, scale.shape) == (np.uint8, (), np.float32, ())
        assert (scales.dtype, scales.shape) == (np.float32, weights.shape[1:])
        assert scale > 0
        assert (scales > 0).all()
        source = node.inputs[0].producer()
        assert source.op_type == "QuantizeLinear"
        assert source.inputs[1] is node.inputs[2]
        assert source.inputs[2] is node.inputs[4]


def test_products_of_one_source_share_its_levels(graphs):
    for layer in ops(graphs["int8"], "MultiHeadAttention")[:1]:
        levels = {value.producer().inputs[0] for value in layer.inputs}
        assert len(levels) == 1


def test_nothing_is_measured_at_run_time(graphs):
    assert not {"DynamicQuantizeLinear", "ReduceMax", "ReduceMin"} & {node.op_type for node in graphs["int8"].graph}


def test_embedding_tables_are_int8(graphs):
    def tables(precision):
        found = [array_of(node.inputs[0]) for node in ops(graphs[precision], "Gather")]
        return {(table.shape, str(table.dtype)) for table in found if table is not None and table.ndim == 2}

    words, positions, segments = (tiny.VOCABULARY, 64), (tiny.MAX_LENGTH, 64), (2, 64)
    assert tables("float32") == {(words, "float32"), (positions, "float32"), (segments, "float32")}
    assert tables("int8") == {
        (words, "int8"),
        ((words[0], 1), "float32"),
        (positions, "int8"),
        ((positions[0], 1), "float32"),
        (segments, "float32"),
    }


def test_embedding_rows_are_off_by_half_a_step(graphs):
    def table(precision, shape, dtype):
        found = (array_of(node.inputs[0]) for node in ops(graphs[precision], "Gather"))
        return next(array for array in found if array is not None and array.shape == shape and array.dtype == dtype)

    exact = table("float32", (tiny.VOCABULARY, 64), np.float32)
    levels, scales = table("int8", exact.shape, np.int8), table("int8", (tiny.VOCABULARY, 1), np.float32)
    assert np.abs(levels.astype(int)).max() == 127
    assert (np.abs(levels * scales.astype(np.float64) - exact) <= scales * 0.5001).all()


SMALL = """<ir_version: 10, opset_import: ["" : 20]>
small (float[b, 24] x) => (float[b, 2] logits) {
    start = Identity (x)
    wide = MatMul (start, weights_wide)
    shifted = Add (bias_wide, wide)
    other = MatMul (start, weights_other)
    doubled = Add (other, other)
    joined = Add (shifted, doubled)
    hot = Tanh (joined)
    logits = MatMul (hot, weights_label)
}"""


def small(kind):
    activations, _ = sampled(kind, 0)
    random = np.random.default_rng(5)
    sizes = {"weights_wide": (24, 32), "bias_wide": (32,), "weights_other": (24, 32), "weights_label": (32, 2)}
    proto = onnx.parser.parse_model(SMALL)
    for name, size in sizes.items():
        array = random.normal(0, 0.1, size).astype(np.float32)
        if kind == "outlier channel" and len(array) == 24:
            array[3] /= 60
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto)), activations


def run(model, activations):
    session = onnxruntime.InferenceSession(serialize(model), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"x": activations})[0]


@pytest.mark.parametrize("kind", ["normal", "shifted", "outlier channel"])
def test_int8_graph_answers_nearly_the_same(kind):
    model, activations = small(kind)
    exact = run(model, activations)
    found = run(quantize(model, choose_ranges(model, {"start": activations})), activations)
    assert np.abs(found - exact).max() < 0.03 * np.ptp(exact)
    assert np.abs(found - exact).max() > 0
    smoothed = ops(model, "Mul")
    assert len(ops(model, "QuantizeLinear")) == 1
    assert kind != "outlier channel" or len(smoothed) == 1


@pytest.mark.parametrize("exclude", [{"wide"}, {"other"}, {"wide", "other"}])
def test_products_that_are_left_stay_as_they_were(exclude):
    model, activations = small("outlier channel")
    exact = {product.name: product.weights.tobytes() for product in products(model)}
    assert list(exact) == ["wide", "other"]
    quantize(model, choose_ranges(model, {"start": activations}), exclude=exclude)
    float32_weights = {node.outputs[0].name: array_of(node.inputs[1]).tobytes() for node in ops(model, "MatMul")}
    del float32_weights["logits"]
    assert float32_weights == {name: exact[name] for name in exclude}
    assert len(ops(model, "MatMulIntegerToFloat")) == 2 - len(exclude)
    assert len(ops(model, "QuantizeLinear")) == (len(exclude) < 2)


@pytest.mark.parametrize("kind", ["normal", "shifted", "outlier channel"])
def test_noise_is_the_error_of_the_int8_product_over_its_variance(kind):
    activations, weights = sampled(kind, 0)
    model, _ = small(kind)
    product = dataclasses.replace(products(model)[0], weights=weights)
    chosen = choose_range(activations, weights)
    variance = float((activations.astype(np.float64) @ weights).var(axis=0).mean())
    assert noise(product, activations, chosen) == pytest.approx(int8_error(chosen, activations, weights) / variance, rel=1e-3)


def test_bias_before_its_product_joins_it_and_a_sum_of_itself_does_not():
    model, activations = small("normal")
    quantize(model, choose_ranges(model, {"start": activations}))
    wide, other = ops(model, "MatMulIntegerToFloat")
    assert array_of(wide.inputs[6]).shape == (32,)
    assert len([value for value in other.inputs if value is not None]) == 5
    assert len(ops(model, "Add")) == 2


def test_int8_logits_of_a_row_do_not_depend_on_the_others():
    model, activations = small("outlier channel")
    quantize(model, choose_ranges(model, {"start": activations}))
    batched = run(model, activations)
    assert batched.tolist() == [run(model, row[None])[0].tolist() for row in activations]
    assert batched[:5].tolist() == run(model, np.concatenate([activations[:5], activations[:5] * 1000]))[:5].tolist()


def test_small_products_and_tables_are_left_alone(monkeypatch):
    model, activations = small("normal")
    for module in ("products", "quantize"):
        monkeypatch.setattr(f"resift_export.int8.{module}.SMALLEST_SIDE", 25)
    exact = run(model, activations)
    assert products(model) == []
    assert run(quantize(model, {}), activations).tolist() == exact.tolist()
