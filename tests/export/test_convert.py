"""convert: the whole line, what it refuses, and that a failure leaves nothing behind."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import tiny
from resift import Reranker, Settings
from resift.artifact import Artifact
from resift.errors import ExportError, InputError, LogitsError, ParityError, ResiftError
from resift.machine import instruction_sets
from resift.parity import Bounds, Certificate
from resift_export import checkpoint
from resift_export import convert as line
from resift_export import quantize as quantization
from resift_export.convert import convert
from resift_export.graph import array_of
from resift_export.quantize import quantize
from resift_export.recipe import VNNI, VNNI_FILE, Recipe
from resift_export.trace import TRACERS, trace

pytestmark = pytest.mark.xdist_group("convert")

# As in conftest.artifact_of: tiny models were not taught relevance.
LOOSE = Bounds(worst_tau=0.75)
ANYTHING = Bounds(overlap=0, tau=-1, worst_tau=-1, error=1e9)
FILES = {"manifest.json", "tokenizer.json", "certificate.json", "README.md", "model.int8.onnx"}


@pytest.fixture(scope="module")
def source(checkpoint_of):
    return str(checkpoint_of("bert"))


@pytest.fixture(scope="module")
def traced(source):
    return trace(checkpoint.load(source))


@pytest.fixture
def cheap(monkeypatch, traced):
    """Traces once for all tests, and takes the first range it tries."""
    monkeypatch.setitem(TRACERS, "torch", lambda loaded: traced.clone())
    monkeypatch.setattr(quantization, "CLIPS", (1.0,))
    monkeypatch.setattr(quantization, "MIGRATIONS", (0.0,))


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def small_gate(tmp_path_factory):
    """The built-in gate's pools, cut to the ten documents a pool needs and those to a few words: faster."""
    path = tmp_path_factory.mktemp("gate") / "small.jsonl"
    pools = Recipe().gate_pools()[:30]
    texts = [[" ".join(text.split()[:8]) for text in pool.documents[:10]] for pool in pools]
    rows = [{"qid": pool.qid, "query": pool.query, "documents": rows} for pool, rows in zip(pools, texts, strict=True)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def no_loading(*args, **kwargs):
    pytest.fail("loaded the checkpoint for an export that cannot be written")


def damaged(spoil):
    """quantize, and then `spoil(name, array)` of every int8 weight."""

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
    assert certificate.measure(found) == certificate.agreement["model.int8.onnx"]
    pool = certificate.pools[7]
    assert pool.variants["model.int8.onnx"] == found[7].tolist()
    assert pool.checkpoint == loaded.reference(pool.query, pool.documents).tolist()


@pytest.mark.parametrize("taken", ["file", "empty folder", "folder", "artifact"])
def test_existing_out_is_refused(monkeypatch, source, home, artifact_of, taken):
    monkeypatch.setattr("resift_export.convert.checkpoints.load", no_loading)
    out = artifact_of("bert") if taken == "artifact" else home / "out"
    if taken == "file":
        out.write_text("mine")
    elif taken != "artifact":
        out.mkdir()
    if taken == "folder":
        (out / "thesis.txt").write_text("mine")
    said = "is no folder" if taken == "file" else "choose another folder, or say --overwrite"
    with pytest.raises(ExportError, match=rf"exists already.*{said}"):
        convert(source, out, Recipe())
    if taken != "artifact":
        with pytest.raises(ExportError, match=r"exists already and is (no folder|not an artifact alone)"):
            convert(source, out, Recipe(), overwrite=True)
        assert [path.name for path in home.iterdir()] == ["out"]
    assert taken != "folder" or (out / "thesis.txt").read_text() == "mine"


def test_artifact_is_replaced_where_asked(cheap, source, home, small_gate):
    out = home / "out"
    convert(source, out, Recipe(gate=small_gate, precisions=("float32",)))
    assert "model.float32.onnx" in contents(out)
    convert(source, out, Recipe(gate=small_gate, bounds=ANYTHING), overwrite=True)
    assert set(contents(out)) == FILES
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
    monkeypatch.setattr(line, "quantize", damaged(coarse))
    only = {field: getattr(Bounds() if field == name else ANYTHING, field) for field in BOUNDS}
    with pytest.raises(
        ParityError, match=rf"bert-1 in model\.int8\.onnx does not rank like its checkpoint: {BOUNDS[name]}"
    ) as caught:
        convert(source, home / "out", Recipe(gate=small_gate, bounds=Bounds(**only)))
    assert [text for text in BOUNDS.values() if text in str(caught.value)] == [BOUNDS[name]]
    assert list(home.iterdir()) == []


def test_refused_export_keeps_the_artifact_it_was_to_replace(cheap, monkeypatch, source, home, small_gate):
    out = convert(source, home / "out", Recipe(gate=small_gate, precisions=("float32",)))
    before = contents(out)
    monkeypatch.setattr(line, "quantize", damaged(coarse))
    with pytest.raises(ParityError):
        convert(source, out, Recipe(gate=small_gate), overwrite=True)
    assert contents(out) == before
    assert [path.name for path in home.iterdir()] == ["out"]


def test_forced_export_says_so(cheap, monkeypatch, source, home, small_gate):
    monkeypatch.setattr(line, "quantize", damaged(coarse))
    opened = Artifact.open(convert(source, home / "out", Recipe(gate=small_gate), force=True))
    assert opened.manifest.forced is True
    certificate = Certificate.read(opened)
    assert len(certificate.agreement["model.int8.onnx"].violations(certificate.bounds)) == 4
    assert [path.name for path in home.iterdir()] == ["out"]


def test_force_without_need_is_not_recorded(cheap, source, home, small_gate):
    convert(source, home / "out", Recipe(gate=small_gate, precisions=("float32",)), force=True)
    assert Artifact.open(home / "out").manifest.forced is False


def test_every_precision_is_judged(cheap, monkeypatch, source, home, small_gate):
    monkeypatch.setattr(line, "quantize", damaged(coarse))
    with pytest.raises(ParityError, match=r"in model\.int8\.onnx"):
        convert(source, home / "out", Recipe(gate=small_gate, precisions=("float32", "int8")))
    assert list(home.iterdir()) == []


def test_graph_that_answers_nan(cheap, monkeypatch, source, home, small_gate):
    def spoiled(model, samples):
        for node in quantize(model, samples).graph:
            if node.op_type == "MatMulIntegerToFloat":
                scales = node.inputs[3]
                scales.const_value = ir.tensor(np.full_like(array_of(scales), np.nan), name=scales.name)
        return model

    monkeypatch.setattr(line, "quantize", spoiled)
    with pytest.raises(LogitsError):
        convert(source, home / "out", Recipe(gate=small_gate), force=True)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_full_disk_leaves_nothing(cheap, monkeypatch, source, home, small_gate, overwrite):
    out = home / "out"
    recipe = Recipe(gate=small_gate, precisions=("float32",))
    before = contents(convert(source, out, recipe)) if overwrite else None
    written, write_bytes = [], Path.write_bytes

    def full(path, content):
        if len(written) == 3:
            write_bytes(path, content[:10])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(path)
        return write_bytes(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(ExportError, match=r"cannot write .*: No space left on device"):
            convert(source, out, recipe, overwrite=overwrite)
    assert len(written) == 3
    if overwrite:
        assert contents(out) == before
        assert [path.name for path in home.iterdir()] == ["out"]
    else:
        assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("trace", MemoryError()),
        ("write", OSError(errno.ENOSPC, "No space left on device")),
        ("write", KeyboardInterrupt()),
        ("certify", KeyboardInterrupt()),
    ],
    ids=["trace", "full disk", "write", "certify"],
)
def test_any_interruption_leaves_nothing(cheap, monkeypatch, source, home, small_gate, step, error):
    def fails(*args, **kwargs):
        raise error

    if step == "trace":
        monkeypatch.setitem(TRACERS, "torch", fails)
    else:
        monkeypatch.setattr(line, step, fails)
    with pytest.raises(type(error)):
        convert(source, home / "out", Recipe(gate=small_gate, precisions=("float32",)))
    assert list(home.iterdir()) == []


def test_folder_that_cannot_be_put_in_place_costs_no_artifact(cheap, monkeypatch, source, home, small_gate):
    recipe = Recipe(gate=small_gate, precisions=("float32",))
    before = contents(convert(source, home / "out", recipe))
    rename = Path.rename

    def once(path, target):
        if path.name == "new":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", once)
        with pytest.raises((ExportError, OSError)):
            convert(source, home / "out", recipe, overwrite=True)
    assert [path.name for path in home.iterdir()] == ["out"]
    assert contents(home / "out") == before


def test_parent_that_cannot_be_written(source, home, monkeypatch):
    monkeypatch.setattr("resift_export.convert.checkpoints.load", no_loading)
    (home / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write beside"):
        convert(source, home / "file" / "out", Recipe())


@pytest.mark.parametrize("name", ["calibration", "gate"])
def test_bad_texts_are_noticed_before_the_checkpoint_is_loaded(monkeypatch, source, home, name):
    monkeypatch.setattr("resift_export.convert.checkpoints.load", no_loading)
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
    # Traced twice, from scratch; the float32 graph beside it changes nothing.
    monkeypatch.setattr(quantization, "CLIPS", (1.0, 0.9))
    recipes = [Recipe(gate=small_gate, precisions=kinds, bounds=ANYTHING) for kinds in (("int8",), ("float32", "int8"))]
    first, second = (contents(convert(source, home / str(number), recipe)) for number, recipe in enumerate(recipes))
    assert first["tokenizer.json"] == second["tokenizer.json"]
    assert hashlib.sha256(first["model.int8.onnx"]).hexdigest() == hashlib.sha256(second["model.int8.onnx"]).hexdigest()


def test_float32_alone(cheap, source, home, small_gate):
    out = convert(source, home / "out", Recipe(gate=small_gate, precisions=("float32",)))
    assert set(contents(out)) == FILES - {"model.int8.onnx"} | {"model.float32.onnx"}
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
    monkeypatch.setattr("resift_export.convert.checkpoints.load", no_loading)
    folder = shutil.copytree(source, home / "models" / "checkpoint")
    (folder.parent / "manifest.json").write_text('{"format": 2, "files": {"checkpoint": {}}}')
    with pytest.raises(ExportError, match=r"is the checkpoint .*, lies in it or holds it"):
        convert(str(folder), folder / place, Recipe(), overwrite=True)
    assert {path.name for path in folder.iterdir()} == {path.name for path in Path(source).iterdir()}


WITH_VNNI = pytest.mark.skipif(not instruction_sets() & set(VNNI), reason="needs a processor with VNNI")


@WITH_VNNI
def test_eight_bit_weights_beside_seven_bit_ones(cheap, source, home, small_gate):
    plain = contents(convert(source, home / "plain", Recipe(gate=small_gate, bounds=ANYTHING)))
    out = convert(source, home / "out", Recipe(gate=small_gate, bounds=ANYTHING, vnni=True, precisions=("float32", "int8")))
    assert set(contents(out)) == FILES | {VNNI_FILE, "model.float32.onnx"}
    assert contents(out)["model.int8.onnx"] == plain["model.int8.onnx"]
    opened = Artifact.open(out)
    assert [(variant.file, variant.instruction_sets) for variant in opened.manifest.full.variants] == [
        (VNNI_FILE, ["avx512_vnni"]),
        (VNNI_FILE, ["avx_vnni"]),
        ("model.int8.onnx", []),
        ("model.float32.onnx", []),
    ]
    assert opened.manifest.recipe["vnni"] is True
    certificate = Certificate.read(opened)
    assert list(certificate.agreement) == [VNNI_FILE, "model.int8.onnx", "model.float32.onnx"]
    eight, seven = certificate.agreement[VNNI_FILE], certificate.agreement["model.int8.onnx"]
    assert 0 < eight.error < seven.error
    assert f"| {VNNI_FILE} | avx512_vnni or avx_vnni |" in contents(out)["README.md"].decode()
    with Reranker.load(out) as reranker:
        assert reranker.variant.file == VNNI_FILE
        pool = certificate.pools[3]
        assert reranker.logits(pool.query, pool.documents).tolist() == pool.variants[VNNI_FILE]


def largest_weight(model):
    weights = [array_of(node.inputs[1]) for node in model.graph if node.op_type == "MatMulIntegerToFloat"]
    return max(int(np.abs(array.astype(int)).max()) for array in weights)


def test_what_vnni_gets_has_eight_bits_and_the_safe_graph_seven(cheap, monkeypatch, source, home, small_gate):
    monkeypatch.setattr("resift.machine.instruction_sets", lambda: frozenset({"avx2", "avx512_vnni"}))
    monkeypatch.setattr("resift_export.parity.instruction_sets", lambda: frozenset({"avx2", "avx512_vnni"}))
    out = convert(source, home / "out", Recipe(gate=small_gate, bounds=ANYTHING, vnni=True))
    assert largest_weight(ir.load(out / VNNI_FILE)) == 127
    assert largest_weight(ir.load(out / "model.int8.onnx")) == 63


@pytest.mark.parametrize("found", [{"avx2", "avx512f"}, set()])
def test_vnni_is_refused_where_it_cannot_be_verified(monkeypatch, source, home, found):
    monkeypatch.setattr("resift_export.convert.checkpoints.load", no_loading)
    monkeypatch.setattr("resift_export.parity.instruction_sets", lambda: frozenset(found))
    said = f"{', '.join(sorted(found)) or 'neither'}: it cannot be verified here; export on a machine"
    with pytest.raises(ExportError, match=rf"{VNNI_FILE} needs a processor with avx512_vnni or avx_vnni, and this one has {said}"):
        convert(source, home / "out", Recipe(vnni=True))
    assert list(home.iterdir()) == []


def attached(tmp_path, **files):
    folder = tmp_path / "attached"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


def test_attached_files_travel(cheap, source, home, tmp_path, small_gate):
    about = "# Tiny {bert}\n\nTrained on our own texts: 100 % ours, in Zürich.\n"
    paths = attached(tmp_path, **{"NOTICE": b"\x00\xffbinary", "LICENSE": b"terms", "README.md": about.encode()})
    out = convert(source, home / "out", Recipe(gate=small_gate, precisions=("float32",), attached=paths))
    found = contents(out)
    assert (found["NOTICE"], found["LICENSE"]) == (b"\x00\xffbinary", b"terms")
    card = found["README.md"].decode()
    assert card.startswith(about + "\n## This artifact")
    assert "| model.float32.onnx | any | 1.0000 | 1.0000 |" in card
    entries = Artifact.open(out).manifest.files
    for name in ("NOTICE", "LICENSE", "README.md"):
        assert (entries[name].size, entries[name].sha256) == (len(found[name]), hashlib.sha256(found[name]).hexdigest())


def test_card_without_attached_files(cheap, source, home, small_gate):
    out = convert(source, home / "out", Recipe(gate=small_gate, precisions=("float32",)), name="org/tiny")
    card = contents(out)["README.md"].decode()
    assert card.startswith("# org/tiny\n\nThe licence and the training data are those of the checkpoint.\n")
    assert "on 30 gate pools" in card
    assert "no labels |" in card


@pytest.mark.parametrize("name", ["tokenizer.json", "certificate.json", "manifest.json", "model.float32.onnx"])
def test_attached_file_may_not_replace_the_artifacts_own(cheap, source, home, tmp_path, small_gate, name):
    paths = attached(tmp_path, **{name: b"{}"})
    with pytest.raises(ResiftError, match=rf"cannot attach .*{name}"):
        convert(source, home / "out", Recipe(gate=small_gate, precisions=("float32",), attached=paths))
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(("name", "content"), [("a b.txt", b""), (".hidden", b""), ("README.md", b"\xff\xfe")])
def test_attached_file_that_cannot_travel(cheap, source, home, tmp_path, small_gate, name, content):
    paths = attached(tmp_path, **{name: content})
    with pytest.raises(ResiftError, match=rf"cannot attach .*{name}"):
        convert(source, home / "out", Recipe(gate=small_gate, precisions=("float32",), attached=paths))
    assert list(home.iterdir()) == []
