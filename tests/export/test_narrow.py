"""Narrower students: what nothing is lost by goes first, the rest is fitted, and what results is a checkpoint like any other."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import tiny
from resift import Reranker, Settings
from resift.errors import ExportError, InputError
from resift.pairs import PairTokenizer
from resift_export import checkpoint
from resift_export.convert import convert
from resift_export.distill.batches import PaddedBatch, padded
from resift_export.distill.distillation import distill
from resift_export.distill.narrow import AT_ONCE, PARTS, RIDGE, _Moments, _moments, narrow, resize
from resift_export.distill.options import Options
from resift_export.distill.student import LAYERS, inner_size, layers_of, run, student_of
from resift_export.recipe import Recipe

CPU = torch.device("cpu")
SIZE = tiny.SIZE["intermediate_size"]
FITTED = {"intermediate_size": SIZE // 4, "pairs": 0, "development": 0.2, "max_length": 64}


def always() -> bool:
    return True


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    path = tmp_path_factory.mktemp("pools") / "pools.jsonl"
    texts = tiny.texts()
    rows = [
        {"query": texts[2 * number], "documents": [texts[(2 * number + 14 * place + 1) % len(texts)] for place in range(12)]}
        for number in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def batches_of(teacher, first=0):
    tokenizer = PairTokenizer(teacher.tokenizer_json(), 64)
    texts = tiny.texts()
    parts = [tokenizer.encode(texts[number], texts[number + 1 : number + 9]) for number in range(first, first + 40)]
    return padded(teacher, parts, CPU)


def logits_of(model, batches):
    with torch.no_grad():
        return torch.cat([run(model, batch).logits for batch in batches])


def error_of(student, teacher, batches):
    """Mean squared difference of the logits, in variances of the teacher's."""
    goal = logits_of(teacher, batches)
    return float((logits_of(student, batches) - goal).square().mean() / goal.var())


def widened(teacher, seed=0):
    """The same function with twice the inner units: each has a twin, and an uneven share of its weight."""
    random = torch.Generator().manual_seed(seed)
    wide = student_of(teacher, range(len(layers_of(teacher))))
    parts = PARTS[wide.config.model_type]
    for layer in layers_of(wide):
        inner, outer = layer.get_submodule(parts.inner), layer.get_submodule(parts.outer)
        order = torch.randperm(2 * SIZE, generator=random)
        share = torch.rand(SIZE, generator=random)
        inner.weight = torch.nn.Parameter(torch.cat([inner.weight, inner.weight])[order].detach())
        inner.bias = torch.nn.Parameter(torch.cat([inner.bias, inner.bias])[order].detach())
        both = torch.cat([outer.weight * share, outer.weight * (1 - share)], dim=1)
        outer.weight = torch.nn.Parameter(both[:, order].detach())
        inner.out_features = outer.in_features = 2 * SIZE
    return wide


@pytest.mark.parametrize("family", LAYERS)
def test_units_that_others_repeat_are_not_missed(family, checkpoint_of):
    """The narrowed student of a teacher whose every unit has a twin gives what the teacher gives."""
    loaded = checkpoint.load(str(checkpoint_of(family)))
    batches = batches_of(loaded)
    wide = widened(loaded.model)
    assert error_of(wide, loaded.model, batches) < 1e-10
    student = student_of(wide, [0, 1])
    assert narrow(student, wide, [0, 1], SIZE, batches, always)
    assert inner_size(student) == SIZE
    for layer in layers_of(student):
        parts = PARTS[student.config.model_type]
        inner, outer = layer.get_submodule(parts.inner), layer.get_submodule(parts.outer)
        assert (inner.out_features, *inner.weight.shape) == (SIZE, SIZE, 64)
        assert (outer.in_features, *outer.weight.shape) == (SIZE, 64, SIZE)
        assert inner.weight.requires_grad
        assert len(torch.unique(inner.weight, dim=0)) == SIZE, "a unit stayed with its twin while another lost both"
    # What is lost is the ridge's.
    assert error_of(student, wide, batches) < 1e-4
    assert error_of(student, wide, batches_of(loaded, 60)) < 1e-3


@pytest.mark.parametrize("family", LAYERS)
@pytest.mark.parametrize(("keep", "share"), [([0, 1], 0.5), ([1], 0.75)])
def test_fitted_it_is_nearer_than_cut_off(family, keep, share, checkpoint_of):
    loaded = checkpoint.load(str(checkpoint_of(family)))
    fresh = batches_of(loaded, 60)
    cut, fitted = student_of(loaded.model, keep), student_of(loaded.model, keep)
    resize(cut, SIZE // 4)
    assert narrow(fitted, loaded.model, keep, SIZE // 4, batches_of(loaded), always)
    assert {name: value.shape for name, value in cut.state_dict().items()} == {
        name: value.shape for name, value in fitted.state_dict().items()
    }
    assert error_of(fitted, loaded.model, fresh) < share * error_of(cut, loaded.model, fresh)


@pytest.mark.parametrize("family", LAYERS)
def test_attention_is_fitted_after_left_out_layers_only(family, checkpoint_of):
    loaded = checkpoint.load(str(checkpoint_of(family)))
    mixed = PARTS[family].mixed
    own = layers_of(loaded.model)[1].get_submodule(mixed).weight
    for keep, is_fitted in (([0, 1], False), ([1], True)):
        student = student_of(loaded.model, keep)
        assert narrow(student, loaded.model, keep, SIZE // 2, batches_of(loaded), always)
        assert torch.equal(layers_of(student)[-1].get_submodule(mixed).weight, own) != is_fitted


def test_padding_does_not_count(checkpoint_of):
    """One pair at a time has none."""
    loaded = checkpoint.load(str(checkpoint_of("bert")))
    tokenizer = PairTokenizer(loaded.tokenizer_json(), 64)
    parts = [tokenizer.encode("how do tides work", tiny.texts()[1:120])]
    together = padded(loaded, parts, CPU)
    assert any(batch.mask is not None for batch in together)
    apart = [
        batch for text in tiny.texts()[1:120] for batch in padded(loaded, [tokenizer.encode("how do tides work", [text])], CPU)
    ]
    students = [student_of(loaded.model, [0, 1]) for _ in range(2)]
    for student, batches in zip(students, (together, apart), strict=True):
        assert narrow(student, loaded.model, [0, 1], SIZE // 2, batches, always)
    np.testing.assert_allclose(logits_of(students[0], apart), logits_of(students[1], apart), rtol=0, atol=1e-3)


def test_the_teacher_is_left_as_it_was(checkpoint_of):
    loaded = checkpoint.load(str(checkpoint_of("bert")))
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    narrow(student_of(loaded.model, [0, 1]), loaded.model, [0, 1], SIZE // 2, batches_of(loaded), always)
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())
    assert inner_size(loaded.model) == SIZE
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in loaded.model.modules())


@pytest.mark.parametrize("family", LAYERS)
def test_without_training_it_is_a_checkpoint_like_any_other(family, checkpoint_of, pools, tmp_path, small_gate):
    recipe = distill(str(checkpoint_of(family)), tmp_path / "student", [pools], Options(**FITTED), threads=1, device="cpu")
    assert (recipe.finished, recipe.pairs, recipe.keep, len(recipe.curve)) == (True, 0, (0, 1), 1)
    assert f"--intermediate-size {SIZE // 4}" in recipe.command()
    student = checkpoint.load(str(tmp_path / "student"))
    assert (student.layers, inner_size(student.model)) == (2, SIZE // 4)
    convert(str(tmp_path / "student"), tmp_path / "artifact", Recipe(precisions=("float32",), gate=small_gate))
    documents = tiny.texts()[1:30:3]
    with Reranker.load(tmp_path / "artifact", settings=Settings(precision="float32")) as reranker:
        found = reranker.logits("how do tides work", documents)
    np.testing.assert_allclose(found, student.reference("how do tides work", documents), rtol=0, atol=1e-4)
    # The same command finds it done.
    again = distill(str(checkpoint_of(family)), tmp_path / "student", [pools], Options(**FITTED), threads=1, device="cpu")
    assert again.curve == recipe.curve


TRAINED = {**FITTED, "pairs": 320, "evaluate": 160, "local": 0.0, "lr": 1e-3}


def trained(source, out, pools, *, go_on=always, start=None, **more):
    options = Options(**(TRAINED | more))
    return distill(str(source), out, [pools], options, threads=1, device="cpu", go_on=go_on, start=start, checkpoint_minutes=0.0)


def test_stopped_anywhere_it_goes_on_to_the_same_weights(source, pools, tmp_path):
    """While it is fitted, while the teacher scores, and between steps."""
    assert trained(source, tmp_path / "unbroken", pools).finished
    for stops in range(100):
        asked = iter([True] * (3 * stops) + [False])
        trained(source, tmp_path / "broken", pools, go_on=lambda left=asked: next(left, False))
        if next(asked, None) is False:  # nobody asked it
            break
    assert stops > 3
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("unbroken", "broken")]
    assert weights[0] == weights[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "unbroken"]


@pytest.mark.parametrize("pairs", [0, 320])
def test_stopped_while_it_is_fitted_nothing_is_left(pairs, source, pools, tmp_path):
    asked = iter([True, False])
    recipe = trained(source, tmp_path / "student", pools, go_on=lambda: next(asked), pairs=pairs)
    assert (recipe.finished, recipe.pairs, recipe.curve) == (False, 0, ())
    assert list(tmp_path.iterdir()) == []


def test_a_fitted_student_is_trained_further(source, pools, tmp_path):
    fitted = trained(source, tmp_path / "fitted", pools, pairs=0)
    further = trained(source, tmp_path / "further", pools, start=str(tmp_path / "fitted"))
    assert further.curve[0].logit_error == pytest.approx(fitted.curve[-1].logit_error)
    assert further.curve[-1].logit_error < further.curve[0].logit_error
    assert further.start is not None
    with pytest.raises(ExportError, match="2 layers of 32 inner units, whose weights do not fit a student of 2 layers of 64"):
        trained(source, tmp_path / "other", pools, start=str(tmp_path / "fitted"), intermediate_size=64)
    with pytest.raises(ExportError, match="a student of 1 layers of 128 inner units"):
        trained(source, tmp_path / "other", pools, start=str(tmp_path / "fitted"), intermediate_size=None, layers=1)


@pytest.mark.parametrize("size", [SIZE, SIZE + 1])
def test_a_size_that_is_not_less_is_refused(size, source, pools, tmp_path):
    with pytest.raises(InputError, match=f"intermediate_size is {size}, but the teacher's is {SIZE}; expected less"):
        trained(source, tmp_path / "student", pools, intermediate_size=size)
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_that_gives_no_numbers_is_refused(checkpoint_of):
    loaded = checkpoint.load(str(checkpoint_of("bert")))
    with torch.no_grad():
        layers_of(loaded.model)[0].intermediate.dense.bias[3] = torch.nan
    student = student_of(loaded.model, [0, 1])
    with pytest.raises(ExportError, match="hidden states are not finite; expected a trained cross-encoder"):
        narrow(student, loaded.model, [0, 1], SIZE // 2, batches_of(loaded), always)


def test_a_unit_that_never_gives_anything_goes_first(checkpoint_of):
    loaded = checkpoint.load(str(checkpoint_of("bert")))
    dead = layers_of(loaded.model)[0].intermediate.dense
    with torch.no_grad():
        dead.weight[::2], dead.bias[::2] = 0.0, 0.0
    student = student_of(loaded.model, [0, 1])
    assert narrow(student, loaded.model, [0, 1], SIZE // 2, batches_of(loaded), always)
    torch.testing.assert_close(layers_of(student)[0].intermediate.dense.weight, dead.weight[1::2])


def test_options_of_a_narrower_student():
    assert Options(intermediate_size=512).kept(12) == tuple(range(12))
    assert Options(intermediate_size=512, layers=6).kept(12) == (1, 3, 5, 7, 9, 11)
    assert Options(intermediate_size=512, keep=tuple(range(12))).kept(12) == tuple(range(12))
    assert Options().kept(12) == (1, 3, 5, 7, 9, 11)
    with pytest.raises(InputError, match="pairs is 0; expected 1 or more"):
        Options(pairs=0)
    with pytest.raises(InputError, match="pairs is -1; expected 0 or more"):
        Options(pairs=-1, intermediate_size=512)
    with pytest.raises(InputError, match="intermediate_size is 0; expected 1 or more"):
        Options(intermediate_size=0)


def test_in_the_last_layer_first_tokens_count_half(checkpoint_of):
    loaded = checkpoint.load(str(checkpoint_of("bert")))
    layer, names = layers_of(loaded.model)[1], PARTS["bert"]
    random = torch.Generator().manual_seed(1)
    states = [torch.randn(4, 9, 64, generator=random)]
    mask = torch.ones(4, 9, dtype=torch.int64)
    mask[2, 5:] = 0
    batches = [PaddedBatch(rows=[0, 1, 2, 3], inputs={}, mask=mask, tokens=32)]
    wanted = [torch.randn(4, 9, 64, generator=random)]
    with torch.no_grad():
        attended = layer.attention(states[0], (1 - mask[:, None, None, :]) * -1e9)[0]
        units = layer.intermediate(attended).double()
        goals = (wanted[0] - attended).double()  # what the feed-forward network adds to what came in
        for is_last, first in ((False, 1.0), (True, None)):
            counts = mask.double()
            counts[:, 0] = first or torch.tensor([8.0, 8.0, 4.0, 8.0])
            share = (counts / counts.sum()).flatten()
            found = _moments(layer, names.outer, names.norm, states, batches, wanted, is_last=is_last)
            mean, goal = share @ units.flatten(0, 1), share @ goals.flatten(0, 1)
            torch.testing.assert_close(found.means, mean, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(found.goal_means, goal, rtol=1e-4, atol=1e-6)
            away = (units.flatten(0, 1) - mean) * share[:, None]
            torch.testing.assert_close(found.goals, away.T @ (goals.flatten(0, 1) - goal), rtol=1e-4, atol=1e-6)
            expected = away.T @ (units.flatten(0, 1) - mean)
            expected += torch.eye(SIZE).double() * RIDGE * expected.diagonal().mean()
            torch.testing.assert_close(found.units, expected, rtol=1e-4, atol=1e-6)


def test_units_leave_as_if_every_choice_were_tried():
    """The one that goes is always the one whose leaving costs least, by the error of a fit without it."""
    random = torch.Generator().manual_seed(3)
    size, stay = AT_ONCE + 26, 10
    units = torch.randn(400, size, generator=random).double() @ torch.randn(size, size, generator=random).double()
    goals = units[:, :5] + torch.randn(400, 5, generator=random)
    moments = _Moments(units.T @ units / 400, units.T @ goals / 400, torch.zeros(size), torch.zeros(5))

    def explained(left):
        return float((moments.goals[left] * torch.linalg.solve(moments.units[left][:, left], moments.goals[left])).sum())

    left = list(range(size))
    while len(left) > stay:
        left.remove(max(left, key=lambda gone: explained([unit for unit in left if unit != gone])))
    assert moments.chosen(stay).tolist() == left
