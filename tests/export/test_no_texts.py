"""An export whose certificate holds no text of the gate, and how it is verified."""

from __future__ import annotations

import json

import pytest

from resift import InputError
from resift.artifact.agreement import Bounds
from resift.artifact.certificate import Certificate
from resift.artifact.folder import Artifact
from resift.cli.main import main
from resift_export.convert import convert
from resift_export.recipe import Recipe

LOOSE = Bounds(worst_tau=0.75)


@pytest.fixture
def private(cheap, source, home, small_gate):
    return convert(source, home / "out", Recipe(gate=small_gate, no_texts=True, bounds=LOOSE))


def verify(*arguments):
    return main(["verify", *map(str, arguments), "--accept-bounds"])


def test_no_file_holds_a_text_of_the_gate_which_verify_needs_given(private, small_gate, tmp_path, capsys):
    pools = [json.loads(line) for line in small_gate.read_text().splitlines()]
    texts = {text for pool in pools for text in (pool["query"], *pool["documents"])}
    for name in ("certificate.json", "manifest.json", "README.md"):
        content = (private / name).read_text()
        assert not [text for text in texts if text in content]
    certificate = Certificate.read(Artifact.open(private))
    assert [len(pool.checkpoint) for pool in certificate.pools][-1] == len(pools[-1]["documents"])
    assert certificate.scripts("model.int8.onnx")["latin"].is_covered
    assert verify(private) == 1
    assert "was exported with --no-texts; expected --gate FILE, the pools of its gate" in capsys.readouterr().err
    other = tmp_path / "other.jsonl"
    other.write_text(small_gate.read_text() + "\n")
    assert verify(private, "--gate", other) == 1
    assert "but the gate's file had" in capsys.readouterr().err
    assert verify(private, "--gate", small_gate, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["largest_change_since_export"] == pytest.approx(0, abs=1e-5)
    assert found["agreement"] == pytest.approx(found["at_export"])


def test_a_certificate_with_texts_needs_no_file(artifact, small_gate, capsys):
    assert verify(artifact, "--gate", small_gate) == 1
    assert "holds the texts of its gate; leave --gate out" in capsys.readouterr().err


def test_without_a_gate_of_ones_own_there_is_nothing_to_leave_out():
    with pytest.raises(InputError, match="--no-texts leaves out the texts of your own gate; expected --gate FILE with it"):
        Recipe(no_texts=True)
