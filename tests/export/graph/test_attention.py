"""attention: local attention in blocks, with the same logits as the masked attention it replaces."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from resift_export.checkpoint import load as checkpoint
from resift_export.checkpoint.layers import head_size, keep_heads, layers_of, parts_of
from resift_export.graph.attention import MIN_BLOCKS, UNLIMITED, reach_of
from resift_export.graph.edit import LOW_OPSET, OLDEST_FOR_BIAS, lower_opset, oldest_onnxruntime, serialize
from resift_export.graph.optimize import optimize
from resift_export.graph.trace import trace
from tests.support import tiny

REACH = 8
"""of the tiny ModernBERT: half its local_attention"""
WIDTHS = [*range(1, 4 * MIN_BLOCKS), *range(4 * REACH - 3, 4 * REACH + 12), 63, 64, 65, 100, 127, 128, 129, 190, tiny.MAX_LENGTH]


def near(width, reach, shape=(2, 1)):
    places = np.arange(width)
    return np.broadcast_to(np.abs(places[:, None] - places) <= reach, (*shape, width, width))


@pytest.mark.parametrize("reach", [1, 4, 38])
def test_the_reach_of_a_band(reach):
    assert reach_of([near(40, reach), near(7, reach), near(1, reach)]) == reach
    hidden = np.where(near(40, reach), 0.0, np.finfo(np.float32).min)
    assert reach_of([hidden]) == reach


@pytest.mark.parametrize("mask", [np.ones((2, 1, 40, 40), bool), np.ones((1, 1, 1, 1), bool), np.ones((), bool), np.zeros((9, 9))])
def test_what_hides_nothing_is_unlimited(mask):
    assert reach_of([mask]) == UNLIMITED


UNSUPPORTED_MASKS = {
    "unknown": [None],
    "unknown where it is narrow": [near(40, 4), None],
    "itself alone": [near(40, 0)],
    "the tokens before": [np.tril(np.ones((40, 40), bool))],
    "further after than before": [near(40, 4) | np.eye(40, k=5, dtype=bool)],
    "one pair differs": [near(40, 4) ^ (np.arange(1600).reshape(40, 40) == 777)],
    "one row of the batch differs": [np.stack([near(40, 4, ()), near(40, 5, ())])],
    "another reach where it is narrow": [near(40, 4), near(20, 3)],
    "hides where it is narrow": [np.ones((40, 40), bool), near(20, 3)],
    "a bias that hides nothing": [np.where(near(40, 4), 0.0, -1.0)],
    "nothing is seen": [np.zeros((40, 40), bool)],
    "one row for all tokens": [near(40, 4)[:, :, :1]],
}


@pytest.mark.parametrize("masks", UNSUPPORTED_MASKS.values(), ids=UNSUPPORTED_MASKS)
def test_other_masks_have_no_reach(masks):
    assert reach_of(masks) is None


@pytest.fixture(scope="module")
def traced_model(checkpoint_of):
    return trace(checkpoint.load(str(checkpoint_of("modernbert"))))


@pytest.fixture(scope="module")
def optimized(traced_model):
    return lower_opset(optimize(traced_model.clone(), tiny.MAX_LENGTH))


def run(model, ids, names=("logits",)):
    observed = model.clone()
    values = {value.name: value for node in observed.graph for value in node.outputs}
    observed.graph.outputs[:] = [values[name] for name in names]
    session = onnxruntime.InferenceSession(serialize(observed), providers=["CPUExecutionProvider"])
    return session.run(list(names), {"input_ids": ids})


def ids(batch, width):
    return np.random.default_rng(3).integers(5, tiny.VOCABULARY, (batch, width))


def test_every_attention_of_modernbert_is_fused(traced_model, optimized):
    kinds = [node.op_type for node in optimized.graph]
    assert "Attention" not in kinds
    assert kinds.count("MultiHeadAttention") == [node.op_type for node in traced_model.graph].count("Attention")
    assert optimized.opset_imports[""] == LOW_OPSET
    assert oldest_onnxruntime(optimized) == OLDEST_FOR_BIAS


@pytest.fixture(scope="module")
def sessions(traced_model, optimized):
    return [
        onnxruntime.InferenceSession(serialize(model), providers=["CPUExecutionProvider"]) for model in (traced_model, optimized)
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_logits_stay_at_every_width(sessions, width):
    before, after = (session.run(None, {"input_ids": ids(3, width)})[0] for session in sessions)
    assert after.shape == (3, 1)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)


def test_the_mask_matters(traced_model, sessions):
    """Otherwise the test above could not fail."""
    blind = traced_model.clone()
    for node in blind.graph:
        if node.op_type == "Attention":
            node.replace_input_with(3, None)
    [found] = run(blind, ids(3, 100))
    assert np.abs(found - sessions[0].run(None, {"input_ids": ids(3, 100)})[0]).max() > 1e-3


def test_a_pair_has_the_same_logit_in_every_batch(sessions):
    rows = ids(5, 100)
    batched = sessions[1].run(None, {"input_ids": rows})[0]
    single = np.concatenate([sessions[1].run(None, {"input_ids": row[None]})[0] for row in rows])
    assert batched.tobytes() == single.tobytes()


def test_nothing_grows_with_the_square_of_the_width(traced_model, optimized):
    narrow, wide = 96, 192  # both in blocks

    def growth(model):
        names = [value.name for node in model.graph for value in node.outputs if value.name]
        sizes = [[value.size for value in run(model, ids(1, width), names)] for width in (narrow, wide)]
        return max(after / max(before, 1) for before, after in zip(*sizes, strict=True))

    assert growth(optimized) <= 2
    assert growth(traced_model) == 4


@pytest.mark.parametrize("heads", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_layers_of_fewer_heads_are_fused(heads, checkpoint_of):
    loaded = checkpoint.load(str(checkpoint_of("bert")))
    for layer in layers_of(loaded.model):
        keep_heads(layer, parts_of(loaded.model), torch.arange(heads * head_size(loaded.model)))
    fused = [node for node in optimize(trace(loaded), loaded.max_length).graph if "Attention" in node.op_type]
    assert [(node.op_type, node.attributes["num_heads"].as_int()) for node in fused] == [("MultiHeadAttention", heads)] * 2
