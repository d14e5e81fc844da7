"""Files and artifacts that tests of the command line spoil."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest


@pytest.fixture
def file(tmp_path):
    """file(content, name): the path of a file with that content."""

    def write(content, name="documents.txt"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


@pytest.fixture
def copy(artifact, tmp_path):
    """A copy of the tiny artifact, to be spoiled."""
    return shutil.copytree(artifact, tmp_path / "copy")


@pytest.fixture
def disagreeing(copy):
    """An artifact in good order whose checkpoint ranks the other way round."""
    certificate = json.loads((copy / "certificate.json").read_bytes())
    for pool in certificate["pools"]:
        pool["checkpoint"] = [-logit for logit in pool["checkpoint"]]
    content = json.dumps(certificate).encode()
    (copy / "certificate.json").write_bytes(content)
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest["files"]["certificate.json"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy
