"""A stand-in for a model hub, which the hub's own client asks over HTTP."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


class Hub(BaseHTTPRequestHandler):
    """https://huggingface.co/docs/hub/api, as much of it as a download asks for; `faults` answer paths that hold their key."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.asked.append(self.path)
        if fault := next((fault for part, fault in self.server.faults.items() if part in self.path), None):
            fault(self)
            return
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


def hangs_up(asked):
    asked.connection.shutdown(socket.SHUT_RDWR)


def hangs_up_half_way(asked):
    """Closes the connection after the first of a hundred bytes."""
    asked.send_response(200)
    for name, value in {"Content-Length": "100", "ETag": '"half"', "X-Repo-Commit": COMMITS["main"]}.items():
        asked.send_header(name, value)
    asked.end_headers()
    if asked.command == "GET":
        asked.wfile.write(b"{")
        hangs_up(asked)


def says_it_is_no_hub(asked):
    asked.answer(200, b"<html>Log in to the network of your hotel</html>")


def is_gated(asked):
    asked.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})


@contextmanager
def serving(folder):
    """A hub whose one model, org/tiny, has the files of `folder`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.asked, server.faults = folder, [], {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def environment(server, home):
    """Environment variables of a process whose hub is `server`, and whose cache is `home`."""
    return {
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
    }
