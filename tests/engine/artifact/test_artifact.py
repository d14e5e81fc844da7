from __future__ import annotations

import json
import re
import shutil

import onnx
import pytest

from resift import ArtifactError, ProviderError, Reranker
from resift.artifact.folder import MANIFEST_LIMIT, Artifact, embedded
from resift.artifact.manifest import MANIFEST
from tests.conftest import edit, rewrite

GRAPH = "model.int8.onnx"


@pytest.fixture
def folder(artifact, tmp_path):
    """A copy to damage."""
    return shutil.copytree(artifact, tmp_path / "artifact")


def truncate(folder) -> None:
    content = (folder / GRAPH).read_bytes()
    (folder / GRAPH).write_bytes(content[:-1])


def flip(folder) -> None:
    content = bytearray((folder / GRAPH).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / GRAPH).write_bytes(content)


def swap(folder) -> None:
    content = (folder / "README.md").read_bytes()
    (folder / "README.md").write_bytes((folder / "certificate.json").read_bytes())
    (folder / "certificate.json").write_bytes(content)


def point_outside(folder) -> None:
    edit(folder, lambda manifest: manifest["files"].__setitem__("../secret", manifest["files"]["README.md"]))


def link_outside(folder) -> None:
    shutil.move(folder / GRAPH, folder.parent / "elsewhere.onnx")
    (folder / GRAPH).symlink_to(folder.parent / "elsewhere.onnx")


def link_the_card_outside(folder) -> None:
    shutil.move(folder / "README.md", folder.parent / "elsewhere.md")
    (folder / "README.md").symlink_to(folder.parent / "elsewhere.md")


def link_the_manifest_outside(folder) -> None:
    shutil.move(folder / MANIFEST, folder.parent / "elsewhere.json")
    (folder / MANIFEST).symlink_to(folder.parent / "elsewhere.json")


def external_weights(folder) -> None:
    model = onnx.load(folder / GRAPH)
    tensor = next(item for item in model.graph.initializer if item.raw_data)
    onnx.external_data_helper.set_external_data(tensor, location="../../etc/passwd")
    tensor.ClearField("raw_data")
    rewrite(folder, GRAPH, model.SerializeToString())


def other_inputs(folder) -> None:
    model = onnx.load(folder / GRAPH)
    text = onnx.helper.make_tensor_value_info("pixel_values", onnx.TensorProto.INT64, ["b", "w"])
    model.graph.input.append(text)
    rewrite(folder, GRAPH, model.SerializeToString())


def other_tokenizer(folder) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["post_processor"] = None
    rewrite(folder, "tokenizer.json", json.dumps(content).encode())


def larger_vocabulary(folder) -> None:
    edit(folder, lambda manifest: manifest["pair"].__setitem__("vocabulary", 100))


def variants(manifest):
    return manifest["graphs"][0]["variants"]


def signature(manifest):
    return manifest["graphs"][0]["signature"]


def link_to_itself(folder) -> None:
    (folder / GRAPH).unlink()
    (folder / GRAPH).symlink_to(folder / GRAPH)


def nest(folder, name) -> None:
    (folder / name).write_bytes(b'{"format": 2, "recipe": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def point(folder, name) -> None:
    """Replaces the file by the pointer that a clone without Git LFS holds in its place."""
    entry = json.loads((folder / MANIFEST).read_text())["files"].get(name, {"sha256": "0" * 64, "size": 3000})
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{entry['sha256']}\nsize {entry['size']}\n"
    (folder / name).write_text(pointer)


POINTER = "is a Git LFS pointer, not the file itself, which was not downloaded; fetch it with `git lfs pull` in its folder"
DAMAGES = {
    "pointer to a graph": (lambda folder: point(folder, GRAPH), f"{GRAPH} {POINTER}"),
    "pointer to the tokenizer": (lambda folder: point(folder, "tokenizer.json"), f"tokenizer.json {POINTER}"),
    "pointer to the certificate": (lambda folder: point(folder, "certificate.json"), f"certificate.json {POINTER}"),
    "pointer to the manifest": (lambda folder: point(folder, MANIFEST), f"{MANIFEST} {POINTER}"),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), "no manifest.json"),
    "manifest cut short": (lambda folder: (folder / MANIFEST).write_bytes(b'{"format": 1,'), "not what `resift export` writes"),
    "manifest of binary": (lambda folder: (folder / MANIFEST).write_bytes(b"\xff\x00\x01"), "not what `resift export` writes"),
    "manifest in Latin-1": (
        lambda folder: (folder / MANIFEST).write_bytes((folder / MANIFEST).read_bytes().replace(b'"full"', b'"f\xfcll"')),
        " is not UTF-8",
    ),
    "deeply nested manifest": (lambda folder: nest(folder, MANIFEST), "nested deeper than 100 levels"),
    "graph linked to itself": (link_to_itself, f"{GRAPH} is missing"),
    "huge manifest": (lambda folder: (folder / MANIFEST).write_bytes(b" " * (MANIFEST_LIMIT + 1)), "this is not a manifest"),
    "newer format": (lambda folder: edit(folder, lambda m: m.__setitem__("format", 5)), "install a newer resift"),
    "older format": (lambda folder: edit(folder, lambda m: m.__setitem__("format", 1)), "export the artifact again"),
    "unknown field": (lambda folder: edit(folder, lambda m: m.__setitem__("hooks", "os.system")), "unknown field `hooks`"),
    "unknown precision": (lambda folder: edit(folder, lambda m: variants(m)[0].__setitem__("precision", "int1")), "int1"),
    "absurd size": (lambda folder: edit(folder, lambda m: m["files"][GRAPH].__setitem__("size", -5)), "size"),
    "no labels": (lambda folder: edit(folder, lambda m: signature(m).__setitem__("labels", 0)), "labels"),
    "no variants": (lambda folder: edit(folder, lambda m: variants(m).clear()), "variants"),
    "unlisted graph": (lambda folder: edit(folder, lambda m: m["files"].pop(GRAPH)), f"its files lack {GRAPH}"),
    "unlisted tokenizer": (
        lambda folder: edit(folder, lambda m: m["files"].pop("tokenizer.json")),
        "its files lack tokenizer.json",
    ),
    "file missing": (lambda folder: (folder / GRAPH).unlink(), f"{GRAPH} is missing"),
    "file truncated": (truncate, "the copy is incomplete"),
    "one bit flipped": (flip, "has SHA-256"),
    "files swapped": (swap, "bytes, but its manifest says"),
    "foreign file": (lambda folder: (folder / "evil.py").write_text("1"), "holds evil.py"),
    "name outside the folder": (point_outside, "not what `resift export` writes"),
    "card linked outside": (link_the_card_outside, "leads outside the artifact's folder"),
    "link outside the folder": (link_outside, "leads outside the artifact's folder"),
    "manifest linked outside": (link_the_manifest_outside, "leads outside the artifact's folder"),
    "weights in another file": (external_weights, "reads weights from another file"),
    "graph with other inputs": (other_inputs, "pixel_values"),
    "graph that is none": (lambda folder: rewrite(folder, GRAPH, b"not onnx at all"), "is not an ONNX file"),
    "graph of nothing": (lambda folder: rewrite(folder, GRAPH, b""), "has float32 weights, but its manifest says int8"),
    "tokenizer without template": (other_tokenizer, "tokenizer.json joins a pair as"),
    "tokenizer of another model": (larger_vocabulary, "the model has 100"),
    "folder instead of a file": (lambda folder: ((folder / GRAPH).unlink(), (folder / GRAPH).mkdir()), f"{GRAPH} is missing"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_artifact_is_refused_with_its_own_message(folder, damage, message):
    damage(folder)
    with pytest.raises(ArtifactError, match=re.escape(message)):
        Reranker.load(folder)


def test_the_undamaged_copy_loads_and_hidden_files_do_not_matter(folder):
    (folder / ".gitattributes").write_text("* text=auto")
    with Reranker.load(folder) as reranker:
        assert reranker.score("a", ["b"]).shape == (1,)


def test_the_card_may_be_edited_or_left_out(folder):
    with Reranker.load(folder) as reranker:
        expected = reranker.score("a", ["b", "c"]).tolist()
    for change in (lambda card: card.write_text("# ours\n\nFine-tuned on our tickets."), lambda card: card.unlink()):
        change(folder / "README.md")
        with Reranker.load(folder) as reranker:
            assert reranker.score("a", ["b", "c"]).tolist() == expected


def test_an_older_onnxruntime_is_told_what_the_artifact_needs(folder):
    edit(folder, lambda manifest: manifest.__setitem__("onnxruntime", ["99.0.0", "99.1.0"]))
    with pytest.raises(ProviderError, match=r"needs 99\.0\.0 or newer: pip install -U onnxruntime"):
        Reranker.load(folder)


@pytest.mark.parametrize("source", ["no/such/folder", "", "\x00"])
def test_a_source_that_is_nowhere_is_named(source):
    with pytest.raises(ArtifactError, match="expected a folder, a hub id org/name, or the name of an embedded model"):
        Artifact.find(source)


def test_a_file_is_no_artifact(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="expected a folder"):
        Artifact.open(tmp_path / "file")


def test_embedded_models_are_found_by_name():
    assert Artifact.find("ms-marco-minilm-l12").folder == embedded()["ms-marco-minilm-l12"] == Artifact.find(None).folder
