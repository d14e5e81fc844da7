"""The halves of a split checkpoint: both graphs compute what the checkpoint means, in any batch."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from resift import ExportError
from resift_export.build.graph_files import document_file, write_first_look, write_graphs
from resift_export.build.split import split_models, trace_split
from resift_export.checkpoint import load as checkpoints
from resift_export.checkpoint.halves import SplitReference
from resift_export.checkpoint.layers import LAYERS, layers_of
from resift_export.checkpoint.split import split_of
from resift_export.graph.edit import array_of, serialize
from resift_export.graph.halves import Halves, ignore_padding
from resift_export.graph.weights import save
from resift_export.progress import no_report
from resift_export.recipe import Recipe
from tests.support import splits, tiny

DEPTH = 4
FAMILIES = tuple(LAYERS)
ROOM = tiny.MAX_LENGTH - splits.POSITION
SIZES = [(3, 1), (3, 16), (9, 17), (9, 33), (splits.POSITION, 2), (splits.POSITION, ROOM)]
"""Tokens of queries and of documents: the fewest and the most of each, and widths with and without padding."""


class Made:
    """The halves of a random split checkpoint in both precisions."""

    def __init__(self, folder, scratch, patch) -> None:
        # With a smoothing, which the states' scale then has as well.
        patch.setattr("resift_export.int8.ranges.CLIPS", (1.0,))
        patch.setattr("resift_export.int8.ranges.MIGRATIONS", (0.5,))
        self.loaded = checkpoints.load(str(folder))
        self.reference = splits.Reference(self.loaded.model, list(layers_of(self.loaded.model)))
        self.traced = trace_split(self.loaded, split_of(self.loaded.model, "tiny"), tiny.MAX_LENGTH, scratch)
        recipe = Recipe(precisions=("int8", "float32"))
        self.models = split_models(self.traced, recipe, recipe.calibration_pairs()[:40], no_report)
        self.folder = scratch
        for name, model in self.models.items():
            save(model, scratch / name)

    def halves(self, precision):
        file = f"first-look.{precision}.onnx"
        return Halves(self.models[document_file(file)], self.models[file])

    def runner(self, precision):
        file = f"first-look.{precision}.onnx"
        return splits.Runner(self.folder / document_file(file), self.folder / file)

    def exact(self, precision, levels):
        """What the levels of states mean, by the document half's constants."""
        constants = {name: array_of(value) for name, value in self.halves(precision).document.graph.initializers.items()}
        step = constants["states_scale"] / constants["exact_states_smoothing"]
        return (levels.astype(np.float32) - constants["states_zero_point"]) * step, step


@pytest.fixture(scope="module")
def made(built, tmp_path_factory):
    """made(family): both halves of a checkpoint of DEPTH layers with random weights."""
    found = {}

    def make(family):
        if family not in found:
            random = built(f"{family}-deep", lambda folder: tiny.save_random(folder, family, DEPTH))
            folder = tmp_path_factory.mktemp(family)
            splits.save(folder / "split", random)
            with pytest.MonkeyPatch.context() as patch:
                found[family] = Made(folder / "split", folder / "scratch", patch)
        return found[family]

    return make


@pytest.mark.parametrize("family", tiny.quickly("bert", of=FAMILIES))
def test_the_halves_compute_what_a_forward_with_explicit_masks_does(made, family):
    split = made(family)
    runner = split.runner("float32")
    for query_tokens, document_tokens in SIZES:
        query, document = splits.rows(split.loaded, query_tokens, document_tokens)
        expected = split.reference.states(document)
        [levels] = runner.states([document])
        states, step = split.exact("float32", levels)
        is_inside = (levels > 0) & (levels < 255)
        assert is_inside.mean() > 0.98
        assert (np.abs(states - expected[0]) <= 0.501 * step + 1e-5)[is_inside].all(), "more than half a step away"
        exact = split.reference.logits(query, states[None])
        np.testing.assert_allclose(runner.logits([query], [(0, levels)]), exact, rtol=0, atol=1e-4)
        assert np.abs(split.reference.logits(query, np.roll(states, 7, 1)[None]) - exact).max() > 1e-2, "states do not matter"


@pytest.mark.parametrize("family", tiny.quickly("bert", of=FAMILIES))
def test_int8_is_near_to_the_checkpoint_itself(made, family):
    split = made(family)
    runner, found, expected = split.runner("int8"), [], []
    for query_tokens, document_tokens in SIZES:
        for seed in range(4):
            query, document = splits.rows(split.loaded, query_tokens, document_tokens, seed)
            found.append(runner.logits([query], [(0, runner.states([document])[0])]).ravel())
            expected.append(split.reference.logits(query, split.reference.states(document)).ravel())
    errors = np.abs(np.array(found) - np.array(expected))
    assert errors.max() < 0.35 * np.ptp(expected)
    assert np.sqrt(np.square(errors).mean()) < 0.1 * np.ptp(expected)


def test_a_logit_is_the_same_to_the_bit_in_any_batch(made):
    split = made("bert")
    runner, random = split.runner("int8"), np.random.default_rng(0)
    queries = [splits.rows(split.loaded, 9, 1, seed)[0] for seed in range(3)]
    documents = [splits.rows(split.loaded, 9, tokens, tokens)[1] for tokens in (33, 40, 47, 48, 33, 40)]
    states = [runner.states([document])[0] for document in documents]
    together = runner.states([documents[0], documents[4], documents[0]])
    assert [levels.tobytes() for levels in together] == [states[number].tobytes() for number in (0, 4, 0)]
    alone = {
        (query, document): runner.logits([queries[query]], [(0, states[document])]) for query in range(3) for document in range(6)
    }
    for _ in range(20):
        pairs = [(int(query), int(document)) for query, document in zip(*random.integers(0, (3, 6), (7, 2)).T, strict=True)]
        found = runner.logits(queries, [(query, states[document]) for query, document in pairs])
        assert [row.tobytes() for row in found] == [alone[pair].tobytes() for pair in pairs]
    reversed_queries = runner.logits(queries[::-1], [(0, states[2]), (2, states[2])])
    assert [row.tobytes() for row in reversed_queries] == [alone[2, 2].tobytes(), alone[0, 2].tobytes()]


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_padding_is_ignored_whatever_it_holds(made, precision):
    split = made("bert")
    runner = split.runner(precision)
    query, document = splits.rows(split.loaded, 9, 33)
    [states] = runner.states([document])
    expected = runner.logits([query], [(0, states)])
    for width in (33, 64, 160):
        np.testing.assert_allclose(runner.logits([query], [(0, states)], width), expected, rtol=0, atol=1e-5)
    columns = {"query_of": np.zeros(1, np.int64), "document_tokens": np.array([33])}
    noise = np.random.default_rng(0).integers(0, 256, (1, 48, 64)).astype(np.uint8)
    noise[0, :33] = states
    found = runner._query.run(None, {**query, **columns, "states": noise})[0]
    assert found.tobytes() == expected.tobytes()
    longer = runner._query.run(None, {**query, **columns, "states": noise, "document_tokens": np.array([34])})[0]
    assert found.tobytes() != longer.tobytes()


def test_the_first_layers_have_the_same_weights_in_both_halves(made):
    document, query = made("bert").halves("int8")
    matrices = {array_of(node.inputs[1]).tobytes() for node in query.graph if node.op_type == "MatMulIntegerToFloat"}
    own = [array_of(node.inputs[1]).tobytes() for node in document.graph if node.op_type == "MatMulIntegerToFloat"]
    assert len(own) == 6 * splits.LAYERS
    assert matrices.issuperset(own)


def test_states_are_quantized_once_for_all_keys_and_values(made):
    _, query = made("bert").halves("int8")
    [states] = [value for value in query.graph.inputs if value.name == "states"]
    readers = [use.node.op_type for use in states.uses()]
    assert sorted(readers) == ["MatMulIntegerToFloat"] * 2 * (DEPTH - splits.LAYERS) + ["Shape"]


def test_operations_are_those_of_a_new_document_and_of_both_parts_of_the_query_half(made):
    traced = made("bert").traced
    size, units = 64, 128
    layer, keys_and_values = 2 * (4 * size**2 + 2 * size * units), 2 * 2 * size**2
    assert traced.split.reading_operations == (DEPTH - splits.LAYERS) * keys_and_values
    assert traced.operations == splits.LAYERS * layer + traced.split.reading_operations
    # Of the last layer, the head reads the first token alone.
    assert traced.split.query_operations == (DEPTH - 1) * layer + keys_and_values
    assert (traced.split.query_tokens, traced.split.document_tokens) == (splits.POSITION, ROOM)


def test_the_reference_reads_what_the_graphs_read(made):
    split = made("bert")
    reference = SplitReference(split.loaded, split_of(split.loaded.model, "tiny"), ROOM)
    tokenizer = split.loaded.pair_tokenizer()
    documents = ["the moon pulls the sea", "", "tide " * 400, "bread"]
    [found] = reference.references([("why are there tides", documents)], [np.zeros(4, np.float32)])
    encodings = tokenizer.encode("why are there tides", documents)
    for number, logit in enumerate(found):
        query, document = (
            {"input_ids": ids[None].astype(np.int64), "token_type_ids": segments[None].astype(np.int64)}
            for ids, segments in (encodings.query(number), encodings.document(number, ROOM))
        )
        expected = split.reference.logits(query, split.reference.states(document))
        np.testing.assert_allclose(logit, expected.item(), rtol=0, atol=1e-4)
    long_query, full = "why " * 60, np.arange(4, dtype=np.float32)
    assert reference.references([(long_query, documents)], [full])[0] is full


def test_a_query_half_whose_attention_cannot_ignore_padding_is_refused(made):
    query = made("bert").traced.halves.query.clone()
    with pytest.raises(ExportError, match="that cannot be split: 2 of its 3 later layers are attention that can ignore padding"):
        ignore_padding(query, 3, "that")


def test_a_slot_that_no_calibration_query_fits_into_is_refused(made):
    traced = made("bert").traced
    narrow = traced._replace(split=replace(traced.split, query_tokens=2))
    with pytest.raises(ExportError, match="no calibration pair has a query of at most 2 tokens"):
        split_models(narrow, Recipe(), Recipe().calibration_pairs()[:3], no_report)
    with pytest.raises(ExportError, match="no float16 graphs, and --precision has float16"):
        split_models(traced, Recipe(precisions=("int8", "float16")), [], no_report)


def test_weights_that_are_equal_are_stored_once(made, tmp_path):
    split = made("bert")
    look = split.models["first-look.int8.onnx"]
    full = write_graphs(tmp_path, {"model.int8.onnx": look})  # has every weight of the query half
    files = write_first_look(tmp_path, {name: model for name, model in split.models.items() if "int8" in name}, full)
    assert files["first-look.int8.onnx"].weights == "model.int8.onnx"
    whole = len(serialize(split.halves("int8").document))
    assert (tmp_path / "first-look.int8.document.onnx").stat().st_size < 0.5 * whole
    runner = splits.Runner(tmp_path / "first-look.int8.document.onnx", tmp_path / "first-look.int8.onnx")
    query, document = splits.rows(split.loaded, 9, 33)
    [states] = runner.states([document])
    alone = split.runner("int8")
    assert states.tobytes() == alone.states([document])[0].tobytes()
    assert runner.logits([query], [(0, states)]).tobytes() == alone.logits([query], [(0, states)]).tobytes()
