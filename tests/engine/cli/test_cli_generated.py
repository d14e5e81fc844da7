"""`resift verify --fuzz`: int8 against float32 on generated pairs."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest

from resift.artifact.folder import Artifact
from resift.cli.main import main
from resift.cli.verify import _exact
from resift.errors import ExportError
from tests.conftest import edit, rewrite


def verify(*arguments):
    return main(["verify", *map(str, arguments), "--accept-bounds"])


def test_int8_is_compared_with_the_artifacts_float32_graph(artifact, capsys):
    assert verify(artifact, "--fuzz", 200, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["generated"]["pairs"] == 200
    assert 0 < found["generated"]["error"] < 0.1
    assert ": " in found["largest_difference"]
    assert verify(artifact, "--fuzz", 200, "--precision", "float32", "--json") == 0
    assert json.loads(capsys.readouterr().out)["generated"]["error"] == 0


@pytest.mark.usefixtures("toolchain")
def test_or_with_the_checkpoint(artifact, source, capsys):
    assert verify(artifact, "--fuzz", 120, "--checkpoint", source, "--precision", "float32", "--json") == 0
    assert json.loads(capsys.readouterr().out)["generated"]["error"] < 1e-4


@pytest.mark.usefixtures("toolchain")
@pytest.mark.parametrize(("named", "revision"), [("an/model", "c" * 40), ("another/model", None)])
def test_the_artifacts_own_model_is_loaded_at_its_revision(monkeypatch, named, revision):
    def load(source, **options):
        loaded.append((source, options["revision"]))
        raise ExportError("it is enough to know what was asked for")

    loaded: list[tuple[str, str | None]] = []
    monkeypatch.setattr("resift_export.checkpoint.load.load", load)
    embedded = Artifact.find(None)
    model = msgspec.structs.replace(embedded.manifest.model, id="an/model", revision="c" * 40)
    artifact = replace(embedded, manifest=msgspec.structs.replace(embedded.manifest, model=model))
    with pytest.raises(ExportError, match="it is enough"):
        _exact(SimpleNamespace(artifact=artifact), [], named, None)
    assert loaded == [(named, revision)]


def test_without_either_there_is_nothing_to_compare_with(copy, capsys):
    edit(copy, lambda manifest: manifest["graphs"][0]["variants"].pop())
    edit(copy, lambda manifest: manifest.get("self_tests", {}).pop("model.float32.onnx", None))
    certificate = json.loads((copy / "certificate.json").read_bytes())
    for columns in (certificate["agreement"], certificate.get("classes", {})):
        columns.pop("model.float32.onnx", None)
    for pool in certificate["pools"] + certificate.get("short_pools", []):
        del pool["variants"]["model.float32.onnx"]
    rewrite(copy, "certificate.json", json.dumps(certificate).encode())
    assert verify(copy, "--fuzz", 100) == 1
    assert "has no float32 graph for --fuzz to compare with; expected --checkpoint with it" in capsys.readouterr().err
