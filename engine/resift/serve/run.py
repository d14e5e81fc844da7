"""Run: uvicorn around the app, and how it ends."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from resift.serve import logs
from resift.serve.app import build
from resift.serve.models import Models
from resift.serve.protocol import limited
from resift.serve.service import Service

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from types import FrameType

    from resift.serve.config import Config

SIGNALS = (signal.SIGINT, signal.SIGTERM)
HEAD_BYTES = 1 << 16
"""Largest head of a request."""
LAST_SECONDS = 2
"""For the last answers to be written, once the time for shutting down is over."""


class Server(uvicorn.Server):
    """Goes on listening, and refusing, until the accepted requests have finished; a second signal ends it at once."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._stop_by: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Begins to shut down; at the second signal, ends."""
        if self._stop_by is not None:
            self.force_exit = True
            self.should_exit = True
            return
        self._service.stop()
        self._stop_by = time.monotonic() + self._service.config.shutdown_seconds

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn every 0.1 s; True ends the server."""
        if self._stop_by is not None and not self.should_exit:
            late = time.monotonic() >= self._stop_by
            if late:
                self._service.end()
            self.should_exit = late or not self._service.admission.requests
        return await super().on_tick(counter)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Like uvicorn's, but the process then ends by its exit code, not by the signal."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self.handle_exit) for sig in SIGNALS}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)


def server(config: Config, service: Service) -> Server:
    """The server of a service, which may run in any thread."""
    return Server(
        uvicorn.Config(
            build(service),
            host=config.host,
            port=config.port,
            http=limited(config.header_seconds),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=config.keep_alive_seconds,
            timeout_graceful_shutdown=LAST_SECONDS,
            h11_max_incomplete_event_size=HEAD_BYTES,
        ),
        service,
    )


def run(config: Config, sockets: list[socket.socket] | None = None) -> int:
    """Loads the models and serves until a signal; 0 if all accepted requests were answered, otherwise 1."""
    logs.configure(config.log_level)
    models = Models.load(config)
    try:
        service = Service(config, models)
        running = server(config, service)
        logs.log("serving", host=config.host, port=config.port, models=list(models.rerankers))
        running.run(sockets)
        logs.log("stopped", unanswered=service.admission.requests)
        return int(running.force_exit or not running.started)
    finally:
        models.close()
