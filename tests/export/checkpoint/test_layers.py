"""Layers of fewer heads and inner units are saved in their family's shape and are compact again after loading."""

from __future__ import annotations

import pytest
import torch

from resift_export.checkpoint import load as checkpoint
from resift_export.checkpoint.layers import (
    LAYERS,
    LayerSize,
    compact,
    compact_copy,
    expanded_state_dict,
    head_size,
    keep_heads,
    keep_units,
    layers_of,
    linear,
    parts_of,
    resize,
    sizes_of,
)
from resift_export.distill.student import student_of
from tests.support import tiny

WHOLE = LayerSize(tiny.SIZE["num_attention_heads"], tiny.SIZE["intermediate_size"])
SIZES = [LayerSize(3, 50), LayerSize(1, 97)]
WORDS = {"input_ids": torch.arange(5, 45).view(2, 20)}


@pytest.fixture(params=LAYERS)
def whole(request, checkpoint_of):
    return checkpoint.load(str(checkpoint_of(request.param))).model


def narrowed(model, sizes):
    """A copy whose layers retain only their last heads and units."""
    student = student_of(model, range(len(layers_of(model))))
    parts, each = parts_of(student), head_size(student)
    for layer, size in zip(layers_of(student), sizes, strict=True):
        keep_heads(layer, parts, torch.arange((WHOLE.heads - size.heads) * each, WHOLE.heads * each))
        keep_units(layer, parts, torch.arange(WHOLE.units - size.units, WHOLE.units))
    return student


def logits(model):
    with torch.no_grad():
        return model(**WORDS).logits


def test_saved_it_is_a_model_of_its_family_and_compact_again_when_loaded(whole, tmp_path):
    student = narrowed(whole, SIZES)
    assert sizes_of(student) == SIZES
    student.save_pretrained(tmp_path, state_dict=expanded_state_dict(student))
    loaded = type(whole).from_pretrained(tmp_path).eval()
    assert sizes_of(loaded) == [LayerSize(WHOLE.heads, 97)] * 2
    torch.testing.assert_close(logits(loaded), logits(student), rtol=0, atol=1e-5)
    again = compact_copy(loaded)
    assert sizes_of(again) == SIZES
    assert sizes_of(loaded) == [LayerSize(WHOLE.heads, 97)] * 2, "the model itself was changed"
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in student.state_dict().items())
    assert torch.equal(logits(again), logits(student))


def test_zeros_anywhere_are_left_out(whole):
    parts, each = parts_of(whole), head_size(whole)
    student = student_of(whole, [0, 1])
    layer = layers_of(student)[0]
    with torch.no_grad():
        linear(layer, parts.attention_output).weight[:, each : 2 * each] = 0
        linear(layer, parts.outer).weight[:, 5::7] = 0
        expected = logits(student)
    compact(student)
    assert sizes_of(student) == [LayerSize(WHOLE.heads - 1, WHOLE.units - len(range(5, WHOLE.units, 7))), WHOLE]
    torch.testing.assert_close(logits(student), expected, rtol=0, atol=1e-5)


def test_one_head_and_one_unit_stay(whole):
    """A linear map cannot have no inputs."""
    parts = parts_of(whole)
    student = student_of(whole, [0, 1])
    with torch.no_grad():
        for name in (parts.attention_output, parts.outer):
            linear(layers_of(student)[1], name).weight[:] = 0
        expected = logits(student)
    compact(student)
    assert sizes_of(student) == [WHOLE, LayerSize(1, 1)]
    torch.testing.assert_close(logits(student), expected, rtol=0, atol=1e-5)


def test_a_weight_that_is_not_zero_keeps_its_head(whole):
    parts, each = parts_of(whole), head_size(whole)
    student = student_of(whole, [0, 1])
    mixed = linear(layers_of(student)[0], parts.attention_output).weight
    with torch.no_grad():
        mixed[:, :each] = 0
        mixed[7, 3] = 1e-30
    assert compact_copy(student) is student


def test_without_zeros_a_model_is_itself(whole):
    assert compact_copy(whole) is whole


def test_other_families_stay_as_they_are(checkpoint_of):
    model = checkpoint.load(str(checkpoint_of("modernbert"))).model
    assert compact_copy(model) is model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compact(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_is_given_the_sizes_of_another(whole):
    student, like = narrowed(whole, [WHOLE, WHOLE]), narrowed(whole, SIZES)
    resize(student, like.state_dict())
    assert sizes_of(student) == SIZES
    student.load_state_dict(like.state_dict())
    assert torch.equal(logits(student), logits(like))
    resize(student, whole.state_dict())
    assert sizes_of(student) == SIZES, "weights do not come from nowhere"
