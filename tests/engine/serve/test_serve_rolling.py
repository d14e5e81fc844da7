"""A rolling restart: two servers behind a proxy are replaced, one after the other, while clients ask."""

from __future__ import annotations

import json
import os
import signal
import threading
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support import children, tiny
from tests.support.commands import QUERY, Log, running

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
DOCUMENTS = tiny.texts()[1:9:2]
BODY = json.dumps({"query": QUERY, "texts": DOCUMENTS}).encode()
HEADERS = {"content-type": "application/json"}


class Server:
    """A process of `resift serve`, with the lines of its log."""

    def __init__(self, stack, artifact):
        self.process = stack.enter_context(running("serve", "--model", artifact, "--port", "0", "--max-waiting-seconds", "600"))
        self.log = Log(self.process)
        self.port = self.log.wait("listening")["port"]

    def is_ready(self):
        return ask(self.port, "GET", "/ready")[0] == 200

    def stop(self):
        """Its exit code and the number of requests that it gave up."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(children.SECONDS), self.log.wait("stopped")["unanswered"]


def ask(port, method, path, body=None):
    connection = HTTPConnection("127.0.0.1", port, timeout=children.SECONDS)
    try:
        connection.request(method, path, body, HEADERS)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


class Proxy(BaseHTTPRequestHandler):
    """Sends a request to the next server, and to the one after it if that one cannot be reached or refuses it with 503.

    As `proxy_next_upstream error http_503 non_idempotent` of nginx: what was sent is sent again only where no server accepted it.
    """

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        status, content = 502, b""
        for port in self.server.order():
            try:
                status, content = ask(port, "POST", self.path, body)
            except (OSError, HTTPException) as error:
                self.server.faults.append(type(error).__name__)
                continue
            if status != 503:
                break
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


class Upstreams(ThreadingHTTPServer):
    """The proxy's server; `ports` are those of the servers behind it."""

    daemon_threads = True

    def __init__(self, ports):
        super().__init__(("127.0.0.1", 0), Proxy)
        self.ports, self.faults, self._turn = ports, [], 0

    def order(self):
        self._turn += 1
        ports = list(self.ports)
        return ports[self._turn % len(ports) :] + ports[: self._turn % len(ports)]


def test_a_rolling_restart_under_load_loses_no_request(artifact, reranker):
    expected = [result.index for result in reranker.rerank(QUERY, DOCUMENTS)]
    told, answers, done = [], threading.Condition(), threading.Event()

    def load():
        while not done.is_set():
            try:
                status, content = ask(proxy.server_port, "POST", "/rerank", BODY)
                right = status == 200 and [row["index"] for row in json.loads(content)] == expected
                said = "right" if right else f"{status}: {content[:200]}"
            except (OSError, HTTPException) as error:
                said = repr(error)
            with answers:
                told.append(said)
                answers.notify_all()

    def more(count):
        """Waits for so many further answers."""
        with answers:
            begun = len(told)
            assert answers.wait_for(lambda: len(told) >= begun + count, children.SECONDS)

    with ExitStack() as stack:
        servers = [Server(stack, artifact), Server(stack, artifact)]
        proxy = Upstreams([server.port for server in servers])
        threads = [threading.Thread(target=each) for each in (proxy.serve_forever, *[load] * 2)]
        for thread in threads:
            thread.start()
        try:
            ends = []
            for place in range(2):
                more(10)
                new = Server(stack, artifact)
                while not new.is_ready():
                    pass
                ends.append(servers[place].stop())
                more(10)  # some of which the proxy sends to the old one first
                proxy.ports[place] = new.port
            more(10)
        finally:
            done.set()
            for thread in threads[1:]:
                thread.join(children.SECONDS)
            proxy.shutdown()
            proxy.server_close()
    assert ends == [(0, 0), (0, 0)]
    assert set(told) == {"right"}
    # The system may reset a connection that it made between the last accept and the end of listening: no server has seen it.
    assert "ConnectionRefusedError" in proxy.faults
    assert set(proxy.faults) <= {"ConnectionRefusedError", "ConnectionResetError"}
