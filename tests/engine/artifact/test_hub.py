"""Artifacts from a hub: a local stand-in that answers the hub's own client over HTTP."""

from __future__ import annotations

import os
import sys

import pytest

from tests.support import children
from tests.support.hub_server import COMMITS, environment, hangs_up, hangs_up_half_way, says_it_is_no_hub, serving

RERANK = (
    "import sys; from resift import Reranker; r = Reranker.load(sys.argv[1]); print(r.artifact.folder.name, r.score('a', ['b'])[0])"
)


@pytest.fixture
def hub(artifact):
    with serving(artifact) as server:
        yield server


@pytest.fixture
def load(hub, tmp_path):
    """load(source): the outcome of loading it in a fresh interpreter, whose hub is the stand-in."""

    def run(source, **more):
        variables = {**os.environ, **environment(hub, tmp_path / "home"), **more}
        command = [sys.executable, "-c", RERANK, source]
        return children.run(command, env=variables, capture_output=True, text=True)

    return run


def test_an_artifact_is_downloaded_and_reranks(load):
    found = load("org/tiny")
    assert found.stdout.startswith(COMMITS["main"]), found.stderr


def test_a_revision_is_pinned(load):
    assert load("org/tiny@v1").stdout.startswith(COMMITS["v1"])
    assert load(f"org/tiny@{COMMITS['v1']}").stdout.startswith(COMMITS["v1"])


def test_a_commit_that_is_cached_is_not_asked_for_again(load, hub):
    first = load(f"org/tiny@{COMMITS['v1']}")
    asked = len(hub.asked)
    assert load(f"org/tiny@{COMMITS['v1']}").stdout == first.stdout != ""
    assert [path for path in hub.asked[asked:] if "resolve" in path] == []


def test_offline_takes_what_is_cached_and_says_so_when_nothing_is(load, hub):
    nothing = load("org/tiny", HF_HUB_OFFLINE="1")
    assert "ArtifactError" in nothing.stderr
    assert "cannot be downloaded from the hub" in nothing.stderr
    assert hub.asked == []
    first = load("org/tiny")
    asked = len(hub.asked)
    assert load("org/tiny", HF_HUB_OFFLINE="1").stdout == first.stdout != ""
    assert len(hub.asked) == asked


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("org/nothing", "'org/nothing' is not a folder and cannot be downloaded from the hub (RepositoryNotFoundError"),
        ("org/tiny@no-such", "org/tiny has no revision 'no-such' on the hub; expected a commit, tag or branch of it"),
    ],
)
def test_what_the_hub_does_not_have_is_named(load, source, message):
    failed = load(source)
    assert failed.returncode == 1
    assert f"ArtifactError: {message}" in failed.stderr


def test_no_network_is_an_error_that_says_so(load):
    failed = load("org/tiny", HF_ENDPOINT="http://127.0.0.1:9")
    assert "ArtifactError: 'org/tiny' is not a folder" in failed.stderr


@pytest.mark.parametrize(
    ("part", "fault"),
    [("/api/", hangs_up), ("/api/", says_it_is_no_hub), ("manifest.json", hangs_up_half_way)],
    ids=["no answer", "another answer", "half a file"],
)
def test_a_hub_that_breaks_off_or_is_none_is_named(load, hub, part, fault):
    hub.faults[part] = fault
    failed = load("org/tiny")
    assert "ArtifactError: 'org/tiny' is not a folder and cannot be downloaded" in failed.stderr
    hub.faults.clear()
    assert load("org/tiny").stdout.startswith(COMMITS["main"])


def test_a_file_that_was_swapped_on_the_hub_is_refused(load, hub, artifact, tmp_path):
    import shutil

    hub.folder = shutil.copytree(artifact, tmp_path / "swapped")
    content = bytearray((hub.folder / "model.int8.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (hub.folder / "model.int8.onnx").write_bytes(content)
    assert "has SHA-256" in load("org/tiny").stderr
