"""`resift upgrade`: an artifact of format 2 in today's format, with nothing in it that was not measured."""

from __future__ import annotations

import json
import shutil

import pytest

from resift import Reranker
from resift.artifact.certificate import Certificate
from resift.artifact.folder import Artifact
from resift.artifact.manifest import FORMAT
from resift.cli.main import main
from tests.conftest import edit, rewrite

QUERY, DOCUMENTS = "how do tides work", ["the moon", "bread rises by yeast", ""]
PRESENT = ("short_pools", "classes", "generated")


@pytest.fixture
def old(artifact, tmp_path):
    """The tiny artifact as a release that knew format 2 wrote it."""
    folder = shutil.copytree(artifact, tmp_path / "old")
    certificate = json.loads((folder / "certificate.json").read_bytes())
    for name in PRESENT:
        certificate.pop(name, None)
    for pool in certificate["pools"]:
        pool.pop("tokens", None)
    rewrite(folder, "certificate.json", json.dumps(certificate).encode())

    def change(manifest):
        manifest["format"] = 2
        manifest.pop("self_tests", None)
        for graph in manifest["graphs"]:
            for variant in graph["variants"]:
                assert "short" not in variant

    edit(folder, change)
    return folder


def test_it_scores_as_before_and_says_what_was_measured_and_no_more(old, tmp_path, capsys):
    new = tmp_path / "new"
    assert main(["upgrade", str(old), str(new)]) == 0
    assert capsys.readouterr().out.startswith(f"{new}  ")
    before, after = Artifact.open(old), Artifact.open(new)
    assert (before.manifest.format, after.manifest.format) == (2, FORMAT)
    for name in before.manifest.files:
        assert (name == "certificate.json") == ((old / name).read_bytes() != (new / name).read_bytes())
    stated, recorded = Certificate.read(after), Certificate.read(before)
    assert (stated.agreement, stated.bounds, stated.reference) == (recorded.agreement, recorded.bounds, recorded.reference)
    assert not stated.short_pools
    assert not stated.generated
    assert {file: sum(each.pairs for each in classes) for file, classes in stated.classes.items()} == dict.fromkeys(
        recorded.agreement, sum(len(pool.documents) for pool in recorded.pools)
    )
    assert not stated.classes["model.int8.onnx"][0].is_covered  # its gate has no pairs of so few tokens
    assert after.manifest.self_tests.keys() == recorded.agreement.keys()
    assert after.manifest.recipe["upgraded_from"] == before.fingerprint()
    with Reranker.load(old) as first, Reranker.load(new) as second:
        assert first.logits(QUERY, DOCUMENTS).tolist() == second.logits(QUERY, DOCUMENTS).tolist()
    assert main(["verify", str(old), "--accept-bounds"]) == 0
    assert "by length of the pair: not recorded" in capsys.readouterr().out
    assert main(["verify", str(new), "--accept-bounds"]) == 0
    assert "up to 8 tokens: not covered" in capsys.readouterr().out


def test_what_cannot_be_upgraded_is_one_line_and_leaves_nothing(old, tmp_path, capsys):
    new = tmp_path / "new"
    assert main(["upgrade", str(old), str(old)]) == 1
    assert "old exists; expected the name of a folder that does not" in capsys.readouterr().err
    (old / "model.int8.onnx").write_bytes(bytes((old / "model.int8.onnx").stat().st_size))
    assert main(["upgrade", str(old), str(new)]) == 1
    assert "the file was changed or damaged" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]


def test_an_artifact_of_todays_format_needs_no_upgrade(tmp_path, capsys):
    assert main(["upgrade", "ms-marco-minilm-l12", str(tmp_path / "new")]) == 1
    assert f"already has format {FORMAT}; expected an artifact of an earlier format" in capsys.readouterr().err
