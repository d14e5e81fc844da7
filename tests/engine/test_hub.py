"""Artifacts from a hub: a local stand-in that answers the hub's own client over HTTP."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

COMMITS = {"main": "a" * 40, "v1": "b" * 40}
RERANK = (
    "import sys; from resift import Reranker; r = Reranker.load(sys.argv[1]); print(r.artifact.folder.name, r.score('a', ['b'])[0])"
)


class Hub(BaseHTTPRequestHandler):
    """https://huggingface.co/docs/hub/api, as much of it as a download asks for."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.asked.append(self.path)
        words = self.path.split("?")[0].strip("/").split("/")
        if words[:2] == ["api", "models"] and words[2:4] == ["org", "tiny"]:
            revision = words[5] if len(words) > 5 else "main"
            commit = COMMITS.get(revision, revision if revision in COMMITS.values() else None)
            names = sorted(path.name for path in self.server.folder.iterdir())
            files = [self.entry(name) for name in names]
            if commit is None:
                self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            elif "tree" in words:
                self.answer(200, json.dumps(files).encode())
            else:
                info = {"id": "org/tiny", "sha": commit, "siblings": [{"rfilename": name} for name in names]}
                self.answer(200, json.dumps(info).encode())
        elif words[:3] == ["org", "tiny", "resolve"] and (self.server.folder / words[4]).is_file():
            content = (self.server.folder / words[4]).read_bytes()
            etag = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMITS.get(words[3], words[3])}
            self.answer(200, content, etag)
        else:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def entry(self, name):
        content = (self.server.folder / name).read_bytes()
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def answer(self, status, content, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def hub(artifact):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.asked = artifact, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def load(hub, tmp_path):
    """load(source): the outcome of loading it in a fresh interpreter, whose hub is the stand-in."""
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

    def run(source, **more):
        environment = {**os.environ, **home, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", **more}
        command = [sys.executable, "-c", RERANK, source]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

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


@pytest.mark.parametrize("source", ["org/nothing", "org/tiny@no-such-revision"])
def test_what_the_hub_does_not_have_is_named(load, source):
    failed = load(source)
    assert failed.returncode == 1
    assert f"ArtifactError: '{source}' is neither a folder nor an embedded model" in failed.stderr


def test_no_network_is_an_error_that_says_so(load):
    failed = load("org/tiny", HF_ENDPOINT="http://127.0.0.1:9")
    assert "ArtifactError: 'org/tiny' is neither" in failed.stderr


def test_a_file_that_was_swapped_on_the_hub_is_refused(load, hub, artifact, tmp_path):
    import shutil

    hub.folder = shutil.copytree(artifact, tmp_path / "swapped")
    content = bytearray((hub.folder / "model.int8.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (hub.folder / "model.int8.onnx").write_bytes(content)
    assert "has SHA-256" in load("org/tiny").stderr
