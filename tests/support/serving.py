"""Runs the server as it is deployed, under uvicorn on a port of its own, in a thread of the test."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
from prometheus_client.parser import text_string_to_metric_families

from resift.serve.config import Config
from resift.serve.models import Models
from resift.serve.run import build_server
from resift.serve.service import Service
from tests.support import children

if TYPE_CHECKING:
    import logging

JSON = {"content-type": "application/json"}
TIMEOUT = children.SECONDS
TIMES = dict.fromkeys(("header_seconds", "body_seconds", "write_seconds", "request_seconds", "keep_alive_seconds"), 100)
"""Settings of a server whose times pass by `put_forward` only."""


class Served:
    """A running server: `client` asks it, `service` is what it runs, in `thread`."""

    def __init__(self, service, running, port, thread):
        self.service = service
        self.running = running
        self.port = port
        self.thread = thread
        self.url = f"http://127.0.0.1:{port}"
        # A connection a request: none is kept for the server to close while the next request is on its way.
        self.client = httpx.Client(base_url=self.url, timeout=TIMEOUT, limits=httpx.Limits(max_keepalive_connections=0))

    def post(self, path, body=None, *, content=None, **more):
        if content is not None:
            return self.client.post(path, content=content, headers=JSON, **more)
        return self.client.post(path, json=body, **more)

    def connect(self) -> socket.socket:
        """A connection to write bytes of one's own choice to."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT)

    def put_forward(self, seconds: float) -> None:
        """Lets so many seconds pass on the clock of the server's event loop, once it has read what was sent to it before."""
        assert self.client.get("/health").status_code == 200  # read after what had arrived earlier
        loop = self.running.servers[0].get_loop()
        time = loop.time
        loop.call_soon_threadsafe(setattr, loop, "time", lambda: time() + seconds)

    def logged(self, records: list[logging.LogRecord]) -> list[dict]:
        """The fields of this server's requests among `records`. Another one may still write those that it has answered."""
        return [record.fields for record in records if record.thread == self.thread.ident and record.getMessage() == "request"]

    def statuses(self) -> set[str]:
        """The statuses of all answers."""
        families = text_string_to_metric_families(self.service.metrics.text().decode())
        return {sample.labels["status"] for family in families for sample in family.samples if "status" in sample.labels}

    def metric(self, name: str, **labels) -> float:
        """The sum of a metric over the labels that are not given; 0 if it has not been counted."""
        families = text_string_to_metric_families(self.service.metrics.text().decode())
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        assert all(set(labels) <= set(sample.labels) for sample in samples), "labels that the metric does not have"
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


@contextmanager
def serving(rerankers, names=(), *, strict=False, **settings):
    """A server of `rerankers` by true name, with other `names` for them and settings of Config, which has long to answer."""
    config = Config(**{"port": 0, "request_seconds": TIMEOUT, **settings})
    service = Service(config, Models(rerankers, dict(names), strict=strict))
    # The socket listens before the server runs, so that a client's connection waits and no test has to.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = build_server(config, service)
        thread = threading.Thread(target=running.run, args=([listening],))
        thread.start()
        served = Served(service, running, listening.getsockname()[1], thread)
        try:
            yield served
        finally:
            served.client.close()
            running.handle_exit(15, None)
            running.handle_exit(15, None)
            thread.join(TIMEOUT)
            assert not thread.is_alive()


def rest(connection: socket.socket) -> bytes:
    """What the server still says on a connection, which it closes."""
    said = b""
    try:
        while part := connection.recv(1 << 16):
            said += part
    except ConnectionError:
        pass  # closed with our bytes unread
    return said


def until(condition) -> None:
    """Waits for what the server's thread brings about."""
    pause = threading.Event()
    for _ in range(6000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it never came about")
