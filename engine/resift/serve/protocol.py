"""Protocol: uvicorn's HTTP/1.1 on h11, with limits, for which it has no options, on connections, their time and their messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from resift.serve.connections import peer_of
from resift.serve.turns import MUCH

if TYPE_CHECKING:
    import asyncio

    from resift.serve.config import Config
    from resift.serve.connections import Connections
    from resift.serve.metrics import Metrics
    from resift.serve.turns import Turns

HEAD_BYTES = 1 << 16
"""Largest head of a request."""
READ_BYTES = 1 << 16
"""Bytes read of one connection in a turn of the event loop, in place of asyncio's 256 KiB: the turn is over sooner for the rest."""
HEADERS_LIMIT = 128
SMALL_CHUNKS = 32
"""Chunks of a body that may be of any size; on average, further ones have CHUNK_BYTES. Each takes h11 some 16 microseconds."""
CHUNK_BYTES = 128
INVALID = b"Invalid HTTP request received."
FULL = b"Too many connections."
ENDING = b"\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n\r\n%b"
BAD_REQUEST = b"HTTP/1.1 400 Bad Request" + ENDING
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1" + ENDING % (len(FULL), FULL)


class StrictConnection(h11.Connection):
    """h11's reader, which also refuses what a proxy may read otherwise, and what costs far more to read than it says."""

    fault = INVALID
    """why the last event was refused, for the client"""
    _chunks = _bytes = 0

    def next_event(self) -> Any:
        """The next event. Raises h11.RemoteProtocolError."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
            self._check_head(event)
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._bytes += len(event.data)
            if self._chunks > SMALL_CHUNKS + self._bytes // CHUNK_BYTES:
                found = f"the body's first {self._chunks} chunks have {self._bytes} bytes"
                self._refuse(f"{found}; expected chunks of {CHUNK_BYTES} bytes or more, or Content-Length")
        return event

    def _check_head(self, request: h11.Request) -> None:
        """Refuses ambiguous framing (RFC 9112, section 6.1) and too many headers."""
        names = [name for name, _ in request.headers]
        if b"transfer-encoding" in names and (b"content-length" in names or request.http_version < b"1.1"):
            self._refuse("Transfer-Encoding with Content-Length or in HTTP/1.0; expected one of them, in HTTP/1.1")
        if len(names) > HEADERS_LIMIT:
            self._refuse(f"{len(names)} headers; expected at most {HEADERS_LIMIT}")

    def _refuse(self, reason: str) -> NoReturn:
        self.fault = reason.encode()
        raise h11.RemoteProtocolError(reason)


class LimitedProtocol(H11Protocol):
    """One connection. At any time a limit holds on what it waits for: a head, the rest of a body, or that an answer is taken.

    The time of a body that is read for an answer is limited there, so that the client gets one (`limits.Body`).
    """

    def __init__(self, limits: Config, registry: Connections, turns: Turns, metrics: Metrics, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self.conn: StrictConnection = StrictConnection(h11.SERVER, HEAD_BYTES)
        self._limits = limits
        self._registry = registry
        self._turns = turns
        self._metrics = metrics
        self.peer = ""
        self._expected: object = None
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins, or refuses the connection if there are too many."""
        super().connection_made(transport)
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        transport.set_write_buffer_limits(0)  # writing pauses until everything has been sent
        self.peer = peer_of(self.client[0] if self.client else None)
        if self._registry.admit(self):
            self._limit_reading()
        else:
            self._metrics.count_closed("too many")
            transport.write(UNAVAILABLE)
            transport.close()

    def data_received(self, data: bytes) -> None:
        """Reads what the client has sent."""
        super().data_received(data)
        self._limit_reading()
        if len(data) >= MUCH and self.conn.their_state is h11.SEND_BODY:
            self._turns.wait(self, self.loop)

    def on_response_complete(self) -> None:
        """Called once an answer has been written; the client may send its next request, or one that it has sent is read."""
        super().on_response_complete()
        self._registry.answered(self)
        self._limit_reading()

    def pause_writing(self) -> None:
        """Called when the client has not yet taken all that was written."""
        super().pause_writing()
        self._writing = self.loop.call_later(self._limits.write_seconds, self._give_up, "not taken")

    def resume_writing(self) -> None:
        """Called when the client has taken it."""
        super().resume_writing()
        _cancel(self._writing)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends."""
        super().connection_lost(exc)
        self._registry.forget(self)
        _cancel(self._reading)
        _cancel(self._writing)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Refuses what is no HTTP, unless an answer has begun, and ends what was being answered."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(BAD_REQUEST % (len(self.conn.fault), self.conn.fault))
        self.transport.close()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    @property
    def waits_for_client(self) -> bool:
        """Whether the next step is the client's: to send a request, or the rest of one, or to take an answer."""
        is_answering = self.cycle is not None and not self.cycle.response_complete and self.conn.their_state is not h11.SEND_BODY
        return self.flow.write_paused or not is_answering

    def make_room(self) -> None:
        """Closes it, without waiting for the client."""
        self._give_up("made room")

    def _limit_reading(self) -> None:
        """Starts the time of what is expected of the client, when that changes."""
        expected, seconds = self._expectation()
        if expected != self._expected:
            self._expected = expected
            _cancel(self._reading)
            self._reading = None if expected is None else self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _expectation(self) -> tuple[object, float]:
        """What is expected of the client next, None if nothing is, and the seconds that it has for it."""
        is_answered = self.cycle is None or self.cycle.response_complete
        state = self.conn.their_state
        if state is h11.SEND_BODY and is_answered:
            return ("rest", self.cycle), self._limits.body_seconds
        if state is not h11.IDLE or not is_answered:
            return None, 0
        if self.cycle is None or self.conn.trailing_data[0]:
            return ("head", self.cycle), self._limits.header_seconds
        return ("request", self.cycle), self._limits.keep_alive_seconds

    def _give_up(self, reason: str) -> None:
        self._metrics.count_closed(reason)
        self.transport.abort()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
