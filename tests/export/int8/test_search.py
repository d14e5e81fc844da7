"""--search: planted damage is found and left in float32, nothing else is, and a search that fails leaves nothing behind."""

from __future__ import annotations

import shutil

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resift import Reranker
from resift.artifact.agreement import Bounds
from resift.artifact.certificate import Certificate
from resift.artifact.folder import Artifact
from resift.cli.main import main, parser
from resift.errors import InputError, ParityError
from resift.machine import instruction_sets
from resift_export.checkpoint import load as checkpoint
from resift_export.convert import convert
from resift_export.graph.edit import array_of
from resift_export.graph.trace import TRACERS, trace
from resift_export.int8 import ranges as choosing
from resift_export.int8 import search as searching
from resift_export.int8.products import products
from resift_export.int8.search import Sensitivity, allowance_used, prune, shortest_prefix, weight_names
from resift_export.recipe import VNNI, VNNI_FILE, Recipe
from tests.support.jobs import files

# Tiny models were not trained on relevance: see conftest.artifact_of.
LOOSE = Bounds(worst_tau=0.7)
INT8 = "model.int8.onnx"
OUTPUT_OF = "bert.encoder.layer.{}.attention.output.dense.weight"
DAMAGED = [OUTPUT_OF.format(0), OUTPUT_OF.format(1)]


def replant(source, folder, change):
    """Copies a checkpoint, with its weights changed in place by `change`."""
    import safetensors.torch

    shutil.copytree(source, folder)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def shift(weights):
    """Adds a large constant to half the channels of attention's values, and subtracts its effect from the next bias.

    Attention's weights sum to 1, so the function is the same. No smoothing evens this out: it is not a matter of scale.
    """
    import torch

    for layer in range(2):
        attention = f"bert.encoder.layer.{layer}.attention."
        values, out = (weights[attention + name].double() for name in ("self.value.weight", "output.dense.weight"))
        added = torch.zeros(len(values), dtype=torch.float64)
        added[::2] = 512 * values.norm(dim=1).median()
        for name, change in (("self.value.bias", added), ("output.dense.bias", -out @ added)):
            weights[attention + name] = (weights[attention + name].double() + change).float()


def scale(weights):
    """Multiplies every eighth channel of a LayerNorm by 64 and divides the next weights' columns by it, in two layers."""
    for layer in (1, 3):
        weights[f"model.layers.{layer}.mlp_norm.weight"][::8] *= 64
        weights[f"model.layers.{layer}.mlp.Wi.weight"][:, ::8] /= 64


def trace_once(monkeypatch, model):
    monkeypatch.setitem(TRACERS, "torch", lambda loaded: model.clone())
    monkeypatch.setattr(choosing, "CLIPS", (1.0,))


@pytest.fixture(scope="session")
def shifted(built, checkpoint_of):
    return str(built("shifted", lambda folder: replant(checkpoint_of("bert"), folder, shift)))


@pytest.fixture(scope="session")
def trace_of_shifted(shifted):
    return trace(checkpoint.load(shifted))


@pytest.fixture
def quick(monkeypatch, trace_of_shifted):
    """Exports of `shifted` that trace it once for all tests and try only one smoothing."""
    trace_once(monkeypatch, trace_of_shifted)
    monkeypatch.setattr(choosing, "MIGRATIONS", (0.5,))


def float32_products(path):
    """The weights of the graph's float32 products, except the classifier's."""
    found = [array_of(node.inputs[1]) for node in ir.load(path).graph if node.op_type == "MatMul"]
    return [weights for weights in found if min(weights.shape) > 1]


def test_damaged_products_are_found_and_nothing_else(quick, shifted, source, home, small_gate, capsys):
    with pytest.raises(ParityError, match=r"in model\.int8\.onnx does not rank like its checkpoint: .*Kendall tau"):
        convert(shifted, home / "out", Recipe(gate=small_gate, bounds=LOOSE))
    assert list(home.iterdir()) == []
    out = convert(shifted, home / "out", Recipe(gate=small_gate, bounds=LOOSE, search=20))
    certificate = Certificate.read(Artifact.open(out))
    assert certificate.agreement[INT8].violations(LOOSE) == []
    found = certificate.search[INT8]
    assert found.float32 == DAMAGED
    # The float32 graph, then 0, 1 and 2 products in float32, then the second alone.
    assert (found.evaluations, found.most_evaluations, found.gates) == (5, 20, 1)
    assert (found.share, found.most_share) == (pytest.approx(0.1), 0.25)
    assert found.before.violations(LOOSE) != []
    weights = dict(checkpoint.load(shifted).parameters())
    assert [product_weights.tolist() for product_weights in float32_products(out / INT8)] == [
        weights[name].T.tolist() for name in DAMAGED
    ]
    assert Artifact.open(out).manifest.recipe["search"] == 20
    assert all(name in (out / "README.md").read_text() for name in DAMAGED)
    assert main(["verify", str(out), "--accept-bounds"]) == 0
    assert f"(10.0% of the operations, 5 evaluations): {', '.join(DAMAGED)}; with every product" in capsys.readouterr().out
    assert main(["info", str(out), "--all"]) == 0
    assert f"search:\n  {INT8}:\n    float32: {'; '.join(DAMAGED)}\n" in capsys.readouterr().out


def test_a_score_still_depends_on_its_pair_alone(quick, shifted, home, small_gate):
    out = convert(shifted, home / "out", Recipe(gate=small_gate, bounds=LOOSE, search=20))
    documents = [text for pool in Recipe(gate=small_gate).gate_pools()[:5] for text in pool.documents]
    with Reranker.load(out) as reranker:
        batched = reranker.logits("how do tides work", documents).tolist()
        assert batched == [reranker.logits("how do tides work", [text]).tolist()[0] for text in documents]


def test_two_searches_are_one(quick, shifted, home, small_gate):
    recipe = Recipe(gate=small_gate, bounds=LOOSE, search=20)
    first, second = (files(convert(shifted, home / name, recipe)) for name in ("first", "second"))
    assert first == second


def test_nothing_is_searched_where_the_gate_accepts(cheap, monkeypatch, source, home, small_gate):
    plain = files(convert(source, home / "plain", Recipe(gate=small_gate, bounds=LOOSE)))
    monkeypatch.setattr(Sensitivity, "drift", lambda *_: pytest.fail("evaluated a graph"))
    out = convert(source, home / "out", Recipe(gate=small_gate, bounds=LOOSE, search=3))
    assert files(out)[INT8] == plain[INT8]
    assert files(out)["certificate.json"] == plain["certificate.json"]
    assert b'"search"' not in plain["certificate.json"] + plain["manifest.json"]


def test_budget_that_is_used_up(quick, shifted, home, small_gate):
    message = r"used up its 3 evaluations: the best graph, with 1 of 13 products \(10\.0% of the operations\) in float32, drifts "
    with pytest.raises(ParityError, match=message + r"\d+\.\d times as far as it may; allow more with --search N, or export with"):
        convert(shifted, home / "out", Recipe(gate=small_gate, bounds=LOOSE, search=3))
    assert list(home.iterdir()) == []


def test_pruning_that_is_cut_short_keeps_what_was_found(quick, shifted, home, small_gate):
    out = convert(shifted, home / "out", Recipe(gate=small_gate, bounds=LOOSE, search=4))
    found = Certificate.read(Artifact.open(out)).search[INT8]
    assert (found.float32, found.evaluations) == (DAMAGED, 4)


def test_share_that_does_not_suffice(quick, monkeypatch, shifted, home, small_gate):
    monkeypatch.setattr(searching, "MAX_SHARE", 0.09)
    # The best graph that it names is not one with more products in float32, with which drift was measured.
    message = (
        r"with at most 9% of the operations in float32: the best graph, with \d+ of 13 products \([0-8]\.\d% of the operations\)"
    )
    with pytest.raises(ParityError, match=message):
        convert(shifted, home / "out", Recipe(gate=small_gate, bounds=LOOSE, search=100))
    assert list(home.iterdir()) == []


@pytest.mark.slow
def test_misleading_noise_is_made_up_for_by_measured_drift(quick, monkeypatch, shifted, home, small_gate):
    noise = searching.noise
    monkeypatch.setattr(searching, "noise", lambda *arguments: -noise(*arguments))
    out = convert(shifted, home / "out", Recipe(gate=small_gate, bounds=LOOSE, search=60))
    found = Certificate.read(Artifact.open(out)).search[INT8]
    assert found.float32 == DAMAGED
    assert 10 < found.evaluations <= 60


@pytest.mark.parametrize("step", ["choose", "record"])
def test_an_interrupted_search_leaves_nothing(quick, monkeypatch, shifted, home, small_gate, step):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Sensitivity, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(shifted, home / "out", Recipe(gate=small_gate, bounds=LOOSE, search=20))
    assert list(home.iterdir()) == []


def test_a_choice_that_the_gate_refuses_is_made_stricter(quick, monkeypatch, shifted, home, small_gate):
    # Far more drift is allowed than the gate's first answer requires, so that it refuses the next choice, too.
    monkeypatch.setattr(searching, "TARGET_SHARES", (1.0,))
    targets, choose = [], Sensitivity.choose

    def recorded(self, target):
        targets.append(target)
        return choose(self, target if len(targets) > 1 else 0.99 * self.drift(()))

    monkeypatch.setattr(Sensitivity, "choose", recorded)
    out = convert(shifted, home / "out", Recipe(gate=small_gate, bounds=LOOSE, search=60))
    found = Certificate.read(Artifact.open(out)).search[INT8]
    assert found.float32 == DAMAGED
    assert found.gates == len(targets) == 2


@pytest.mark.skipif(not instruction_sets() & set(VNNI), reason="needs a processor with VNNI")
def test_every_int8_file_is_searched(quick, shifted, home, small_gate):
    out = convert(shifted, home / "out", Recipe(gate=small_gate, bounds=LOOSE, vnni=True, search=20))
    found = Certificate.read(Artifact.open(out)).search
    assert {file: record.float32 for file, record in found.items()} == {VNNI_FILE: DAMAGED, INT8: DAMAGED}


def test_force_and_search_exclude_each_other(home, source):
    with pytest.raises(InputError, match="--force writes what the gate refuses, --search what it accepts"):
        convert(source, home / "out", Recipe(search=20), force=True)
    assert list(home.iterdir()) == []


@pytest.fixture(scope="session")
def scaled(built, checkpoint_of):
    return str(built("scaled", lambda folder: replant(checkpoint_of("modernbert"), folder, scale)))


@pytest.fixture(scope="session")
def trace_of_scaled(scaled):
    return trace(checkpoint.load(scaled))


@pytest.mark.parametrize(
    ("migrations", "expected"),
    [((0.5,), None), pytest.param((0.0,), [1, 3], marks=pytest.mark.slow)],
    ids=["smoothed", "not smoothed"],
)
def test_scaled_channels_are_smoothed_away_or_found(monkeypatch, trace_of_scaled, scaled, home, migrations, expected):
    trace_once(monkeypatch, trace_of_scaled)
    monkeypatch.setattr(choosing, "MIGRATIONS", migrations)
    out = convert(scaled, home / "out", Recipe(bounds=Bounds(worst_tau=0.75), search=60))
    search = Certificate.read(Artifact.open(out)).search
    names = expected and [f"model.layers.{layer}.mlp.Wi.weight" for layer in expected]
    assert (search[INT8].float32 if search else None) == names


@given(st.sets(st.integers(0, 30), min_size=1), st.integers(31, 40))
def test_what_is_needed_is_found_in_any_order(required, size):
    order, lengths = [str(number) for number in range(size)], []

    def is_enough(names):
        lengths.append(len(names))
        return {str(number) for number in required} <= set(names)

    found = shortest_prefix(order, is_enough)
    assert found == order[: max(required) + 1]
    assert len(lengths) <= 12
    assert prune(found, is_enough) == {str(number) for number in required}


def test_nothing_is_enough():
    assert shortest_prefix([], lambda names: False) == []
    assert shortest_prefix(["a", "b", "c"], lambda names: False) == []


def test_strain_is_the_largest_share_of_an_allowance(artifact):
    agreement = Certificate.read(Artifact.open(artifact)).agreement[INT8]
    agreement = msgspec.structs.replace(agreement, overlap=0.98, tau=0.96, worst_tau=1.0, error=0.03, ndcg=0.5, checkpoint_ndcg=0.5)
    assert allowance_used(agreement, Bounds()) == pytest.approx(0.8)
    assert allowance_used(agreement, Bounds(), ("error",)) == pytest.approx(0.6)
    assert allowance_used(msgspec.structs.replace(agreement, ndcg=0.47), Bounds()) == pytest.approx(1.5)
    assert allowance_used(agreement, Bounds(tau=1.0)) > 1e9


def test_weights_are_named_as_in_the_checkpoint(trace_of_source, source):
    from resift_export.graph.optimize import optimize

    model = optimize(trace_of_source.clone(), 192)
    parameters = dict(checkpoint.load(source).parameters())
    names = weight_names(model, parameters.items())
    assert len(names) == len(set(names.values())) == 13
    assert set(names.values()) < set(parameters)
    assert weight_names(model, []) == {name: name for name in names}
    equal_parameters = {name: np.ones_like(array) for name, array in parameters.items()}
    for product in products(model):
        product.node.replace_input_with(1, ir.Value(name="w", const_value=ir.tensor(np.ones(product.weights.shape, np.float32))))
    shared = list(weight_names(model, equal_parameters.items()).values())
    assert shared[0] in parameters
    assert shared[1] == f"{shared[0]} (use 2)"
    assert len(set(shared)) == 13


@pytest.mark.parametrize(("options", "expected"), [([], None), (["--search"], 100), (["--search", "7"], 7)])
def test_search_on_the_command_line(options, expected):
    assert parser().parse_args(["export", "checkpoint", "out", *options]).search == expected
