"""Artifacts from a hub: a local stand-in that answers the hub's own client over HTTP."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from resift.artifact import hub as hubs
from resift.artifact.folder import Artifact
from resift.errors import ArtifactError
from tests.support.hub_server import COMMITS, environment, hangs_up, hangs_up_half_way, is_gated, says_it_is_no_hub, serving

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
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)

    return run


def test_an_artifact_is_downloaded_and_reranks(load, hub):
    found = load("org/tiny")
    assert found.stdout.startswith(COMMITS["main"]), found.stderr
    asked = [path.rpartition("/")[2] for path in hub.asked if "resolve" in path]
    assert set(asked[: asked.count("manifest.json")]) == {"manifest.json"}  # before anything else


def test_what_the_manifest_does_not_list_is_not_downloaded(load, hub, artifact, tmp_path):
    hub.folder = shutil.copytree(artifact, tmp_path / "more")
    (hub.folder / "pytorch_model.bin").write_bytes(b"0" * 1000)
    assert load("org/tiny").stdout.startswith(COMMITS["main"])
    assert not [path for path in hub.asked if "pytorch_model" in path and "resolve" in path]


@pytest.mark.parametrize(("source", "options"), [("org/tiny", ""), ("org/tiny@v1", " --revision v1")])
def test_a_checkpoint_says_how_to_export_it_and_its_weights_are_not_asked_for(load, hub, tmp_path, source, options):
    hub.folder = tmp_path / "checkpoint"
    hub.folder.mkdir()
    (hub.folder / "config.json").write_text("{}")
    (hub.folder / "model.safetensors").write_bytes(b"0" * 1000)
    failed = load(source)
    last = failed.stderr.splitlines()[-1]
    assert "ArtifactError: org/tiny on the hub is a checkpoint, not an artifact (it has config.json, but no manifest.json)" in last
    assert last.endswith(f"with `resift export org/tiny OUT{options}`, and load OUT")
    assert not [path for path in hub.asked if "safetensors" in path]
    offline = load(source, HF_HUB_OFFLINE="1")
    assert offline.stderr.splitlines()[-1] == last


def test_a_repository_with_neither_is_named(load, hub, tmp_path):
    hub.folder = tmp_path / "other"
    hub.folder.mkdir()
    (hub.folder / "model.gguf").write_bytes(b"0" * 1000)
    failed = load("org/tiny")
    assert "ArtifactError: org/tiny on the hub has neither manifest.json nor config.json; expected an artifact" in failed.stderr
    assert not [path for path in hub.asked if "gguf" in path]


KNOWN = ["cross-encoder/ms-marco-MiniLM-L12-v2", "cross-encoder/ms-marco-MiniLM-L-12-v2"]


@pytest.mark.parametrize(
    "name", [*KNOWN, *(name.lower() for name in KNOWN), *(name.partition("/")[2] for name in KNOWN), f"{KNOWN[0]}@main"]
)
def test_the_checkpoint_of_the_embedded_model_is_it_without_a_download(monkeypatch, name):
    monkeypatch.setattr(hubs, "snapshot", None)
    assert Artifact.find(name).folder.name == "ms-marco-minilm-l12"


@pytest.mark.parametrize(
    "name", [f"{KNOWN[0]}@v1", "cross-encoder/ms-marco-MiniLM-L6-v2", "ms-marco-MiniLM-L12-v2/ms-marco-MiniLM-L12-v2"]
)
def test_another_checkpoint_or_revision_of_it_is_not(monkeypatch, name):
    def snapshot(repository, revision, **_):
        raise ArtifactError(f"asked for {repository}@{revision}" if revision else f"asked for {repository}")

    monkeypatch.setattr(hubs, "snapshot", snapshot)
    with pytest.raises(ArtifactError, match=f"asked for {name}"):
        Artifact.find(name)


def test_a_folder_of_that_name_comes_first(monkeypatch, tmp_path):
    (tmp_path / KNOWN[0]).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=r"no manifest\.json in cross-encoder"):
        Artifact.find(KNOWN[0])


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
    [("/api/", hangs_up), ("/api/", says_it_is_no_hub), ("/api/", is_gated), ("manifest.json", hangs_up_half_way)],
    ids=["no answer", "another answer", "no access", "half a file"],
)
def test_a_hub_that_breaks_off_or_refuses_or_is_none_is_named(load, hub, part, fault):
    hub.faults[part] = fault
    failed = load("org/tiny")
    assert "ArtifactError: 'org/tiny' is not a folder and cannot be downloaded" in failed.stderr.splitlines()[-1]
    hub.faults.clear()
    assert load("org/tiny").stdout.startswith(COMMITS["main"])


def test_a_file_that_was_swapped_on_the_hub_is_refused(load, hub, artifact, tmp_path):
    hub.folder = shutil.copytree(artifact, tmp_path / "swapped")
    content = bytearray((hub.folder / "model.int8.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (hub.folder / "model.int8.onnx").write_bytes(content)
    assert "has SHA-256" in load("org/tiny").stderr
