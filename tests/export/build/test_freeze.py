"""`resift export --freeze`: which graph becomes the full one, and what the artifact holds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from resift import ExportError, InputError, Reranker, Settings
from resift.artifact.agreement import Bounds
from resift.artifact.certificate import Certificate
from resift.artifact.folder import Artifact
from resift.artifact.manifest import EXTENDED_FORMAT
from resift.cli.main import main
from resift_export.build import freeze
from resift_export.convert import convert
from resift_export.recipe import Recipe
from tests.conftest import cheapen
from tests.support import tiny

ANY = Bounds(overlap=0, tau=-1, worst_tau=-1, error=1e9, ndcg_drop=9)
LONG = [" ".join(["the tide rises and falls by the pull of moon and sun"] * count) for count in (1, 4, 5, 6, 9)]


@pytest.fixture(scope="module")
def source(built, checkpoint_of):
    return built("bert-deeper", lambda folder: tiny.save_deeper(folder, checkpoint_of("bert")))


@pytest.fixture(scope="module")
def export(source, small_gate, tmp_path_factory):
    """export(freeze, most_loss): the artifact of the deeper BERT with that much allowed."""
    made = {}

    def make(asked, most_loss=9.0, **more):
        key = asked, most_loss, tuple(more)
        if key not in made:
            with pytest.MonkeyPatch.context() as patch:
                cheapen(patch)
                patch.setattr(freeze, "MOST_LOSS", most_loss)
                recipe = Recipe(gate=small_gate, bounds=ANY, freeze=asked, **more)
                made[key] = convert(str(source), tmp_path_factory.mktemp("frozen") / "out", recipe)
        return made[key]

    return make


def test_a_frozen_graph_becomes_the_full_one_and_shares_the_weights_of_the_one_it_was_made_from(export, capsys):
    folder = export(3)
    artifact = Artifact.open(folder)
    [full] = artifact.manifest.graphs
    assert (full.name, full.frozen.layers, artifact.manifest.format) == ("full", 3, EXTENDED_FORMAT)
    [variant] = full.variants
    assert (variant.file, variant.weights) == ("model.int8.frozen.onnx", "model.int8.onnx")
    assert (folder / variant.file).stat().st_size < (folder / variant.weights).stat().st_size / 2
    plain = export(None)
    assert (folder / variant.weights).read_bytes() == (plain / variant.weights).read_bytes()
    assert full.operations < Artifact.open(plain).manifest.full.operations
    assert set(Certificate.read(artifact).agreement) == set(artifact.manifest.self_tests) == {variant.file}
    assert main(["verify", str(folder), "--accept-bounds"]) == 0
    assert variant.file in capsys.readouterr().out
    assert "the last 3 layers no longer update the document" in (folder / "README.md").read_text()


def test_what_ranks_too_differently_is_left_to_plans_that_name_it(export):
    folder = export(3, -1.0)
    artifact = Artifact.open(folder)
    assert [(graph.name, graph.role, graph.frozen is None) for graph in artifact.manifest.graphs] == [
        ("full", "full", True),
        ("frozen", "first-look", False),
    ]
    certificate = Certificate.read(artifact)
    assert (set(certificate.agreement), set(certificate.first_looks)) == ({"model.int8.onnx"}, {"model.int8.frozen.onnx"})
    with Reranker.load(folder) as left, Reranker.load(export(3)) as taken, Reranker.load(export(None)) as plain:
        frozen = taken.submit("tides", LONG).result().logits
        assert left.submit("tides", LONG, plan="frozen").result().logits.tobytes() == frozen.tobytes()
        whole = plain.submit("tides", LONG).result().logits
        assert left.submit("tides", LONG).result().logits.tobytes() == whole.tobytes()
        assert frozen[0] == whole[0], "a pair of up to 32 tokens is updated whole"
        assert (frozen[1:] != whole[1:]).all()
        assert str(left.plan_for("frozen:2,full")) == "frozen:2,full"


def test_auto_takes_the_last_number_of_layers_before_one_that_ranks_too_differently(export, monkeypatch):
    losses = {2: 0.001, 3: 0.01, 4: 0.0101}
    monkeypatch.setattr(freeze, "may_replace", lambda before, after, how: losses[how.layers] <= 0.01)
    assert Artifact.open(export("auto")).manifest.full.frozen.layers == 3


@pytest.mark.slow
def test_auto_freezes_nothing_where_two_layers_rank_too_differently(export):
    folder = export("auto", -1.0)
    assert json.loads((folder / "manifest.json").read_text())["format"] == EXTENDED_FORMAT - 1
    assert not list(folder.glob("*frozen*"))


def test_bits_are_the_same_in_any_company(export):
    queries = {f"what is {'the ' * count}tide": LONG for count in (0, 3, 9, 20)}
    with Reranker.load(export(3), settings=Settings(threads=3)) as many, Reranker.load(export(3)) as alone:
        futures = [many.submit(query, documents * 3) for query, documents in queries.items() for _ in range(4)]
        found = [future.result().logits for future in futures]
        for number, (query, documents) in enumerate(queries.items()):
            single = np.concatenate([alone.submit(query, [document]).result().logits for document in documents])
            for logits in found[4 * number : 4 * number + 4]:
                assert logits.tobytes() == np.tile(single, 3).tobytes()


def test_every_window_is_frozen_by_itself(export):
    text = " ".join(f"{word} tide" for word in LONG[-1].split() * 3)
    settings = Settings(windows=4)
    with Reranker.load(export(3), settings=settings) as frozen, Reranker.load(export(None), settings=settings) as plain:
        [one, other] = [each.submit("tides", [text, *LONG]).result() for each in (frozen, plain)]
        assert one.windows.tolist() == other.windows.tolist()
        assert one.windows[0] > 2
        assert one.logits[0] != other.logits[0]
        assert one.logits[0] == frozen.submit("tides", [text]).result().logits[0]


@pytest.mark.slow
def test_graphs_that_are_kept_stay_and_those_that_are_frozen_are_not_kept(export, source, small_gate, home, monkeypatch):
    cheapen(monkeypatch)
    monkeypatch.setattr(freeze, "MOST_LOSS", 9.0)
    plain, recipe = export(None), Recipe(gate=small_gate, bounds=ANY, freeze=3)
    out = convert(str(source), home / "out", recipe, keep=str(plain))
    for name in ("model.int8.onnx", "model.int8.frozen.onnx"):
        assert (out / name).read_bytes() == (export(3) / name).read_bytes()
    with pytest.raises(ExportError, match="has a frozen full graph, which --keep does not copy"):
        convert(str(source), home / "again", recipe, keep=str(out))


@pytest.mark.slow
@pytest.mark.parametrize(("family", "labels"), [("bert", 2), *((family, 1) for family in tiny.FREEZABLE)])
def test_every_family_scores_alone_as_in_any_company(family, labels, built, small_gate, home, monkeypatch):
    cheapen(monkeypatch)
    monkeypatch.setattr(freeze, "MOST_LOSS", 9.0)
    checkpoint = built(f"{family}-deep", lambda folder: tiny.save_random(folder, family, 4))
    if labels == 2:
        checkpoint = built(f"{family}-deep-2", lambda folder: tiny.save_with_two_labels(folder, checkpoint))
    out = convert(str(checkpoint), home / "out", Recipe(gate=small_gate, bounds=ANY, freeze=3, precisions=("int8", "float32")))
    for precision, difference in (("int8", 0), ("float32", 1e-5)):
        with Reranker.load(out, settings=Settings(precision=precision)) as reranker:
            assert reranker.variant.file == f"model.{precision}.frozen.onnx"
            together = reranker.submit("what is the tide", LONG).result().logits
            single = [reranker.submit("what is the tide", [document]).result().logits[0] for document in LONG]
            np.testing.assert_allclose(together, single, rtol=0, atol=difference)


@pytest.mark.parametrize("asked", [1, 0, -2, 2.0, True, "all", "2"])
def test_what_is_no_number_of_layers_is_refused(asked):
    with pytest.raises(InputError, match=r"--freeze is .*; expected auto, or a number of layers, 2 or more"):
        Recipe(freeze=asked)


def test_no_graph_is_both_frozen_and_masked():
    with pytest.raises(InputError, match="--freeze makes no float16 graphs, and --precision has float16; leave one of them out"):
        Recipe(freeze="auto", precisions=("int8", "float16"))


def test_a_frozen_graph_runs_bound_to_a_device_as_on_cuda(export):
    """CUDA copies all inputs in one piece: the number of updated tokens, too, which has another shape than the others."""
    folder = export(3, precisions=("float32",))
    with Reranker.load(folder) as reranker, Reranker(Artifact.open(folder), rehearsed="cuda") as bound:
        expected = reranker.submit("what is the tide", LONG).result().logits
        found = bound.submit("what is the tide", LONG).result().logits
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_pairs_that_are_too_short_to_fit_by_are_refused(source, small_gate, home, monkeypatch, file):
    cheapen(monkeypatch)
    pairs = [{"query": f"tide {number}", "document": "the moon"} for number in range(32)]
    calibration = file("\n".join(map(json.dumps, pairs)).encode(), "pairs.jsonl")
    with pytest.raises(ExportError, match="no calibration pair is longer than 32 tokens"):
        convert(str(source), home / "out", Recipe(gate=small_gate, bounds=ANY, freeze=2, calibration=calibration))


@pytest.mark.slow
def test_a_checkpoint_of_too_few_layers_is_refused(checkpoint_of, small_gate, home, monkeypatch):
    cheapen(monkeypatch)
    with pytest.raises(ExportError, match="it has 2 layers, and 2 are too many; leave --freeze out"):
        convert(str(checkpoint_of("bert")), home / "out", Recipe(gate=small_gate, bounds=ANY, freeze=2))
    assert not (home / "out").exists()
