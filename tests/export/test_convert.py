"""convert: the whole pipeline, what it refuses, and that a failure leaves nothing behind."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from resift import Reranker, Settings
from resift.artifact.agreement import Bounds
from resift.artifact.certificate import Certificate
from resift.artifact.folder import Artifact
from resift.errors import ExportError, InputError, LogitsError, ParityError
from resift_export.build import contents, generated
from resift_export.build import draft as drafts
from resift_export.build import export as pipeline
from resift_export.checkpoint import load as checkpoint
from resift_export.convert import convert
from resift_export.graph.edit import array_of
from resift_export.graph.trace import TRACERS
from resift_export.int8 import ranges as choosing
from resift_export.int8.quantize import quantize
from resift_export.recipe import Recipe
from tests.support import tiny
from tests.support.jobs import files

# As in conftest.artifact_of: tiny models were not trained on relevance.
LOOSE = Bounds(worst_tau=0.75)
ANYTHING = Bounds(overlap=0, tau=-1, worst_tau=-1, error=1e9)
FILES = {"manifest.json", "tokenizer.json", "certificate.json", "README.md", "model.int8.onnx"}


def no_loading(*args, **kwargs):
    pytest.fail("loaded the checkpoint for an export that cannot be written")


def damaged(spoil):
    """quantize, followed by `spoil(weights)` on the weights of every int8 product."""

    def make(model, samples, **options):
        quantize(model, samples, **options)
        for node in model.graph:
            if node.op_type == "MatMulIntegerToFloat":
                value = node.inputs[1]
                value.const_value = ir.tensor(spoil(array_of(value)), name=value.name)
        return model

    return make


def coarse(weights):
    return (np.rint(weights / 42.0) * 42).astype(np.int8)


def test_artifact_of_a_checkpoint(source, home):
    out = home / "deeper" / "out"
    assert convert(source, out, Recipe(bounds=LOOSE), name="org/tiny") == out
    assert [path.name for path in home.iterdir()] == ["deeper"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert {path.name for path in out.iterdir()} == FILES
    opened = Artifact.open(out)
    assert (opened.manifest.model.id, opened.manifest.model.architecture) == ("org/tiny", "BertForSequenceClassification")
    assert opened.manifest.recipe == Recipe().record()
    assert opened.manifest.forced is False
    assert opened.manifest.onnxruntime[0] == "1.20.0"
    certificate = Certificate.read(opened)
    assert certificate.bounds == LOOSE
    assert [pool.query for pool in certificate.pools] == [pool.query for pool in Recipe().gate_pools()]
    assert certificate.agreement["model.int8.onnx"].ndcg is not None


def test_certificate_says_what_users_will_see(cheap, source, home, small_gate):
    opened = Artifact.open(convert(source, home / "out", Recipe(gate=small_gate, bounds=ANYTHING)))
    certificate, loaded = Certificate.read(opened), checkpoint.load(source)
    with Reranker.load(home / "out") as reranker:
        found = [reranker.logits(pool.query, pool.documents) for pool in certificate.pools]
    assert certificate.measure(found).is_close_to(certificate.agreement["model.int8.onnx"])
    pool = certificate.pools[7]
    assert np.array(pool.variants["model.int8.onnx"], np.float32).tolist() == found[7].tolist()
    # In other batches, PyTorch rounds differently.
    assert pool.checkpoint == pytest.approx(loaded.reference(pool.query, pool.documents).tolist(), abs=1e-5)


def filled(folder):
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")


def tree(folder):
    """Every path below `folder`, with the text of the files."""
    return {path: path.is_file() and path.read_text() for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda out: out.write_text("mine"), "is not a folder", id="file"),
        pytest.param(Path.mkdir, "choose another folder, or use --overwrite", id="empty folder"),
        pytest.param(filled, "choose another folder, or use --overwrite", id="folder"),
    ],
)
def test_existing_out_is_refused(monkeypatch, source, home, make, message):
    monkeypatch.setattr("resift_export.checkpoint.load.load", no_loading)
    out = home / "out"
    make(out)
    before = tree(home)
    with pytest.raises(ExportError, match=rf"already exists.*{message}"):
        convert(source, out, Recipe())
    with pytest.raises(ExportError, match=r"already exists and is not a (folder|plain artifact)"):
        convert(source, out, Recipe(), overwrite=True)
    assert tree(home) == before


def test_existing_artifact_is_refused(monkeypatch, source, artifact):
    monkeypatch.setattr("resift_export.checkpoint.load.load", no_loading)
    with pytest.raises(ExportError, match=r"already exists; choose another folder, or use --overwrite"):
        convert(source, artifact, Recipe())


def test_artifact_is_replaced_where_asked(cheap, source, home, small_gate):
    out = home / "out"
    convert(source, out, Recipe(gate=small_gate, precisions=("float32",)))
    assert "model.float32.onnx" in files(out)
    convert(source, out, Recipe(gate=small_gate, bounds=ANYTHING), overwrite=True)
    assert set(files(out)) == FILES
    assert Artifact.open(out).manifest.recipe["precisions"] == ["int8"]
    assert [path.name for path in home.iterdir()] == ["out"]


BOUNDS = {
    "overlap": "mean top-10 overlap is",
    "tau": "mean Kendall tau is",
    "worst_tau": "the worst pool's Kendall tau is",
    "error": "the 99th percentile of logit errors is",
}


@pytest.mark.parametrize("name", BOUNDS)
def test_each_bound_refuses_a_damaged_graph(cheap, monkeypatch, source, home, small_gate, name):
    monkeypatch.setattr(drafts, "quantize", damaged(coarse))
    bounds = {field: getattr(Bounds() if field == name else ANYTHING, field) for field in BOUNDS}
    with pytest.raises(
        ParityError, match=rf"bert-1 in model\.int8\.onnx does not rank like its checkpoint: {BOUNDS[name]}"
    ) as caught:
        convert(source, home / "out", Recipe(gate=small_gate, bounds=Bounds(**bounds)))
    assert [text for text in BOUNDS.values() if text in str(caught.value)] == [BOUNDS[name]]
    assert list(home.iterdir()) == []


def test_refused_export_keeps_the_artifact_it_was_to_replace(cheap, monkeypatch, source, home, small_gate):
    out = convert(source, home / "out", Recipe(gate=small_gate, precisions=("float32",)))
    before = files(out)
    monkeypatch.setattr(drafts, "quantize", damaged(coarse))
    with pytest.raises(ParityError):
        convert(source, out, Recipe(gate=small_gate), overwrite=True)
    assert files(out) == before
    assert [path.name for path in home.iterdir()] == ["out"]


def test_forced_export_says_so(cheap, monkeypatch, source, home, small_gate):
    monkeypatch.setattr(drafts, "quantize", damaged(coarse))
    opened = Artifact.open(convert(source, home / "out", Recipe(gate=small_gate), force=True))
    assert opened.manifest.forced is True
    certificate = Certificate.read(opened)
    assert len(certificate.agreement["model.int8.onnx"].violations(certificate.bounds)) == 4
    assert [path.name for path in home.iterdir()] == ["out"]


def test_force_without_need_is_not_recorded(cheap, source, home, small_gate):
    convert(source, home / "out", Recipe(gate=small_gate, precisions=("float32",)), force=True)
    assert Artifact.open(home / "out").manifest.forced is False


def test_every_precision_is_judged(cheap, monkeypatch, source, home, small_gate):
    monkeypatch.setattr(drafts, "quantize", damaged(coarse))
    with pytest.raises(ParityError, match=r"in model\.int8\.onnx"):
        convert(source, home / "out", Recipe(gate=small_gate, precisions=("float32", "int8")))
    assert list(home.iterdir()) == []


def test_graph_that_answers_nan(cheap, monkeypatch, source, home, small_gate):
    def spoiled(model, samples, **options):
        for node in quantize(model, samples, **options).graph:
            if node.op_type == "MatMulIntegerToFloat":
                scales = node.inputs[3]
                scales.const_value = ir.tensor(np.full_like(array_of(scales), np.nan), name=scales.name)
        return model

    monkeypatch.setattr(drafts, "quantize", spoiled)
    with pytest.raises(LogitsError):
        convert(source, home / "out", Recipe(gate=small_gate), force=True)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_full_disk_leaves_nothing(cheap, monkeypatch, source, home, small_gate, overwrite):
    out = home / "out"
    recipe = Recipe(gate=small_gate, precisions=("float32",))
    before = files(convert(source, out, recipe)) if overwrite else None
    written_paths, write_bytes = [], Path.write_bytes

    def full(path, content):
        if len(written_paths) == 3:
            write_bytes(path, content[:10])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written_paths.append(path)
        return write_bytes(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(ExportError, match=r"cannot write .*: No space left on device"):
            convert(source, out, recipe, overwrite=overwrite)
    assert len(written_paths) == 3
    if overwrite:
        assert files(out) == before
        assert [path.name for path in home.iterdir()] == ["out"]
    else:
        assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("trace", MemoryError()),
        ("write", OSError(errno.ENOSPC, "No space left on device")),
        ("write", KeyboardInterrupt()),
        ("optimize", KeyboardInterrupt()),
        ("write_graphs", KeyboardInterrupt()),
        ("certify", KeyboardInterrupt()),
    ],
    ids=["trace", "full disk", "write", "optimize", "write graphs", "certify"],
)
def test_any_interruption_leaves_nothing(cheap, monkeypatch, source, home, small_gate, step, error):
    def fails(*args, **kwargs):
        raise error

    if step == "trace":
        monkeypatch.setitem(TRACERS, "torch", fails)
    else:
        monkeypatch.setattr({"optimize": drafts, "certify": pipeline}.get(step, contents), step, fails)
    with pytest.raises(type(error)):
        convert(source, home / "out", Recipe(gate=small_gate, precisions=("float32",)))
    assert list(home.iterdir()) == []


STEPS = [
    "reference",
    "reference on generated pairs",
    "calibrate",
    "ranges of model.int8.onnx",
    "quantize model.int8.onnx",
    "verify model.int8.onnx",
    "verify model.int8.onnx on generated pairs",
]


def test_every_step_that_takes_long_tells_its_progress(cheap, source, home, small_gate):
    reports = []
    convert(source, home / "out", Recipe(gate=small_gate, bounds=ANYTHING), report=lambda *progress: reports.append(progress))
    assert list(dict.fromkeys(step for step, _, _ in reports)) == STEPS
    for step in STEPS:
        counts = [(done, total) for name, done, total in reports if name == step]
        assert counts == [(done, counts[-1][1]) for done in range(counts[-1][1] + 1)]
        assert len(counts) > 10


@pytest.mark.parametrize("step", STEPS)
def test_ctrl_c_during_any_step_leaves_nothing(cheap, monkeypatch, source, home, tmp_path, small_gate, interruptible, step):
    def report(name, done, total):
        if (name, done) == (step, total // 2):
            signal.raise_signal(signal.SIGINT)

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with pytest.raises(KeyboardInterrupt):
        convert(source, home / "out", Recipe(gate=small_gate, bounds=ANYTHING), report=report)
    assert list(home.iterdir()) == []
    assert list((tmp_path / "temporary").iterdir()) == []


def test_folder_that_cannot_be_put_in_place_costs_no_artifact(cheap, monkeypatch, source, home, small_gate):
    recipe = Recipe(gate=small_gate, precisions=("float32",))
    before = files(convert(source, home / "out", recipe))

    def broken(path, target):
        raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("resift_export.build.staging.place", broken)
        with pytest.raises(ExportError, match=r"cannot write .*out: Input/output error"):
            convert(source, home / "out", recipe, overwrite=True)
    assert [path.name for path in home.iterdir()] == ["out"]
    assert files(home / "out") == before


def test_parent_that_cannot_be_written(source, home, monkeypatch):
    monkeypatch.setattr("resift_export.checkpoint.load.load", no_loading)
    (home / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write next to"):
        convert(source, home / "file" / "out", Recipe())


@pytest.mark.parametrize("name", ["calibration", "gate"])
def test_bad_texts_are_noticed_before_the_checkpoint_is_loaded(monkeypatch, source, home, name):
    monkeypatch.setattr("resift_export.checkpoint.load.load", no_loading)
    (home / "bad.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"bad\.jsonl, line 1"):
        convert(source, home / "out", Recipe(**{name: home / "bad.jsonl"}))
    assert [path.name for path in home.iterdir()] == ["bad.jsonl"]


def test_gate_query_too_long_for_the_model(cheap, source, home, tmp_path, small_gate):
    gate = tmp_path / "long.jsonl"
    row = {"query": "how long is long " * 100, "documents": ["a", "b"]}
    gate.write_text(small_gate.read_text() + "\n" + json.dumps(row))
    with pytest.raises(InputError, match=r"'how long is long .* tokens too long for bert-1; shorten it"):
        convert(source, home / "out", Recipe(gate=gate, precisions=("float32",)))
    assert list(home.iterdir()) == []


def test_checkpoint_that_cannot_be_used_leaves_nothing(home):
    with pytest.raises(ExportError, match=r"has no config\.json"):
        convert(str(home), home.parent / "out", Recipe())
    assert list(home.parent.iterdir()) == [home]


def test_two_exports_are_one(monkeypatch, source, home, small_gate):
    # Traced from scratch each time; adding a float32 graph changes nothing.
    monkeypatch.setattr(choosing, "CLIPS", (1.0, 0.9))
    monkeypatch.setattr(generated, "GENERATED_PAIRS", 100)
    kinds = (("int8",), ("int8",), ("float32", "int8"))
    recipes = [Recipe(gate=small_gate, precisions=precisions, bounds=ANYTHING) for precisions in kinds]
    first, again, more = (files(convert(source, home / str(number), recipe)) for number, recipe in enumerate(recipes))
    assert first == again
    assert first["tokenizer.json"] == more["tokenizer.json"]
    assert hashlib.sha256(first["model.int8.onnx"]).hexdigest() == hashlib.sha256(more["model.int8.onnx"]).hexdigest()


def test_float32_alone(cheap, source, home, small_gate):
    out = convert(source, home / "out", Recipe(gate=small_gate, precisions=("float32",)))
    assert set(files(out)) == FILES - {"model.int8.onnx"} | {"model.float32.onnx"}
    opened = Artifact.open(out)
    assert [variant.precision for variant in opened.manifest.full.variants] == ["float32"]
    agreement = Certificate.read(opened).agreement
    assert list(agreement) == ["model.float32.onnx"]
    assert agreement["model.float32.onnx"].error < 1e-5
    texts = tiny.texts()[1:20:2]
    with Reranker.load(out, settings=Settings(precision="float32")) as reranker:
        found = reranker.logits("how do tides work", texts)
    np.testing.assert_allclose(found, checkpoint.load(source).reference("how do tides work", texts), rtol=0, atol=2e-5)


@pytest.mark.parametrize("force", [False, True])
def test_a_checkpoint_that_gives_every_document_the_same_is_refused(cheap, checkpoint_of, home, tmp_path, small_gate, force):
    import safetensors.torch

    folder = shutil.copytree(checkpoint_of("bert"), tmp_path / "constant")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["classifier.weight"] *= 0
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ParityError, match="the checkpoint's logits differ within 0 of 30 pools; expected at least 30"):
        convert(str(folder), home / "out", Recipe(gate=small_gate, precisions=("float32",)), force=force)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("place", ["", "inside", ".."])
def test_the_checkpoint_is_not_written_over(monkeypatch, source, home, place):
    monkeypatch.setattr("resift_export.checkpoint.load.load", no_loading)
    folder = shutil.copytree(source, home / "models" / "checkpoint")
    (folder.parent / "manifest.json").write_text('{"format": 2, "files": {"checkpoint": {}}}')
    with pytest.raises(ExportError, match="is, contains or is inside the checkpoint"):
        convert(str(folder), folder / place, Recipe(), overwrite=True)
    assert {path.name for path in folder.iterdir()} == {path.name for path in Path(source).iterdir()}
