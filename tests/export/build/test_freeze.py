"""`resift export --freeze`: which graphs take the place of the full one and of the first look, and what the artifact holds."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

from resift import ExportError, InputError, ParityError, Reranker, Settings
from resift.artifact.agreement import Bounds
from resift.artifact.certificate import Certificate
from resift.artifact.coverage import ClassAgreement
from resift.artifact.folder import Artifact
from resift.artifact.manifest import EXTENDED_FORMAT
from resift.cli.main import main
from resift_export.build import freeze
from resift_export.build.graph_files import FrozenModels
from resift_export.build.losses import Loss
from resift_export.checkpoint import load as checkpoints
from resift_export.convert import convert
from resift_export.distill.student import student_of
from resift_export.graph.fit import CalibrationRow, fit
from resift_export.graph.freeze import LayerMaps
from resift_export.graph.freeze import freeze as freezing
from resift_export.int8.levels import quantize_weights
from resift_export.recipe import Recipe
from tests.conftest import REPOSITORY, cheapen
from tests.export.graph.test_freeze import run
from tests.support import tiny

ANY = Bounds(overlap=0, tau=-1, worst_tau=-1, error=1e9, ndcg_drop=9)
LONG = [" ".join(["the tide rises and falls by the pull of moon and sun"] * count) for count in (1, 4, 5, 6, 9)]


def feed(width):
    ids = np.random.default_rng(width).integers(5, tiny.VOCABULARY, (1, width))
    return {"input_ids": ids, "token_type_ids": (np.arange(width)[None] >= 9).astype(np.int64)}


@pytest.fixture(scope="module")
def source(deeper):
    return deeper


@pytest.fixture(scope="module")
def student(built, source):
    """A student of the deeper BERT, of three layers."""

    def make(folder):
        teacher = checkpoints.load(str(source))
        student_of(teacher.model, (0, 1, 3)).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes((source / name).read_bytes())

    return str(built("bert-deeper-3", make))


@pytest.fixture(scope="module")
def export(source, small_gate, tmp_path_factory):
    """export(freeze, most_loss): the artifact of the deeper BERT with that much allowed; `export.steps` are those of the last."""
    made = {}

    def make(asked, most_loss=9.0, *, first_look=None, keep=None, **more):
        key = asked, most_loss, first_look, keep, tuple(more)
        if key not in made:
            make.steps = []
            with pytest.MonkeyPatch.context() as patch:
                cheapen(patch)
                patch.setattr(freeze, "MOST_LOSS", most_loss)
                recipe = Recipe(gate=small_gate, bounds=ANY, freeze=asked, **more)
                made[key] = convert(
                    str(source),
                    tmp_path_factory.mktemp("frozen") / "out",
                    recipe,
                    first_look=first_look,
                    keep=keep,
                    report=lambda step, done, total: make.steps.append(step) if done == 0 else None,
                )
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


def loss(high, up_to=0, mean=0.0):
    """A loss over queries enough."""
    return Loss("tau", up_to, 40, mean, mean - high, high)


def lose(monkeypatch, tau=lambda how: [loss(0.0)], look=lambda how: [loss(0.0)]):
    """Makes exports lose what `tau` and `look` give of how it is frozen."""
    monkeypatch.setattr("resift_export.build.export.tau_losses", lambda before, after, how: tau(how))
    monkeypatch.setattr("resift_export.build.export.look_losses", lambda before, after, how: look(how))


def test_auto_takes_the_last_number_of_layers_before_one_that_ranks_too_differently(export, monkeypatch, capsys):
    highs = {2: 0.001, 3: 0.01, 4: 0.0101}
    lose(monkeypatch, lambda how: [loss(highs[how.layers])])
    folder = export("auto", 0.01)
    assert Artifact.open(folder).manifest.full.frozen.layers == 3
    generated = [step for step in export.steps if step.endswith("on generated pairs")]
    assert generated == ["reference on generated pairs", "verify model.int8.frozen.onnx on generated pairs"], (
        "once, for what is taken"
    )
    assert export.steps.count("verify model.int8.onnx") == 2, "on the gate, and on pools of each length class"
    assert export.steps.count("verify model.int8.frozen.onnx") == 3, "one for each number of layers that was tried"
    assert main(["info", str(folder), "--all"]) == 0
    printed = capsys.readouterr().out
    assert "3 layers of BertForSequenceClassification" in printed
    assert "refused: tau falls by 0.0000 [-0.0101, 0.0101] over 40 queries" in printed


def test_pairs_are_updated_whole_up_to_the_first_bound_that_is_accepted(export, source, small_gate, home, monkeypatch):
    artifacts = export(3), export(None)
    cheapen(monkeypatch)
    monkeypatch.setattr(freeze, "bounds_of", lambda before: [32, 64])
    lose(monkeypatch, lambda how: [loss(1.0, up_to=64, mean=1.0)] if how.whole_up_to < 64 else [loss(0.0)])
    out = convert(str(source), home / "out", Recipe(gate=small_gate, bounds=ANY, freeze=3))
    assert Artifact.open(out).manifest.full.frozen.whole_up_to == 64
    with Reranker.load(out) as longer, Reranker.load(artifacts[0]) as shorter, Reranker.load(artifacts[1]) as plain:
        texts = [" ".join(LONG[-1].split()[:count]) for count in range(4, 99, 4)]
        found, frozen, whole = (each.submit("tides", texts).result() for each in (longer, shorter, plain))
    up_to = (found.lengths <= 64) & (found.lengths > 32)
    assert up_to.any()
    assert (found.logits[up_to] == whole.logits[up_to]).all()
    assert (found.logits[found.lengths > 64] == frozen.logits[found.lengths > 64]).all()
    assert not (frozen.logits[up_to] == whole.logits[up_to]).all()


@pytest.mark.parametrize(
    ("needed", "expected"),
    [
        ({2: 32, 3: 32, 4: 129}, (3, 32, [(2, 32), (3, 32), (4, 32)])),
        ({2: 32, 3: 64, 4: 64}, (4, 64, [(2, 32), (3, 32), (3, 64), (4, 64)])),
        ({2: 32, 3: 128, 4: 129}, (2, 32, [(2, 32), (3, 32), (3, 128), (4, 128)])),
        ({2: 64, 3: 32, 4: 129}, (3, 64, [(2, 32), (2, 64), (3, 64), (4, 64)])),
        ({2: 192}, (None, None, [(2, 32)])),
    ],
    ids=["by layers", "longer", "too dear", "not shorter again", "none"],
)
def test_of_what_is_accepted_the_cheapest_on_the_gate_is_taken(needed, expected):
    """Three pairs, of 40, 100 and 100 tokens; a frozen token costs 100 - 10 a layer, another 100."""
    tried, certificate = [], SimpleNamespace(pools=[SimpleNamespace(tokens=[40, 100]), SimpleNamespace(tokens=[100])])
    freezer = SimpleNamespace(freeze=lambda layers: FrozenModels({}, freeze.frozen_layers(layers), 100 - 10 * layers))

    def whole_up_to(models):
        tried.append((models.how.layers, models.how.whole_up_to))
        return max(needed[models.how.layers], models.how.whole_up_to)

    cost = freeze._cost_on(certificate, 100)
    chosen = freeze._choose(freezer, [2, 3, 4], [32, 64, 128], whole_up_to, cost)
    assert (chosen and chosen.how.layers, chosen and chosen.how.whole_up_to, tried) == expected


@pytest.mark.parametrize(
    ("losses", "surely", "needed"),
    [
        ([loss(0.01), loss(0.01, 64)], True, 32),
        ([loss(0.01), loss(0.0101, 64, mean=0.001)], True, 64),
        ([loss(0.01), loss(0.0101, 64, mean=0.001)], False, 32),
        ([loss(0.01), loss(0.02, 64, mean=0.011), loss(0.02, 128, mean=0.011)], False, 128),
        ([loss(0.0101, mean=0.001), loss(0.0, 64)], True, 33),
        ([loss(0.01), loss(0.0, 64)._replace(queries=19)], True, 64),
        ([loss(0.01), loss(0.0, 64)._replace(queries=20)], True, 32),
        ([loss(0.01), loss(0.9, 64, mean=0.9)._replace(queries=19)], False, 32),
    ],
    ids=["sure", "unsure", "a number", "classes", "gate", "too few", "just enough", "too few for a number"],
)
def test_auto_has_to_be_sure_that_little_is_lost(losses, surely, needed):
    found = Certificate(bounds=ANY, agreement={}, pools=[])
    judge = freeze.FrozenJudge("it", found, lambda models: found, lambda *_: losses, lambda found: [], surely, verdicts=[])
    assert judge.whole_up_to(FrozenModels({}, freeze.frozen_layers(2), 1)) == needed
    [verdict] = judge.verdicts
    assert ("refused" in verdict) == (needed > 32)


def test_what_is_beyond_a_bound_of_the_gate_is_refused_unless_all_is():
    before, after = (Certificate(bounds=ANY, agreement={}, pools=[], reference=name) for name in ("before", "after"))
    for faulty, needed in ((["after"], 33), (["before", "after"], 32), (["before"], 32)):
        judge = freeze.FrozenJudge(
            "it",
            before,
            lambda models: after,
            lambda *_: [loss(0.0)],
            lambda found, names=faulty: [ParityError("fault")] * (found.reference in names),
            surely=True,
            verdicts=[],
        )
        assert judge.whole_up_to(FrozenModels({}, freeze.frozen_layers(2), 1)) == needed


def test_a_bound_leaves_pairs_by_which_the_gate_judges_frozen_ones():
    def classes(*taus):
        return [ClassAgreement(up_to=8 << number, pairs=100, error=0.0, tau=tau) for number, tau in enumerate(taus)]

    def bounds(*taus):
        return freeze.bounds_of(Certificate(bounds=ANY, agreement={}, pools=[], classes={"model.int8.onnx": classes(*taus)}))

    assert bounds(0.9, 0.9, 0.9, 0.9, 0.9, None) == [32, 64], "of up to 128 tokens is the last that is covered"
    assert bounds(None, 0.9, 0.9, 0.9, None, 0.9, 0.9) == [32, 64]
    assert bounds(0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9) == [32, 64, 128], "of pairs of more, too few were frozen"
    assert bounds(0.9, 0.9, None) == [32]


def test_a_first_look_is_frozen_in_its_own_place(export, student, capsys):
    folder, plain = export(2, first_look=student), export(None, first_look=student)
    full, look = Artifact.open(folder).manifest.graphs
    assert [(graph.name, graph.role, graph.frozen.layers) for graph in (full, look)] == [
        ("full", "full", 2),
        ("first-look", "first-look", 2),
    ]
    earlier = Artifact.open(plain).manifest.graphs[1]
    assert ([each.file for each in look.variants], earlier.frozen) == ([each.file for each in earlier.variants], None)
    assert look.operations < earlier.operations
    assert "In the first look, the last 2 layers no longer update the document" in (folder / "README.md").read_text()
    with Reranker.load(folder) as frozen, Reranker.load(plain) as whole:
        [one, other] = [each.submit("tides", LONG, plan="first-look").result().logits for each in (frozen, whole)]
        assert one[0] == other[0], "a pair of up to 32 tokens is updated whole"
        assert (one[1:] != other[1:]).all()
    assert main(["verify", str(folder), "--accept-bounds"]) == 0
    assert "first-look.int8.onnx" in capsys.readouterr().out


def test_a_first_look_whose_recall_falls_stays_as_it_is(export, student):
    folder, plain = export(2, -1.0, first_look=student), export(None, first_look=student)
    assert (folder / "first-look.int8.onnx").read_bytes() == (plain / "first-look.int8.onnx").read_bytes()
    assert [(graph.name, graph.frozen is None) for graph in Artifact.open(folder).manifest.graphs] == [
        ("full", True),
        ("first-look", True),
        ("frozen", False),
    ]


@pytest.mark.slow
def test_a_first_look_that_is_kept_is_frozen_and_then_kept_frozen(export, student, monkeypatch):
    """Without its checkpoint: what is frozen is fitted to the graph itself."""
    lose(monkeypatch, lambda how: [loss(99.0)])
    plain, made = export(None, first_look=student), export("auto", first_look=student)
    kept = export("auto", keep=str(plain))
    for folder in (made, kept, export("auto", keep=str(kept)), export(None, keep=str(kept))):
        full, look = Artifact.open(folder).manifest.graphs
        assert (full.frozen, look.frozen.layers) == (None, 2)
        for name in ("model.int8.onnx", "first-look.int8.onnx"):
            assert (folder / name).read_bytes() == (made / name).read_bytes()


@pytest.mark.slow
def test_a_first_look_of_two_layers_stays_as_it_is(export, checkpoint_of):
    look = Artifact.open(export(2, first_look=str(checkpoint_of("bert")))).manifest.graphs[1]
    assert (look.role, look.frozen) == ("first-look", None)


@pytest.mark.parametrize(("asked", "graphs"), [(3, ["full", "frozen"]), pytest.param("auto", ["full"], marks=pytest.mark.slow)])
def test_a_frozen_graph_that_fails_on_generated_pairs_is_not_the_full_one(source, small_gate, home, monkeypatch, asked, graphs):
    def check(found, bounds, what):
        if "frozen" in what:
            raise ParityError(f"{what} is too far off")

    cheapen(monkeypatch)
    monkeypatch.setattr(freeze, "MOST_LOSS", 9.0)
    monkeypatch.setattr("resift_export.build.gate.check_generated", check)
    artifact = Artifact.open(convert(str(source), home / "out", Recipe(gate=small_gate, bounds=ANY, freeze=asked)))
    assert [graph.name for graph in artifact.manifest.graphs] == graphs
    assert artifact.manifest.full.frozen is None
    assert set(Certificate.read(artifact).generated) == {"model.int8.onnx"}


def test_the_maps_of_an_int8_graph_are_nearer_to_it_than_none(export, tmp_path):
    model = ir.load(export(None) / "model.int8.onnx")
    rows = [CalibrationRow(feed(width), 16) for width in range(40, 90)]
    fitted = fit(model, 3, rows, "that", scratch=tmp_path)
    none = [LayerMaps(*(each._replace(weights=0 * each.weights) for each in layer)) for layer in fitted]
    inputs = feed(100)
    exact = run(model, inputs)
    errors = [np.abs(run(freezing(model, maps, "that", quantize_weights), inputs, 16) - exact) for maps in (fitted, none)]
    assert errors[0] < errors[1] / 2


@pytest.mark.slow
def test_auto_freezes_nothing_where_two_layers_rank_too_differently(export):
    folder = export("auto", -1.0)
    assert json.loads((folder / "manifest.json").read_text())["format"] == EXTENDED_FORMAT - 1
    assert not list(folder.glob("*frozen*"))


def test_auto_judges_alike_each_time(export, source, small_gate, home, monkeypatch):
    cheapen(monkeypatch)
    monkeypatch.setattr(freeze, "MOST_LOSS", 9.0)
    monkeypatch.setattr(freeze.Freezer, "numbers", lambda self: range(2, 3))
    recipe, folders = Recipe(gate=small_gate, bounds=ANY, freeze="auto"), [home / "one", home / "two"]
    files = [{path.name: path.read_bytes() for path in convert(str(source), folder, recipe).iterdir()} for folder in folders]
    assert files[0] == files[1]
    manifest = json.loads(files[0]["manifest.json"])
    [verdict] = manifest["recipe"]["freeze_verdicts"]
    assert "accepted: tau of model.int8.frozen.onnx on" in verdict
    assert manifest["graphs"][0]["frozen"]["layers"] == 2


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


@pytest.mark.slow
def test_the_benchmark_measures_every_number_of_layers(export, source, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    from benchmarks import freeze as benchmark
    from benchmarks.material import GATE_POOLS

    plain, files = export(None), [tmp_path / "labelled.jsonl", tmp_path / "plain.jsonl"]
    lines = GATE_POOLS.read_text().splitlines()[:4]
    files[0].write_text("\n".join(lines))
    texts = [[each["text"] for each in json.loads(line)["candidates"]] for line in lines]
    files[1].write_text("\n".join(json.dumps({"query": "tides", "documents": documents}) for documents in texts))
    options = ["--layers", "2", "3", "--pools", *map(str, files), "--times", "2", "--sizes", "5", "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["freeze", str(plain), str(source), *options])
    monkeypatch.setattr("resift_export.build.fitting_rows.TOKENS", 4_000)
    benchmark.main()
    found = json.loads((tmp_path / "out" / "freeze.json").read_text())
    assert [(row["file"], row["graph"]) for row in found["files"]] == [
        (file.name, graph) for file in files for graph in ("full", "m2", "m3")
    ]
    assert [("less" in row, row["tau"] > 0) for row in found["files"]] == [(True, True)] * 3 + [(False, True)] * 3
    assert {row["graph"] for row in found["classes"]} == {"full", "m2", "m3"}
    assert all(row["lower"] == 0 for row in found["classes"] if row["graph"] == "full" or row["up to"] <= 32)
    assert all(row["from"] <= row["lower"] <= row["to"] for row in found["classes"])
    assert [(row["candidates"], row["graph"], row["pools"]) for row in found["times"]] == [
        (5, graph, 2) for graph in ("full", "m2", "m3")
    ]
    assert "| candidates | graph | pools | p50 ms |" in capsys.readouterr().out


def test_the_benchmark_says_how_much_lower_tau_is_by_length_with_its_interval(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    from benchmarks import freeze as benchmark

    exact, swapped = np.arange(5.0), np.array([1.0, 0.0, 2.0, 3.0, 4.0])
    tokens = [np.full(5, 50)] * 8 + [np.full(5, 9)]
    found = {
        "full": benchmark.GraphLogits([exact] * 9, tokens),
        "m2": benchmark.GraphLogits([exact, swapped] * 4 + [exact], tokens),
    }
    rows = benchmark.by_class({"file": [exact] * 9}, {"file": found}, [32, 64, 128])
    assert [(row["up to"], row["graph"], row["pools"], row["tau"], row["lower"]) for row in rows] == [
        (32, "full", 1, 1.0, 0.0),
        (32, "m2", 1, 1.0, 0.0),
        (64, "full", 8, 1.0, 0.0),
        (64, "m2", 8, pytest.approx(0.9), pytest.approx(0.1)),
    ]
    assert 0 < rows[-1]["from"] < 0.1 < rows[-1]["to"] < 0.2
