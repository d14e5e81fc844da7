"""Narrower students: units without effect are removed first, the others are fitted, and the result is an ordinary checkpoint."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch

from resift import Reranker, Settings
from resift.artifact.folder import Artifact
from resift.encoding.tokenizer import PairTokenizer
from resift.errors import ExportError, InputError
from resift_export.checkpoint import load as checkpoint
from resift_export.checkpoint.layers import (
    LAYERS,
    PARTS,
    LayerSize,
    compact_copy,
    head_size,
    keep_heads,
    keep_units,
    layers_of,
    linear,
    parts_of,
    sizes_of,
    units_of,
)
from resift_export.convert import convert
from resift_export.distill.batches import PaddedBatch, padded_batches
from resift_export.distill.distillation import distill
from resift_export.distill.moments import REMOVALS_AT_ONCE, RIDGE, Moments, moments_of
from resift_export.distill.narrow import HEAD_PRICE, Prices, _fit, choose_sizes, narrow
from resift_export.distill.options import Options
from resift_export.distill.student import run, student_of
from resift_export.recipe import Recipe
from tests.support import tiny

CPU = torch.device("cpu")
SIZE = tiny.SIZE["intermediate_size"]
FITTED = {"width": 0.3, "pairs": 0, "development": 0.2, "max_length": 64}


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
    return padded_batches(teacher, parts, CPU)


def logits_of(model, batches):
    with torch.no_grad():
        return torch.cat([run(model, batch).logits for batch in batches])


def states_error_of(student, teacher, batches):
    """Mean squared error of the first token's last hidden state, which the head reads, as a multiple of the teacher's variance."""
    with torch.no_grad():
        found, goal = (torch.cat([run(model, batch).hidden_states[-1][:, 0] for batch in batches]) for model in (student, teacher))
    return float((found - goal).square().mean() / goal.var(dim=0).mean())


def error_of(student, teacher, batches):
    """Mean squared difference of the logits, as a multiple of the teacher's variance."""
    goal = logits_of(teacher, batches)
    return float((logits_of(student, batches) - goal).square().mean() / goal.var())


def widened(teacher, seed=0):
    """The same function with twice the inner units: each unit has a twin, and the two share its weight unevenly."""
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


def cut(teacher, keep, sizes):
    """A student with the first heads and units of each layer and unchanged weights."""
    student = student_of(teacher, keep)
    parts, each = parts_of(student), head_size(student)
    for layer, size in zip(layers_of(student), sizes, strict=True):
        keep_heads(layer, parts, torch.arange(size.heads * each))
        keep_units(layer, parts, torch.arange(size.units))
    return student


@pytest.mark.parametrize("family", tiny.quickly("bert", of=tuple(LAYERS)))
def test_units_that_others_repeat_are_not_missed(family, checkpoint_of):
    """If every unit of the teacher has a twin, the narrowed student computes the same as the teacher."""
    loaded = checkpoint.load(str(checkpoint_of(family)))
    batches = batches_of(loaded)
    wide = widened(loaded.model)
    assert error_of(wide, loaded.model, batches) < 1e-10
    student = student_of(wide, [0, 1])
    # By components: heads of the first layer, of which the last counts half, and units of the first; 1 is less than a unit.
    heads = 1.5 * 4 * 64 * HEAD_PRICE
    assert narrow(student, wide, [0, 1], (heads + 2 * SIZE + 1) / (heads + 4 * SIZE), batches, always)
    assert sizes_of(student) == [(4, SIZE), (4, 2 * SIZE)], "a head left before units that others repeat"
    parts = parts_of(student)
    inner, outer = linear(layers_of(student)[0], parts.inner), linear(layers_of(student)[0], parts.outer)
    assert (inner.out_features, *inner.weight.shape) == (SIZE, SIZE, 64)
    assert (outer.in_features, *outer.weight.shape) == (SIZE, 64, SIZE)
    assert inner.weight.requires_grad
    assert len(torch.unique(inner.weight, dim=0)) == SIZE, "a unit stayed with its twin while another lost both"
    # The ridge causes the remaining error.
    assert error_of(student, wide, batches) < 1e-4
    assert error_of(student, wide, batches_of(loaded, 60)) < 1e-3


@pytest.mark.parametrize("family", LAYERS)
@pytest.mark.parametrize(
    ("keep", "size", "share"),
    [([0, 1], LayerSize(4, SIZE // 4), 0.2), ([1], LayerSize(4, SIZE // 4), 0.5), ([0, 1], LayerSize(2, SIZE), 0.75)],
)
def test_fitted_it_is_nearer_than_cut_off(family, keep, size, share, checkpoint_of):
    loaded = checkpoint.load(str(checkpoint_of(family)))
    fresh = batches_of(loaded, 60)
    fitted, sizes = student_of(loaded.model, keep), [size] * len(keep)
    with torch.no_grad():
        assert _fit(fitted, loaded.model, keep, sizes, batches_of(loaded), always)
    assert sizes_of(fitted) == sizes
    truncated = cut(loaded.model, keep, sizes)
    assert states_error_of(fitted, loaded.model, fresh) < share * states_error_of(truncated, loaded.model, fresh)


@pytest.mark.parametrize("family", LAYERS)
@pytest.mark.parametrize(("keep", "heads", "is_fitted"), [([0, 1], 4, False), ([1], 4, True), ([0, 1], 3, True)])
def test_attention_is_fitted_only_after_left_out_layers_and_heads(family, keep, heads, is_fitted, checkpoint_of):
    loaded = checkpoint.load(str(checkpoint_of(family)))
    student, batches = student_of(loaded.model, keep), batches_of(loaded)
    with torch.no_grad():
        assert _fit(student, loaded.model, keep, [LayerSize(heads, SIZE // 2)] * len(keep), batches, always)
    assert sizes_of(student) == [(heads, SIZE // 2)] * len(keep)
    teacher_weights, student_weights = (
        linear(layers_of(model)[-1], PARTS[family].attention_output).weight for model in (loaded.model, student)
    )
    is_copied = (student_weights[:, :, None] == teacher_weights[:, None, :]).all(dim=0).any(dim=1)
    assert not is_copied.any() if is_fitted else is_copied.all()


def test_padding_does_not_count(checkpoint_of):
    """Batches of one pair have no padding."""
    loaded = checkpoint.load(str(checkpoint_of("bert")))
    tokenizer = PairTokenizer(loaded.tokenizer_json(), 64)
    parts = [tokenizer.encode("how do tides work", tiny.texts()[1:120])]
    batched = padded_batches(loaded, parts, CPU)
    assert any(batch.mask is not None for batch in batched)
    single = [
        batch
        for text in tiny.texts()[1:120]
        for batch in padded_batches(loaded, [tokenizer.encode("how do tides work", [text])], CPU)
    ]
    students = [student_of(loaded.model, [0, 1]) for _ in range(2)]
    for student, batches in zip(students, (batched, single), strict=True):
        assert narrow(student, loaded.model, [0, 1], 0.5, batches, always)
    np.testing.assert_allclose(logits_of(students[0], single), logits_of(students[1], single), rtol=0, atol=1e-3)


def test_the_teacher_is_left_as_it_was(checkpoint_of):
    loaded = checkpoint.load(str(checkpoint_of("bert")))
    run(loaded.model, batches_of(loaded)[0])  # transformers has hooks of its own for hidden states
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in loaded.model.modules()]
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    narrow(student_of(loaded.model, [0, 1]), loaded.model, [0, 1], 0.5, batches_of(loaded), always)
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())
    assert sizes_of(loaded.model) == [(4, SIZE)] * 2
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in loaded.model.modules()] == hooks


@pytest.mark.parametrize("family", tiny.quickly("bert", of=tuple(LAYERS)))
def test_without_training_it_is_a_checkpoint_like_any_other(family, checkpoint_of, pools, tmp_path, small_gate):
    recipe = distill(str(checkpoint_of(family)), tmp_path / "student", [pools], Options(**FITTED), threads=1, device="cpu")
    assert (recipe.is_finished, recipe.pairs, recipe.keep, len(recipe.curve)) == (True, 0, (0, 1), 1)
    assert "--width 0.3" in recipe.command()
    student = checkpoint.load(str(tmp_path / "student"))
    narrow_sizes = sizes_of(compact_copy(student.model))
    assert student.layers == 2
    assert sizes_of(student.model) == [(4, max(size.units for size in narrow_sizes))] * 2
    assert narrow_sizes[0] < (4, SIZE)
    convert(str(tmp_path / "student"), tmp_path / "artifact", Recipe(precisions=("float32",), gate=small_gate))
    # The engine does not compute heads and units for which the checkpoint has zeros.
    each, last = 2 * 64 * 16, narrow_sizes[1].heads
    first = 4 * each * narrow_sizes[0].heads + 4 * 64 * narrow_sizes[0].units
    projected = getattr(student.model.base_model, "embeddings_project", None)
    embedding_operations = 0 if projected is None else 2 * projected.in_features * projected.out_features
    assert Artifact.open(tmp_path / "artifact").manifest.full.operations == embedding_operations + first + 2 * each * last
    documents = tiny.texts()[1:30:3]
    with Reranker.load(tmp_path / "artifact", settings=Settings(precision="float32")) as reranker:
        found = reranker.logits("how do tides work", documents)
    np.testing.assert_allclose(found, student.reference("how do tides work", documents), rtol=0, atol=1e-4)
    # The same command has nothing to do.
    again = distill(str(checkpoint_of(family)), tmp_path / "student", [pools], Options(**FITTED), threads=1, device="cpu")
    assert again.curve == recipe.curve


TRAINED = {**FITTED, "pairs": 320, "evaluate": 160, "local": 0.0, "lr": 1e-3}


def trained(source, out, pools, *, should_continue=always, start=None, **more):
    options = Options(**(TRAINED | more))
    return distill(
        str(source),
        out,
        [pools],
        options,
        threads=1,
        device="cpu",
        should_continue=should_continue,
        start=start,
        checkpoint_minutes=0.0,
    )


@pytest.mark.slow
def test_stopped_anywhere_it_goes_on_to_the_same_weights(source, pools, tmp_path):
    """It is stopped while it is fitted, while the teacher scores, and between steps."""
    assert trained(source, tmp_path / "unbroken", pools).is_finished
    for stops in range(100):
        answers = iter([True] * (3 * stops) + [False])
        trained(source, tmp_path / "broken", pools, should_continue=lambda answers=answers: next(answers, False))
        if next(answers, None) is False:  # it was never called
            break
    assert stops > 3
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("unbroken", "broken")]
    assert weights[0] == weights[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "unbroken"]


@pytest.mark.parametrize("pairs", [0, 320])
def test_stopped_while_it_is_fitted_nothing_is_left(pairs, source, pools, tmp_path):
    answers = iter([True, False])
    recipe = trained(source, tmp_path / "student", pools, should_continue=lambda: next(answers), pairs=pairs)
    assert (recipe.is_finished, recipe.pairs, recipe.curve) == (False, 0, ())
    assert list(tmp_path.iterdir()) == []


def test_a_fitted_student_is_trained_further(source, pools, tmp_path):
    fitted = trained(source, tmp_path / "fitted", pools, pairs=0)
    further = trained(source, tmp_path / "further", pools, start=str(tmp_path / "fitted"), width=None)
    assert further.curve[0].logit_error == pytest.approx(fitted.curve[-1].logit_error)
    assert further.curve[-1].logit_error != further.curve[0].logit_error
    assert further.start is not None
    assert further.keep == (0, 1)
    sizes = [sizes_of(compact_copy(checkpoint.load(str(tmp_path / name)).model)) for name in ("fitted", "further")]
    assert sizes[0] == sizes[1]
    with pytest.raises(ExportError, match="2 layers of 64, whose weights do not fit a student of 1 layers of 64"):
        trained(source, tmp_path / "other", pools, start=str(tmp_path / "fitted"), width=None, layers=1)
    with pytest.raises(InputError, match=r"width is 0.3, but .*fitted has a width of its own.*leave width out"):
        trained(source, tmp_path / "other", pools, start=str(tmp_path / "fitted"), width=0.3)


def test_a_narrower_student_teaches(source, pools, tmp_path):
    """If the teacher itself is narrower, its zeros are removed and do not come back in its student."""
    trained(source, tmp_path / "first", pools, pairs=0, width=0.6)
    trained(tmp_path / "first", tmp_path / "second", pools, pairs=0, width=0.6)
    sizes = [sizes_of(compact_copy(checkpoint.load(str(path)).model)) for path in (tmp_path / "first", tmp_path / "second")]
    first, second = (HEAD_PRICE * 16 * (4 * ours[0].heads + 2 * ours[1].heads) + 2 * ours[0].units for ours in sizes)
    assert second <= 0.6 * first


def test_a_teacher_that_gives_no_numbers_is_refused(checkpoint_of):
    loaded = checkpoint.load(str(checkpoint_of("bert")))
    with torch.no_grad():
        layers_of(loaded.model)[0].intermediate.dense.bias[3] = torch.nan
    student = student_of(loaded.model, [0, 1])
    with pytest.raises(ExportError, match="hidden states are not finite, or all the same; expected a trained cross-encoder"):
        narrow(student, loaded.model, [0, 1], 0.5, batches_of(loaded), always)


def test_a_teacher_that_gives_always_the_same_is_refused(checkpoint_of):
    loaded = checkpoint.load(str(checkpoint_of("bert")))
    with torch.no_grad():
        for norm in (loaded.model.base_model.embeddings.LayerNorm, layers_of(loaded.model)[0].attention.output.LayerNorm):
            norm.weight[:] = 0
    with pytest.raises(ExportError, match="all the same"):
        narrow(student_of(loaded.model, [0, 1]), loaded.model, [0, 1], 0.5, batches_of(loaded), always)


def test_too_small_a_width_is_refused_at_once(checkpoint_of):
    loaded = checkpoint.load(str(checkpoint_of("bert")))
    with pytest.raises(InputError, match=r"width is 0.01, but one head and one unit of each layer are 0\.\d\d; expected more"):
        narrow(student_of(loaded.model, [0, 1]), loaded.model, [0, 1], 0.01, [], lambda: pytest.fail("it began"))


def test_a_unit_that_never_gives_anything_goes_first(checkpoint_of):
    loaded = checkpoint.load(str(checkpoint_of("bert")))
    dead = layers_of(loaded.model)[0].intermediate.dense
    with torch.no_grad():
        dead.weight[::2], dead.bias[::2] = 0.0, 0.0
    student = student_of(loaded.model, [0, 1])
    heads = 1.5 * 4 * 64 * HEAD_PRICE
    assert narrow(student, loaded.model, [0, 1], (heads + SIZE + 1) / (heads + 2 * SIZE), batches_of(loaded), always)
    torch.testing.assert_close(layers_of(student)[0].intermediate.dense.weight, dead.weight[1::2])


def test_options_of_a_narrower_student():
    assert Options(width=0.5).retained_layers(12) == tuple(range(12))
    assert Options(width=0.5, layers=6).retained_layers(12) == (1, 3, 5, 7, 9, 11)
    assert Options(width=0.5, keep=tuple(range(12))).retained_layers(12) == tuple(range(12))
    assert Options().retained_layers(12) == (1, 3, 5, 7, 9, 11)
    assert Options().retained_layers(12, tuple(range(12))) == tuple(range(12))
    assert Options().retained_layers(12, (3, 7, 11)) == (3, 7, 11)
    assert Options(layers=2).retained_layers(12, (3, 7, 11)) == (5, 11)
    assert Options(layers=12).retained_layers(12, tuple(range(12))) == tuple(range(12))
    with pytest.raises(InputError, match="pairs is 0; expected 1 or more"):
        Options(pairs=0)
    with pytest.raises(InputError, match="pairs is -1; expected 0 or more"):
        Options(pairs=-1, width=0.5)
    for width in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="expected a share between 0 and 1"):
            Options(width=width)


def test_in_the_last_layer_first_tokens_count_half(checkpoint_of):
    loaded = checkpoint.load(str(checkpoint_of("bert")))
    layer, names = layers_of(loaded.model)[1], PARTS["bert"]
    random = torch.Generator().manual_seed(1)
    states = [torch.randn(4, 9, 64, generator=random)]
    mask = torch.ones(4, 9, dtype=torch.int64)
    mask[2, 5:] = 0
    batches = [PaddedBatch(rows=[0, 1, 2, 3], inputs={}, mask=mask, tokens=32)]
    targets = [torch.randn(4, 9, 64, generator=random)]
    with torch.no_grad():
        attended = layer.attention(states[0], (1 - mask[:, None, None, :]) * -1e9)[0]
        units = layer.intermediate(attended).double()
        layer_sums = [attended + layer.output.dense(units.float())]
        for (target_sums, sums), (is_last, first) in itertools.product(
            ((targets, targets), (None, layer_sums)), ((False, 1.0), (True, None))
        ):
            goals = (sums[0] - attended).double()  # the output that the feed-forward network adds to its residual
            counts = mask.double()
            counts[:, 0] = first or torch.tensor([8.0, 8.0, 4.0, 8.0])
            share = (counts / counts.sum()).flatten()
            found = moments_of(layer, names.outer, names.output_norm, states, batches, target_sums, is_last=is_last)
            mean, goal = share @ units.flatten(0, 1), share @ goals.flatten(0, 1)
            torch.testing.assert_close(found.means, mean, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(found.goal_means, goal, rtol=1e-4, atol=1e-6)
            away = (units.flatten(0, 1) - mean) * share[:, None]
            torch.testing.assert_close(found.goals, away.T @ (goals.flatten(0, 1) - goal), rtol=1e-4, atol=1e-6)
            expected = away.T @ (units.flatten(0, 1) - mean)
            expected += torch.eye(SIZE).double() * RIDGE * expected.diagonal().mean()
            torch.testing.assert_close(found.units, expected, rtol=1e-4, atol=1e-6)
            centered = sums[0].flatten(0, 1).double() - share @ sums[0].flatten(0, 1).double()
            assert found.variance == pytest.approx(float(share @ centered.square().sum(dim=1)), rel=1e-4)


@pytest.mark.parametrize(("group", "count", "retained_count"), [(1, REMOVALS_AT_ONCE + 26, 10), (4, 9, 2)])
def test_what_leaves_and_its_price_are_as_if_every_choice_were_tried(group, count, retained_count):
    """Each removal is the one that costs least, by the error of a fit without it."""
    random = torch.Generator().manual_seed(3)
    size = group * count
    units = torch.randn(400, size, generator=random).double() @ torch.randn(size, size, generator=random).double()
    goals = units[:, :5] + torch.randn(400, 5, generator=random)
    moments = Moments(units.T @ units / 400, units.T @ goals / 400, torch.zeros(size), torch.zeros(5), 1.0)

    def explained(numbers):
        retained = units_of(torch.tensor(numbers), group)
        return float(
            (moments.goals[retained] * torch.linalg.solve(moments.units[retained][:, retained], moments.goals[retained])).sum()
        )

    remaining, removals = list(range(count)), list(moments.removal_order(group, retained_count))
    for number, price in removals:
        best = explained(remaining)
        costs = {removed: best - explained([each for each in remaining if each != removed]) for removed in remaining}
        assert min(costs, key=costs.__getitem__) == number
        assert price == pytest.approx(costs[number], rel=1e-6, abs=1e-9)
        remaining.remove(number)
    assert len(remaining) == retained_count
    assert moments.retained_units(group, retained_count).tolist() == units_of(torch.tensor(remaining), group).tolist()


class TestSizes:
    """Four heads of 16 and eight units a layer; a unit is 2 operations."""

    HEAD, LAST = 4 * 16 * HEAD_PRICE, 2 * 16 * HEAD_PRICE
    """Operations of a head, and of a head in the last layer."""
    TOTAL = 2 * (4 * HEAD + 8 * 2) + 4 * LAST
    """Operations of three layers."""
    EQUAL = Prices([1.0, 1.0, 1.0], [0.01] * 7)

    def test_the_cheapest_for_its_operations_leaves_first(self):
        cheap = Prices([1.0, 1.0, 1.0], [0.001] * 7)
        assert choose_sizes([self.EQUAL, cheap, self.EQUAL], 16, 1 - 13 / self.TOTAL) == [(4, 8), (4, 1), (4, 8)]
        # A unit at 0.01 for 2 operations is cheaper than a head at 1.0 for all of its own.
        assert choose_sizes([self.EQUAL, cheap, self.EQUAL], 16, 1 - 27 / self.TOTAL) == [(4, 1), (4, 1), (4, 8)]

    def test_one_of_each_stays_and_the_last_layers_units_do(self):
        width = (self.HEAD + 3 + self.LAST) / (4 * self.HEAD + 8 * 2 + 4 * self.LAST)
        assert choose_sizes([self.EQUAL, self.EQUAL], 16, width) == [(1, 1), (1, 8)]

    def test_less_than_that_is_refused(self):
        with pytest.raises(InputError, match=r"width is 0.2, but one head and one unit of each layer are 0.25; expected more"):
            choose_sizes([self.EQUAL, self.EQUAL], 16, 0.2)

    def test_what_is_behind_something_dear_waits_for_it(self):
        """The second unit costs nothing once the first, at 9, is gone; another layer's cost 1 each."""
        behind, other = Prices([99.0] * 3, [9.0] + [0.0] * 6), Prices([99.0] * 3, [1.0] * 7)
        assert choose_sizes([behind, other, other], 16, 1 - 13 / self.TOTAL) == [(4, 8), (4, 1), (4, 8)]

    @pytest.mark.parametrize("width", [0.9, 0.5, 0.3])
    def test_it_takes_at_most_that_share(self, width):
        random = np.random.default_rng(0)
        prices = [Prices(random.random(3).tolist(), random.random(7).tolist()) for _ in range(5)]
        sizes = choose_sizes(prices, 16, width)
        found = sum(size.heads * self.HEAD + size.units * 2 for size in sizes[:-1]) + sizes[-1].heads * self.LAST
        whole = 4 * (4 * self.HEAD + 8 * 2) + 4 * self.LAST
        assert width * whole - self.HEAD < found <= width * whole * (1 + 1e-9)
