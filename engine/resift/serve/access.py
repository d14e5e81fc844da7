"""Access: every request gets an id, a line in the log and its place in the metrics."""

from __future__ import annotations

import logging
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders

from resift.serve.logs import log

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from resift.serve.metrics import Metrics

ID_HEADER = "x-request-id"
ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""Ids of clients that are passed on; others are replaced."""
GONE = 499
"""The status that logs and metrics show for a client that went away before its answer; nginx uses it."""
PROBES = ("/health", "/ready", "/metrics")
"""Asked every few seconds by machines: logged at level debug, unless they fail."""


@dataclass(slots=True)
class Record:
    """What is noted about one request while it is answered."""

    id: str
    api: str = "other"
    """name of the Api, for metrics"""
    status: int = GONE
    fields: dict[str, Any] = field(default_factory=dict)
    """for its line in the log"""

    @classmethod
    def of(cls, scope: Scope) -> Record:
        """The record of the request that `scope` belongs to."""
        record: Record = scope["resift.record"]
        return record


class Access:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the app, and notes what became of the request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(ID_HEADER, "")
        record = scope["resift.record"] = Record(given if ID.fullmatch(given) else uuid.uuid4().hex)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                MutableHeaders(scope=message)[ID_HEADER] = record.id
            await send(message)

        began = time.perf_counter()
        try:
            await self._app(scope, receive, sending)
        finally:
            seconds = time.perf_counter() - began
            self._metrics.request(record.api, record.status, seconds)
            path = scope["path"][:200]
            is_probe = scope["path"] in PROBES and record.status < 400
            log(
                "request",
                level=logging.DEBUG if is_probe else logging.INFO,
                request_id=record.id,
                method=scope["method"],
                path=path,
                status=record.status,
                seconds=round(seconds, 6),
                client=(scope.get("client") or [None])[0],
                **record.fields,
            )
