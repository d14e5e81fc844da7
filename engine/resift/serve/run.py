"""Run: serves the app with uvicorn, and shuts it down."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn

from resift.errors import InputError
from resift.serve import logs
from resift.serve.app import build
from resift.serve.connections import connections_for
from resift.serve.loop_errors import LoopErrors
from resift.serve.models import Models
from resift.serve.protocol import HEAD_BYTES, LimitedProtocol
from resift.serve.service import Service
from resift.serve.turns import Turns
from resift.serve.unix_socket import listening as listening_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from resift.serve.config import Config

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))
"""Signals that end the server. SIGHUP, which a closed terminal sends, exists on POSIX only, and SIGBREAK on Windows only."""
BACKLOG = 2048
"""Connections that wait to be accepted."""
ACCEPTED_AT_ONCE = 16
"""Connections accepted in one turn of the event loop, before any that are too many can be closed."""
LAST_SECONDS = 2
"""Time to write the last answers, once the time for shutting down is over."""


class GracefulServer(uvicorn.Server):
    """A server that refuses new requests after a signal, until the accepted ones have finished or their time is over.

    The second signal says that their time is over; the third one ends the server with answers unwritten.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._stop_by: float | None = None
        self._exit_by: float | None = None
        self._sockets: list[socket.socket] = []
        self._accepting: set[asyncio.Task[Any]] = set()
        self._warm_up_task: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen and to warm up the models; /ready tells when that is done."""
        self._sockets = sockets or []
        await super().startup(sockets)
        for listening in self._sockets:  # uvicorn has one number for the connections that wait and those accepted at once
            listening.listen(BACKLOG)
        asyncio.get_running_loop().set_exception_handler(LoopErrors())
        self._warm_up_task = asyncio.create_task(self._service.warm_up())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Begins to shut down; the second signal ends the time for it, the third one the server."""
        if self._stop_by is None:
            self._service.stop()
            self._stop_by = time.monotonic() + self._service.config.shutdown_seconds
        elif time.monotonic() < self._stop_by:
            self._stop_by = time.monotonic()
        else:
            self.force_exit = self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn every 0.1 s; True ends the server. Raises any error of the warm-up."""
        if self._warm_up_task is not None and self._warm_up_task.done():
            self._warm_up_task.result()
        if self._stop_by is not None and not self.should_exit:
            is_late = time.monotonic() >= self._stop_by
            if is_late:
                self._service.end()
            if self._exit_by is not None:
                self.should_exit = time.monotonic() >= self._exit_by or not self._is_expecting_a_request()
            elif is_late or not self._service.admission.requests:
                self._stop_listening()
        return await super().on_tick(counter)

    def _stop_listening(self) -> None:
        """Accepts no more connections, once those are accepted that the system has queued, as it would reset them."""
        loop = asyncio.get_running_loop()
        if sys.platform != "win32":
            for listening in self._sockets:
                for connection in _queued(listening):
                    task = loop.create_task(loop.connect_accepted_socket(self._protocol, connection))
                    self._accepting.add(task)
                    task.add_done_callback(self._accepting.discard)
        for listener in self.servers:
            listener.close()
        self._exit_by = time.monotonic() + LAST_SECONDS

    def _protocol(self) -> asyncio.Protocol:
        kind: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = kind(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        return protocol

    def _is_expecting_a_request(self) -> bool:
        """Whether a request of an open connection is still to be read and refused: the first one of each is on its way."""
        connections: set[Any] = self.server_state.connections
        return bool(self._accepting) or any(each.cycle is None or not each.cycle.response_complete for each in connections)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Like uvicorn's, but the process then ends by its exit code, not by the signal."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # Under nohup, which ignores SIGHUP, it stays ignored.
        before = {sig: signal.signal(sig, self.handle_exit) for sig in SIGNALS if signal.getsignal(sig) is not signal.SIG_IGN}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)


def _queued(listening: socket.socket) -> Iterator[socket.socket]:
    """The connections that the system has accepted for a socket that does not block, and that no one has taken."""
    try:
        while True:
            connection, _ = listening.accept()
            connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
            yield connection
    except OSError:  # there are no more, or no more file descriptors
        return


def build_server(config: Config, service: Service) -> GracefulServer:
    """The server of a service; it may run in any thread."""
    return GracefulServer(
        uvicorn.Config(
            build(service),
            host=config.host,
            port=config.port,
            loop="asyncio",  # uvloop's transports have no limit on what they read at once
            http=partial(LimitedProtocol, config, connections_for(config), Turns(), service.metrics),  # type: ignore[arg-type]
            backlog=ACCEPTED_AT_ONCE,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=bool(config.trusted_proxy),
            forwarded_allow_ips=config.trusted_proxy,
            server_header=False,
            timeout_keep_alive=config.keep_alive_seconds,
            timeout_graceful_shutdown=LAST_SECONDS,
            h11_max_incomplete_event_size=HEAD_BYTES,
        ),
        service,
    )


def listen(config: Config) -> socket.socket:
    """A socket that listens on the host and port. Raises InputError if it cannot listen there."""
    try:
        [(family, *_, address), *_] = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise InputError(f"cannot listen on {config.host} port {config.port}: {error.strerror or error}") from error


def run(config: Config) -> int:
    """Loads the models and serves until a signal; 0 if all accepted requests were answered, otherwise 1.

    Raises InputError if it cannot listen, and any error of loading and warming up the models.
    """
    logs.configure(config.log_level)
    models = Models.load(config)
    try:
        service = Service(config, models)
        running = build_server(config, service)
        with listening_at(config.uds, BACKLOG) if config.uds else listen(config) as listening:
            where = {"uds": config.uds} if config.uds else {"host": config.host, "port": listening.getsockname()[1]}
            logs.log("listening", **where, models=list(models.rerankers))
            running.run([listening])
        logs.log("stopped", unanswered=service.unanswered)
        return int(bool(service.unanswered))
    finally:
        models.close()
