"""`resift export --first-look` of a split student: what the artifact holds, and that its checks know both files of a graph."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from resift import ArtifactError, ExportError, Reranker
from resift.artifact.agreement import Bounds
from resift.artifact.certificate import Certificate
from resift.artifact.folder import Artifact
from resift.artifact.manifest import EXTENDED_FORMAT
from resift.cli.main import main
from resift.encoding.artifact_tokenizer import open_tokenizer
from resift_export.checkpoint import load as checkpoints
from resift_export.checkpoint.split import split_of
from resift_export.convert import convert
from resift_export.recipe import Recipe
from tests.conftest import cheapen, edit, rewrite
from tests.support import splits, tiny

ROOM = tiny.MAX_LENGTH - splits.POSITION
LOOSE = Bounds(overlap=0, tau=-1, worst_tau=-1, error=1e9, ndcg_drop=9)
QUERY = "why are there two high tides a day"
DOCUMENTS = ["the moon pulls the sea", "", "tide " * 400, "bread rises by yeast", "the sea " * 9]


def test_what_is_written(split_artifact):
    artifact = Artifact.open(split_artifact)
    look = artifact.manifest.graphs[1]
    assert (artifact.manifest.format, look.name, look.layers) == (EXTENDED_FORMAT, "first-look", 5)
    assert (look.split.layers, look.split.query_tokens, look.split.document_tokens, look.split.size) == (2, 24, 168, 64)
    assert [(variant.file, variant.document.file) for variant in look.variants] == [
        (f"first-look.{precision}.onnx", f"first-look.{precision}.document.onnx") for precision in ("int8", "float32")
    ]
    files = {variant.file for variant in look.variants}
    certificate = Certificate.read(artifact)
    assert set(certificate.first_looks) == set(certificate.look_classes) == files
    assert files < artifact.manifest.self_tests.keys()
    card = (split_artifact / "README.md").read_text()
    assert "The first look is split after layer 2: the file `*.document.onnx` computes states of a document alone, 64 bytes" in card
    assert "first-look.float32.onnx, against its own checkpoint: up to 8 tokens: " in card
    for variant in look.variants:
        assert {name for graph in variant.graphs() for name in graph.weight_files()} <= artifact.manifest.files.keys()


def test_the_artifacts_graphs_agree_with_the_split_checkpoint_in_pytorch(split_artifact):
    certificate = Certificate.read(Artifact.open(split_artifact))
    covered = [each for each in certificate.look_classes["first-look.float32.onnx"] if each.is_covered]
    assert len(covered) > 2
    assert max(each.error for each in covered) < 0.01
    assert min(each.tau for each in covered if each.tau is not None) > 0.99
    assert max(each.error for each in certificate.look_classes["first-look.int8.onnx"] if each.is_covered) < 0.2


def test_the_engine_scores_with_both_files_as_they_are(split_artifact):
    artifact = Artifact.open(split_artifact)
    runner = splits.Runner(split_artifact / "first-look.int8.document.onnx", split_artifact / "first-look.int8.onnx")
    encodings = open_tokenizer(artifact).encode(QUERY, DOCUMENTS)

    def columns(part):
        return {name: ids[None].astype(np.int64) for name, ids in zip(("input_ids", "token_type_ids"), part, strict=True)}

    states = [runner.states([columns(encodings.document(number, ROOM))])[0] for number in range(len(DOCUMENTS))]
    query = columns(encodings.query(0))
    alone = [runner.logits([query], [(0, each)]).item() for each in states]
    with Reranker(artifact) as reranker:
        found = reranker.submit(QUERY, DOCUMENTS, plan="first-look").result()
        assert found.logits.tolist() == alone
        ranking = reranker.rerank(QUERY, DOCUMENTS, plan="first-look:2,full")
        assert sorted(result.scored_by for result in ranking) == ["first-look"] * 3 + ["full"] * 2
        assert {result.logit for result in ranking if result.scored_by == "first-look"} < set(alone)


def test_verify_and_info_tell_of_both_files(split_artifact, capsys):
    main(["verify", str(split_artifact), "--json"])
    here = json.loads(capsys.readouterr().out)["first_look_by_length"]["first-look.int8.onnx"]
    at_export = Certificate.read(Artifact.open(split_artifact)).look_classes["first-look.int8.onnx"]
    assert [each["pairs"] for each in here] == [each.pairs for each in at_export]
    assert main(["info", str(split_artifact), "--all"]) == 0
    told = capsys.readouterr().out
    assert "first-look.int8.document.onnx" in told
    assert "first_look_by_length" in told


def test_a_document_half_that_was_changed_is_refused(split_artifact, tmp_path):
    copied = shutil.copytree(split_artifact, tmp_path / "copy")
    path = copied / "first-look.int8.document.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with Reranker.load(copied) as reranker, pytest.raises(ArtifactError, match=r"document\.onnx has SHA-256"):
        reranker.rerank(QUERY, DOCUMENTS, plan="first-look:2,full")


CONTRADICTED = {
    "another agreement": (lambda found: found["look_classes"]["first-look.int8.onnx"][0].update(pairs=7), "another agreement by"),
    "fewer logits": (lambda found: found["look_references"][3].pop(), "other numbers of look_references than of pairs"),
    "no logits": (lambda found: found.pop("look_references"), "other numbers of look_references than of pairs"),
    "a variant less": (lambda found: found["look_classes"].pop("first-look.int8.onnx"), "in look_classes, but the manifest lists"),
}


@pytest.mark.parametrize(("change", "message"), CONTRADICTED.values(), ids=CONTRADICTED)
def test_a_certificate_that_contradicts_itself_is_refused(split_artifact, tmp_path, change, message):
    copied = shutil.copytree(split_artifact, tmp_path / "copy")
    found = json.loads((copied / "certificate.json").read_text())
    change(found)
    rewrite(copied, "certificate.json", json.dumps(found).encode())
    with pytest.raises(ArtifactError, match=message):
        Certificate.read(Artifact.open(copied))


def test_a_manifest_that_claims_longer_halves_than_there_are_is_refused(split_artifact, tmp_path):
    for name, tokens, found in (("query_tokens", 193, 192), ("document_tokens", 169, 168)):
        copied = shutil.copytree(split_artifact, tmp_path / name)
        edit(copied, lambda manifest, name=name, tokens=tokens: manifest["graphs"][1]["split"].update({name: tokens}))
        artifact = Artifact.open(copied)
        [variant] = [each for each in artifact.manifest.graphs[1].variants if each.precision == "int8"]
        half = variant.document_half() if name == "document_tokens" else variant.of_width(1)
        with pytest.raises(ArtifactError, match=f"has {found} positions, but max_length in its manifest is {tokens}"):
            artifact.read_graph(half)


@pytest.mark.slow
def test_keep_copies_both_files(split_artifact, deeper, home, small_gate, monkeypatch):
    cheapen(monkeypatch)
    recipe = Recipe(precisions=("int8", "float32"), gate=small_gate, bounds=LOOSE)
    out = convert(str(deeper), home / "out", recipe, keep=str(split_artifact), force=True)
    before, after = Artifact.open(split_artifact).manifest, Artifact.open(out).manifest
    assert after.graphs[1] == before.graphs[1]
    copied = [name for name in before.files if name.startswith("first-look")]
    assert [after.files[name] for name in copied] == [before.files[name] for name in copied]
    assert not Certificate.read(Artifact.open(out)).look_classes
    with Reranker.load(out) as new, Reranker.load(split_artifact) as old:
        plan = "first-look:2,full"
        assert [each.logit for each in new.rerank(QUERY, DOCUMENTS, plan=plan)] == [
            each.logit for each in old.rerank(QUERY, DOCUMENTS, plan=plan)
        ]


def test_a_split_checkpoint_is_no_model_by_itself(split_artifact, home):
    student = split_artifact.with_name("bert-split-student")
    with pytest.raises(ExportError, match=r"is split after layer 2, so .*resift export TEACHER OUT --first-look .*student"):
        convert(str(student), home / "out", Recipe())
    with pytest.raises(ExportError, match="is split after layer 2"):
        checkpoints.load(str(student)).reference(QUERY, DOCUMENTS)
    assert not list(home.iterdir())


@pytest.mark.parametrize("found", [{"layers": 5, "document_position": 24}, {"layers": 2}, {"layers": 2, "document_position": 0}, 7])
def test_a_split_that_no_model_has_is_refused(split_artifact, home, found):
    student = shutil.copytree(split_artifact.with_name("bert-split-student"), home / "student")
    config = json.loads((student / "config.json").read_text())
    (student / "config.json").write_text(json.dumps(config | {"resift_split": found}))
    with pytest.raises(ExportError, match="expected layers from 1 to 4 and a document_position from 1 to 191"):
        split_of(checkpoints.load(str(student)).model, "student")
