"""A stand-in for a server of chat completions in OpenAI's format, which can be busy, broken, slow or gone."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWERS = threading.Lock()


class Chat(BaseHTTPRequestHandler):
    """https://platform.openai.com/docs/api-reference/chat/create; `faults` answer the first requests, one each."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with ANSWERS:
            self.server.asked.append((self.path, dict(self.headers), body))
            fault = self.server.faults.pop(0) if self.server.faults else None
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        try:
            time.sleep(self.server.seconds)
            (fault or answers(self.server.question(body["messages"][-1]["content"])))(self)
        finally:
            with ANSWERS:
                self.server.at_once -= 1

    def answer(self, status, content, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def completion(content):
    return json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]}).encode()


def answers(content):
    return lambda request: request.answer(200, completion(content))


def is_broken(request):
    request.answer(200, b'{"choices": [{"message"')


def is_huge(request):
    request.answer(200, completion("x" * (2 << 20)))


def is_empty(request):
    request.answer(200, completion(None))


def says(status, message="no", **headers):
    content = json.dumps({"error": {"message": message}}).encode()
    return lambda request: request.answer(status, content, {name.replace("_", "-"): value for name, value in headers.items()})


def resets(request):
    """Ends the connection with a reset, as a crash does."""
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.close_connection = True
    os.close(request.connection.detach())


def hangs_up_half_way(request):
    request.send_response(200)
    request.send_header("Content-Length", "100")
    request.end_headers()
    request.wfile.write(b"{")
    request.wfile.flush()
    request.close_connection = True
    request.connection.shutdown(socket.SHUT_RDWR)


def drips(request):
    """Sends a byte at a time, and never all of them."""
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    try:
        for _ in range(100):
            request.wfile.write(b" ")
            request.wfile.flush()
            time.sleep(0.05)
    except OSError:
        pass


def default_question(text):
    return json.dumps({"questions": [f"What is said of {' '.join(text.split()[:6])}?"]})


@contextmanager
def chatting(*faults, question=default_question, seconds=0.0):
    """A server; `asked` are the path, headers and body of each request, `url` is its base."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that ends the connection is no error here
    server.asked, server.faults, server.question, server.seconds = [], list(faults), question, seconds
    server.at_once = server.most_at_once = 0
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
