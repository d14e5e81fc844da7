"""Endpoint: one Api over HTTP."""

from __future__ import annotations

import hmac
import logging
import time
from typing import TYPE_CHECKING

import msgspec
from starlette.datastructures import Headers
from starlette.responses import Response

from resift.serve.access import RequestRecord
from resift.serve.limits import Body, ClientDisconnected
from resift.serve.logs import log
from resift.serve.request import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope, Send

    from resift.serve.api import Api
    from resift.serve.request import RankingResult
    from resift.serve.service import Service


def check_key(headers: Headers, key: str) -> None:
    """Raises Refusal unless the request carries the key, compared in constant time. With an empty key, any request passes."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    matches = hmac.compare_digest(credentials.strip().encode(), key.encode())
    if key and not (matches and scheme.lower() == "bearer"):
        raise Refusal("key", "invalid API key; expected the header `Authorization: Bearer KEY`")


class Endpoint:
    """An ASGI app that answers one Api's requests."""

    def __init__(self, api: Api, service: Service) -> None:
        self._api = api
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, whatever is wrong with it, in the format of the API."""
        record, headers, body = RequestRecord.of(scope), Headers(scope=scope), Body(receive)
        record.api = self._api.name
        try:
            try:
                response = await self._answer(headers, body, record)
            except Refusal as refusal:
                response = await self._refuse(refusal, headers, body, record)
            except ClientDisconnected:
                raise
            except Exception as error:  # noqa: BLE001 - the client gets an answer, the log gets the error
                log("unexpected error", level=logging.ERROR, error=error, request_id=record.id)
                failed = Refusal("failed", "unexpected error; the server's log has it under this request's id")
                response = await self._refuse(failed, headers, body, record)
        except ClientDisconnected:
            self._service.metrics.count_disconnect()
        else:
            await response(scope, receive, send)

    async def _answer(self, headers: Headers, content: Body, record: RequestRecord) -> Response:
        config = self._service.config
        began = time.perf_counter()
        check_key(headers, config.api_key)
        with self._service.admission.request():
            body = self._api.decode(await self._read(headers, content))
            request = self._api.read(body)
            record.fields |= {"documents": len(request.documents), "characters": request.characters}
            if config.log_texts:
                record.fields["texts"] = {"query": request.query, "documents": request.documents}
            answer = await self._service.answer(request, record.id, content.wait_for_disconnect)
            record.fields |= {"model": answer.model, "tokens": answer.tokens, "documents_cut": answer.documents_cut}
            record.fields |= {name: round(seconds, 6) for name, seconds in _stages(answer).items()}
            return self._write(self._api.write(body, answer), {**_stages(answer), "total": time.perf_counter() - began})

    async def _read(self, headers: Headers, content: Body) -> bytes:
        config = self._service.config
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise Refusal("media type", f"Content-Type is {media_type or 'missing'!r:.100}; expected application/json")
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            raise Refusal("media type", f"Content-Encoding is {encoding!r:.100}; expected a body that is not compressed")
        length = headers.get("content-length", "")
        return await content.read(
            length=int(length) if length.isdecimal() else None,
            limit=config.max_body_bytes,
            seconds=config.body_seconds,
        )

    def _write(self, reply: object, seconds: Mapping[str, float]) -> Response:
        try:
            content = msgspec.json.encode(reply)
        except (RecursionError, OverflowError) as error:
            raise Refusal("invalid", f"a document cannot be returned: {error}; leave return_documents out") from error
        stages = ", ".join(f"{name};dur={1000 * spent:.3f}" for name, spent in seconds.items())
        return Response(content, media_type="application/json", headers={"server-timing": stages})

    async def _refuse(self, refusal: Refusal, headers: Headers, content: Body, record: RequestRecord) -> Response:
        if refusal.reason != "slow" and "expect" not in headers:
            await content.drain(self._service.config.body_seconds)
        self._service.metrics.count_refusal(refusal.reason)
        record.fields |= {"refused": refusal.reason, "message": str(refusal)[:500]}
        reply_headers = {} if content.is_complete else {"connection": "close"}
        if refusal.retry_after is not None:
            reply_headers["retry-after"] = str(refusal.retry_after)
        if refusal.reason == "key":
            reply_headers["www-authenticate"] = "Bearer"
        error = msgspec.json.encode(self._api.refuse(refusal, record.id))
        return Response(error, self._api.statuses[refusal.reason], reply_headers, media_type="application/json")


def _stages(answer: RankingResult) -> dict[str, float]:
    return {"tokenize": answer.tokenize_seconds, "queue": answer.queue_seconds, "run": answer.run_seconds}
