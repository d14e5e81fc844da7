"""`resift export --first-look`: which students are refused, and the contents of the artifact."""

from __future__ import annotations

import dataclasses
import json
import shutil

import msgspec
import numpy as np
import pytest

from resift import ArtifactError, ExportError, InputError, ParityError, Reranker, Settings
from resift.artifact.agreement import Bounds, measure
from resift.artifact.certificate import Certificate, FirstLookRecall
from resift.artifact.folder import Artifact
from resift.cli.main import main
from resift_export.build.first_look import check_plan, check_student, first_look_file
from resift_export.build.gate import faults_of
from resift_export.checkpoint import load as checkpoints
from resift_export.convert import convert
from resift_export.distill.student import student_of
from resift_export.graph import weights
from resift_export.graph.trace import TRACERS
from resift_export.int8 import ranges
from resift_export.recipe import Recipe
from tests.conftest import cheapen, trace_once


@pytest.fixture(scope="session")
def loaded(checkpoint_of):
    """loaded(family): a tiny checkpoint."""
    return lambda family: checkpoints.load(str(checkpoint_of(family)))


def test_what_is_written(planned_artifact):
    manifest = Artifact.open(planned_artifact).manifest
    full, look = manifest.graphs
    assert [(graph.name, graph.role, graph.layers) for graph in manifest.graphs] == [
        ("full", "full", 5),
        ("first-look", "first-look", 2),
    ]
    assert look.operations < full.operations / 2
    assert [variant.file for variant in look.variants] == ["first-look.int8.onnx", "first-look.float32.onnx"]
    assert manifest.plan == "first-look:0.2,full"
    assert manifest.recipe["first_look"] == "bert-1"
    card = (planned_artifact / "README.md").read_text()
    assert "first-look.int8.onnx, the first look of plans: " in card
    certificate = Certificate.read(Artifact.open(planned_artifact))
    assert list(certificate.agreement) == ["model.int8.onnx", "model.float32.onnx"]
    assert list(certificate.first_looks) == ["first-look.int8.onnx", "first-look.float32.onnx"]


def test_an_artifact_without_a_first_look_is_written_as_before(artifact):
    manifest = json.loads((artifact / "manifest.json").read_text())
    assert not {"plan", "first_look"} & (manifest.keys() | manifest["recipe"].keys())
    assert "first_looks" not in json.loads((artifact / "certificate.json").read_text())
    assert "first look" not in (artifact / "README.md").read_text()


def test_both_graphs_tell_their_progress(deeper, checkpoint_of, home, small_gate, monkeypatch):
    cheapen(monkeypatch)
    recipe = Recipe(gate=small_gate, precisions=("int8",), bounds=Bounds(overlap=0, tau=-1, worst_tau=-1, error=1e9))
    steps = []
    out = convert(
        str(deeper),
        home / "out",
        recipe,
        first_look=str(checkpoint_of("bert")),
        report=lambda step, done, total: steps.append(step),
    )
    assert list(dict.fromkeys(steps)) == [
        "reference",
        "reference on generated pairs",
        "calibrate",
        "ranges of model.int8.onnx",
        "quantize model.int8.onnx",
        "first look: calibrate",
        "first look: ranges of model.int8.onnx",
        "first look: quantize model.int8.onnx",
        "verify model.int8.onnx",
        "verify first-look.int8.onnx",
        "verify model.int8.onnx on generated pairs",
    ]
    assert [graph.layers for graph in Artifact.open(out).manifest.graphs] == [5, 2]
    assert [path.name for path in home.iterdir()] == ["out"]


def test_a_first_look_reads_the_weights_that_the_full_graph_holds(deeper, home, small_gate, monkeypatch):
    cheapen(monkeypatch)
    loose = Bounds(overlap=0, tau=-1, worst_tau=-1, error=1e9)
    recipe = Recipe(gate=small_gate, precisions=("int8", "float32"), bounds=loose)
    student = home / "student"
    shutil.copytree(deeper, student)
    teacher = checkpoints.load(str(deeper))
    student_of(teacher.model, (4,)).save_pretrained(student)
    artifacts = {}
    for min_bytes, name in ((1 << 30, "apart"), (1000, "sharing")):
        monkeypatch.setattr(weights, "MIN_SHARED_BYTES", min_bytes)
        artifacts[name] = Artifact.open(convert(str(deeper), home / name, recipe, first_look=str(student), force=True))
    apart, sharing = (artifact.manifest.graphs[1].variants for artifact in artifacts.values())
    assert [variant.weights for variant in apart] == [None, None]
    assert [variant.weights for variant in sharing] == ["model.int8.onnx", "model.float32.onnx"]
    files = [artifact.manifest.files["first-look.int8.onnx"].size for artifact in artifacts.values()]
    assert files[1] < files[0] - 1000
    documents = ["the moon pulls the sea", "bread rises by yeast", "the tide is high twice a day", "a cat sleeps", ""]
    for precision in ("int8", "float32"):
        found = []
        for artifact in artifacts.values():
            with Reranker.load(artifact.folder, settings=Settings(precision=precision)) as reranker:
                ranking = reranker.rerank("why are there tides", documents, plan="first-look:2,full")
            found.append([(result.index, result.logit, result.scored_by) for result in ranking])
        assert found[0] == found[1]
        assert [by for _, _, by in found[1]] == ["full"] * 2 + ["first-look"] * 3
    weights_path = artifacts["sharing"].folder / "model.int8.onnx"
    content = bytearray(weights_path.read_bytes())
    content[len(content) // 2] ^= 1
    weights_path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.int8\.onnx has SHA-256"):
        artifacts["sharing"].read_graph(sharing[0])


def test_a_first_look_is_added_to_an_artifact_whose_scores_stay(deeper, checkpoint_of, home, small_gate, monkeypatch):
    cheapen(monkeypatch)
    deeper, student = str(deeper), str(checkpoint_of("bert"))
    loose = Bounds(overlap=0, tau=-1, worst_tau=-1, error=1e9)
    both = Recipe(gate=small_gate, precisions=("int8", "float32"), bounds=loose)
    earlier = Artifact.open(convert(deeper, home / "earlier", both))
    monkeypatch.setattr(ranges, "CLIPS", (0.5,))  # an export would now make another graph
    traced = []
    monkeypatch.setitem(TRACERS, "torch", lambda loaded: traced.append(loaded.layers) or trace_once(loaded))
    later = Artifact.open(convert(deeper, home / "later", both, first_look=student, keep=str(home / "earlier"), force=True))
    for file in ("model.int8.onnx", "model.float32.onnx"):
        assert later.manifest.files[file] == earlier.manifest.files[file]
    assert later.manifest.full == earlier.manifest.full
    assert later.manifest.graphs[1].layers == 2
    assert traced == [2]
    assert later.manifest.recipe["kept"] == earlier.fingerprint()
    assert "kept" not in earlier.manifest.recipe
    assert list(Certificate.read(later).agreement) == ["model.int8.onnx", "model.float32.onnx"]
    with pytest.raises(ExportError, match="has the layers 5, but this export has 2; expected an artifact of the same checkpoint"):
        convert(student, home / "other", both, keep=str(home / "earlier"))
    with pytest.raises(ExportError, match="has the variants"):
        convert(deeper, home / "other", Recipe(gate=small_gate, bounds=loose), keep=str(home / "earlier"))
    with pytest.raises(InputError, match="--keep takes graphs over as they are"):
        convert(deeper, home / "other", Recipe(gate=small_gate, bounds=loose, search=20), keep=str(home / "earlier"))
    assert not (home / "other").exists()


def test_files_of_a_first_look():
    assert first_look_file("model.int8-vnni.onnx") == "first-look.int8-vnni.onnx"


def test_a_student_of_another_tokenizer_is_refused(loaded):
    with pytest.raises(ExportError, match=r"the first look roberta-1 has another tokenizer than bert-1 \(they differ in .*model"):
        check_student(loaded("roberta"), loaded("bert"))
    check_student(loaded("bert"), loaded("bert"))


def test_a_student_that_reads_less_is_refused(loaded):
    bert = loaded("bert")
    with pytest.raises(
        ExportError, match="reads 64 tokens of a pair and bert-1 192; expected a first look that reads at least as many"
    ):
        check_student(dataclasses.replace(bert, max_length=64), bert)
    check_student(bert, dataclasses.replace(bert, max_length=64))


@pytest.mark.usefixtures("cheap")
def test_a_student_that_is_no_cheaper_is_refused_and_nothing_is_written(source, home, small_gate, checkpoint_of):
    with pytest.raises(ExportError, match=r"costs (\d+) operations a token, bert-1 \1; expected a cheaper model"):
        convert(source, home / "out", Recipe(precisions=("float32",), gate=small_gate), first_look=source)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("plan", "has_first_look", "message"),
    [
        ("fast", False, "the plan fast needs a first look; add --first-look STUDENT"),
        ("first-look", True, "expected full at the end"),
        ("other:3,full", True, "expected full at the end, after first-look or alone"),
        ("first-look:3", True, "cannot be used: a plan's last stage keeps 3"),
    ],
)
def test_a_default_plan_that_the_artifact_cannot_follow_is_refused(plan, has_first_look, message):
    with pytest.raises(InputError, match=message):
        check_plan(plan, has_first_look=has_first_look)


def test_plans_that_can_be_followed():
    for plan, has_first_look in ((None, False), ("full", False), ("fast", True), ("first-look:0.3,full", True)):
        check_plan(plan, has_first_look=has_first_look)


def test_a_plan_is_refused_before_anything_is_loaded(home, capsys):
    assert main(["export", "no-such-checkpoint", str(home / "out"), "--plan", "balanced"]) == 1
    assert "the plan balanced needs a first look" in capsys.readouterr().err
    assert list(home.iterdir()) == []


def test_out_may_not_be_inside_the_student(source, planned_artifact, tmp_path, checkpoint_of):
    student = tmp_path / "student"
    student.mkdir()
    with pytest.raises(ExportError, match="is, contains or is inside the checkpoint"):
        convert(source, student / "out", Recipe(), first_look=str(student))
    assert list(student.iterdir()) == []


def test_the_gate_judges_the_first_look_beside_the_full_graph(loaded):
    bert = loaded("bert")
    logits = [np.arange(10.0)] * 30
    pools = Recipe().gate_pools()[:30]
    good = measure(pools, logits, logits)
    for agreement, recall, message in (
        (good, 0.9, None),
        (good, 0.7, "bert-1 in first-look.int8.onnx is no first look for its model"),
        (msgspec.structs.replace(good, tau=0.1), 0.9, "bert-1 in model.int8.onnx does not rank like its checkpoint"),
    ):
        certificate = Certificate(
            bounds=Bounds(),
            agreement={"model.int8.onnx": agreement},
            pools=[],
            first_looks={"first-look.int8.onnx": [FirstLookRecall(look=0.5, kept=recall)]},
        )
        faults = faults_of(certificate, bert, bert, Recipe())
        assert [type(fault) for fault in faults] == ([] if message is None else [ParityError])
        assert message is None or message in str(faults[0])
        assert message is None or ("leave --first-look out" in str(faults[0])) == ("first-look" in message)
