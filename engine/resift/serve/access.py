"""Access: gives every request an id and a line in the log, and counts it in the metrics."""

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

    from resift.serve.service import Service

ID_HEADER = "x-request-id"
ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""A client's id that matches is used for its request; any other is replaced."""
CLIENT_CLOSED = 499
"""The status in logs and metrics for a client that went away before its answer, as in nginx."""
METHOD_LIMIT, PATH_LIMIT = 20, 200
"""Characters of a method and of a path that are logged or quoted in an answer."""
CLIENT_LIMIT = 60
"""Characters of a client's address, which a proxy may have passed on, that are logged."""
PROBES = ("/health", "/ready", "/metrics")
"""Paths that machines request every few seconds: they are logged at level debug, unless they fail."""


@dataclass(slots=True)
class RequestRecord:
    """The record of one request while it is answered."""

    id: str
    api: str = "other"
    """name of the Api, for metrics"""
    status: int = CLIENT_CLOSED
    fields: dict[str, Any] = field(default_factory=dict)
    """further fields for its line in the log"""

    @classmethod
    def of(cls, scope: Scope) -> RequestRecord:
        """The record of the request that `scope` belongs to."""
        record: RequestRecord = scope["resift.record"]
        return record


def client_of(scope: Scope) -> str:
    """The address of the client, as the connection or a trusted proxy says; empty if unknown."""
    host, _ = scope.get("client") or ("", 0)
    return str(host)


class Access:
    """ASGI middleware that records every request."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the app until the client has taken its answer, then logs and counts the request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client_id = Headers(scope=scope).get(ID_HEADER, "")
        record = scope["resift.record"] = RequestRecord(client_id if ID.fullmatch(client_id) else uuid.uuid4().hex)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[ID_HEADER] = record.id
                if self._service.admission.is_stopping:
                    headers["connection"] = "close"  # a request that came later on this connection would be lost
            elif message.get("body") and not message.get("more_body"):
                await send({**message, "more_body": True})
                message = {"type": message["type"]}  # the end, which uvicorn sends once the client has taken the rest
            await send(message)

        began = time.perf_counter()
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - began
            self._service.metrics.count_request(record.api, record.fields.get("model", ""), record.status, seconds)
            is_probe = scope["path"] in PROBES and record.status < 400
            log(
                "request",
                level=logging.DEBUG if is_probe else logging.INFO,
                request_id=record.id,
                method=scope["method"][:METHOD_LIMIT],
                path=scope["path"][:PATH_LIMIT],
                status=record.status,
                seconds=round(seconds, 6),
                client=client_of(scope)[:CLIENT_LIMIT] or None,
                **record.fields,
            )
