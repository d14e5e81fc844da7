"""freeze: in the last layers, a document's keys and values come from one state, by maps that are fitted to the model's own."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from resift import ExportError
from resift_export.checkpoint import load as checkpoint
from resift_export.graph.edit import lower_opset, serialize
from resift_export.graph.fit import RIDGES, CalibrationRow, _maps, _Moments, fit
from resift_export.graph.freeze import Attentions, DocumentMap, LayerMaps, freeze
from resift_export.graph.optimize import optimize
from resift_export.graph.trace import trace
from tests.support import tiny

LAYERS = 4
KEYS = ("key", "k_lin")
VALUES = ("value", "v_lin")
REFUSED = {"modernbert": "sees only those near it", "deberta-v2": "by position", "mpnet": "by position"}


@pytest.fixture(scope="module")
def deep(built):
    """deep(family): a checkpoint of LAYERS layers with random weights, and its optimized graph."""
    found = {}

    def make(family):
        if family not in found:
            loaded = checkpoint.load(str(built(f"{family}-deep", lambda folder: tiny.save_random(folder, family, LAYERS))))
            found[family] = loaded, lower_opset(optimize(trace(loaded), tiny.MAX_LENGTH))
        return found[family]

    return make


def feed(loaded, batch, width):
    ids = np.random.default_rng(width).integers(5, tiny.VOCABULARY, (batch, width))
    segments = np.broadcast_to(np.arange(width) >= 9, ids.shape).astype(np.int64)
    return loaded.signature.feed({"input_ids": ids, "token_type_ids": segments})


def run(model, inputs, updated=None):
    session = onnxruntime.InferenceSession(serialize(model), providers=["CPUExecutionProvider"])
    return session.run(None, {**inputs, **({} if updated is None else {"updated_tokens": np.array([updated])})})[0]


def reference(loaded, inputs, maps, updated):
    """The checkpoint's own logits with the keys and values of the document's tokens in the last layers put in their place."""
    calls, states = {"keys": 0, "values": 0}, []
    first = LAYERS - len(maps) - 1

    def hook(which):
        def put(module, arguments, output):
            layer, calls[which] = calls[which], calls[which] + 1
            if layer == first:
                states.append(arguments[0])
            elif layer > first:
                linear = getattr(maps[layer - first - 1], which)
                output = output.clone()
                output[:, updated:] = states[0][:, updated:] @ torch.tensor(linear.weights) + torch.tensor(linear.bias)
            return output

        return put

    modules = [(name.rpartition(".")[2], module) for name, module in loaded.model.named_modules()]
    handles = [
        module.register_forward_hook(hook(which))
        for which, names in (("keys", KEYS), ("values", VALUES))
        for name, module in modules
        if name in names
    ]
    try:
        with torch.inference_mode():
            return loaded.model(**{name: torch.tensor(value) for name, value in inputs.items()}).logits.numpy()
    finally:
        for handle in handles:
            handle.remove()


def random_maps(count, size=64):
    random = np.random.default_rng(1)

    def one():
        return DocumentMap(random.normal(0, 0.2, (size, size)).astype(np.float32), random.normal(0, 1, size).astype(np.float32))

    return [LayerMaps(one(), one()) for _ in range(count)]


@pytest.mark.parametrize("family", tiny.quickly("bert", of=tiny.FREEZABLE))
def test_a_frozen_graph_computes_what_its_rule_says(deep, family):
    loaded, model = deep(family)
    for count in range(LAYERS - 1):
        maps = random_maps(count)
        frozen = freeze(model, maps, family)
        for updated, width in ((9, 40), (16, 17), (1, 2), (23, 90)):
            inputs = feed(loaded, 3, width)
            expected = reference(loaded, inputs, maps, updated)
            np.testing.assert_allclose(run(frozen, inputs, updated), expected, rtol=0, atol=1e-4)
            if count and width > updated + 1:
                assert np.abs(run(model, inputs) - expected).max() > 1e-3, "the maps change nothing"
        np.testing.assert_allclose(run(frozen, inputs, width), run(model, inputs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", tiny.quickly(of=tuple(REFUSED)))
def test_what_cannot_be_frozen_is_refused_in_a_line(deep, family):
    _, model = deep(family)
    with pytest.raises(ExportError, match=f"documents of that cannot be frozen: .*{REFUSED[family]}.*leave --freeze out"):
        freeze(model, [], "that")


def test_the_embeddings_are_not_frozen(deep):
    _, model = deep("bert")
    with pytest.raises(ExportError, match="has 4 layers, and 4 are too many"):
        freeze(model, random_maps(3), "that")


def test_fitted_maps_are_nearer_to_the_checkpoint_than_the_model_s_own_of_a_state_of_an_earlier_layer(deep, tmp_path):
    loaded, model = deep("bert")
    rows = [CalibrationRow(feed(loaded, 1, width), 16) for width in range(30, 90)]
    maps = fit(model, 3, rows, "that", scratch=tmp_path)
    parameters = dict(loaded.parameters())
    own = []
    for layer in (2, 3):
        prefix = f"bert.encoder.layer.{layer}.attention.self"
        own.append(
            LayerMaps(
                *(
                    DocumentMap(np.ascontiguousarray(parameters[f"{prefix}.{name}.weight"].T), parameters[f"{prefix}.{name}.bias"])
                    for name in ("key", "value")
                )
            )
        )
    inputs = feed(loaded, 20, 100)
    exact = run(model, inputs)
    fitted, unfitted = (np.abs(run(freeze(model, each, "that"), inputs, 16) - exact).mean() for each in (maps, own))
    assert fitted < unfitted / 2


def test_a_single_frozen_layer_has_nothing_to_fit(deep, tmp_path):
    """The first frozen layer reads the state itself."""
    loaded, model = deep("bert")
    rows = [CalibrationRow(feed(loaded, 1, 60), 16)] * 2
    assert fit(model, 1, rows, "that", scratch=tmp_path) == []
    assert len(Attentions(model, "that").nodes) == LAYERS


def test_the_ridge_is_the_one_that_errs_least_on_what_is_held_out():
    """Keys of noise: the less of it a map learns, the less it errs on other rows."""
    random = np.random.default_rng(2)

    def moments():
        states, keys = (random.normal(size=(160, 64)) for _ in range(2))
        return _Moments.of(states, np.concatenate([keys, 2 * states], axis=1))

    learned, held_out = moments(), moments()
    alone = _maps(_Moments(*(array.copy() for array in learned)), None)
    ridges = np.array([held_out.errors(learned.solve(ridge))[:64].sum() for ridge in RIDGES])
    best = RIDGES[int(ridges.argmin())]
    assert best != RIDGES[0]
    expected = _Moments(*(one + other for one, other in zip(learned, held_out, strict=True))).solve(best)
    maps = _maps(learned, held_out)
    np.testing.assert_allclose(maps.keys.weights, expected[:-1, :64], rtol=1e-5, atol=1e-6)
    assert np.linalg.norm(maps.keys.weights) < np.linalg.norm(alone.keys.weights)
    np.testing.assert_allclose(maps.values.weights, 2 * np.eye(64), rtol=0, atol=1e-3)


def test_the_error_of_a_map_is_that_on_its_tokens():
    random = np.random.default_rng(3)
    states, targets, linear = random.normal(size=(50, 8)), random.normal(size=(50, 6)), random.normal(size=(9, 6))
    errors = np.square(targets - states @ linear[:-1] - linear[-1]).sum(axis=0)
    np.testing.assert_allclose(_Moments.of(states, targets).errors(linear), errors)
