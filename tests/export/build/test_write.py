"""write: attached files and the card."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from resift.artifact.folder import Artifact
from resift.errors import ResiftError
from resift_export.build.freeze import frozen_layers
from resift_export.build.write import shortest_tested
from resift_export.convert import convert
from resift_export.recipe import Recipe
from tests.support.jobs import files


def attached(tmp_path, **contents):
    folder = tmp_path / "attached"
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def test_attached_files_travel(cheap, source, home, tmp_path, small_gate):
    about = "# Tiny {bert}\n\nTrained on our own texts: 100 % ours, in Zürich.\n"
    paths = attached(tmp_path, **{"NOTICE": b"\x00\xffbinary", "LICENSE": b"terms", "README.md": about.encode()})
    out = convert(source, home / "out", Recipe(gate=small_gate, precisions=("float32",), attached=paths))
    found = files(out)
    assert (found["NOTICE"], found["LICENSE"]) == (b"\x00\xffbinary", b"terms")
    card = found["README.md"].decode()
    assert card.startswith(about + "\n## This artifact")
    assert "| model.float32.onnx | any | 1.0000 | 1.0000 |" in card
    entries = Artifact.open(out).manifest.files
    for name in ("NOTICE", "LICENSE", "README.md"):
        assert (entries[name].size, entries[name].sha256) == (len(found[name]), hashlib.sha256(found[name]).hexdigest())


def test_card_without_attached_files(cheap, source, home, small_gate):
    out = convert(source, home / "out", Recipe(gate=small_gate, precisions=("float32",)), name="org/tiny")
    card = files(out)["README.md"].decode()
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


def test_a_file_is_tested_by_pairs_that_it_scores_and_freezes():
    full = Artifact.find(None).manifest.full
    [variant] = full.variants
    short, file = variant.short, variant.file
    assert short is not None
    assert shortest_tested([full]) == {file: short.up_to + 1}
    for whole_up_to, up_to, expected in ((32, 16, 33), (32, 64, 65)):
        variants = [msgspec.structs.replace(variant, short=msgspec.structs.replace(short, up_to=up_to))]
        frozen = msgspec.structs.replace(
            full, signature=full.signature.frozen(), frozen=frozen_layers(2, whole_up_to=whole_up_to), variants=variants
        )
        assert shortest_tested([frozen]) == {file: expected}


def test_an_attached_file_that_is_missing_is_named_before_a_checkpoint_is_loaded(tmp_path):
    with pytest.raises(ResiftError, match=r"cannot attach .*NOTICE: .*No such file"):
        convert(str(tmp_path / "no checkpoint"), tmp_path / "out", Recipe(attached=[tmp_path / "NOTICE"]))
