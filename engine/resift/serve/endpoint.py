"""Endpoint: the Apis of one path over HTTP."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import msgspec
from starlette.datastructures import Headers
from starlette.responses import Response

from resift.errors import one_line
from resift.serve.access import RequestRecord, client_of
from resift.serve.connections import peer_of
from resift.serve.limits import Body, ClientDisconnected
from resift.serve.logs import log
from resift.serve.request import Refusal
from resift.serve.service import IN_LOG
from resift.states.document_states import StatesCounts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope, Send

    from resift.serve.admission import Holding
    from resift.serve.api import Api
    from resift.serve.forms import Forms
    from resift.serve.keys import Account
    from resift.serve.request import RankingResult
    from resift.serve.service import Service

FAULTS = ("failed", "artifact")
"""Reasons whose cause is in the log alone."""


class Endpoint:
    """An ASGI app that answers the requests to one path, each in the format of its body."""

    def __init__(self, forms: Forms, service: Service) -> None:
        self._forms = forms
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, whatever is wrong with it, in the format of its body, or of the path until the body is read.

        Returns once the client has taken the answer.
        """
        with self._service.admission.held.of(peer_of(client_of(scope))) as holding:
            try:
                response = await self._respond(RequestRecord.of(scope), Headers(scope=scope), Body(receive), holding)
            except ClientDisconnected:
                self._service.metrics.count_disconnect()
            else:
                holding.add(len(response.body))
                await response(scope, receive, send)

    async def _respond(self, record: RequestRecord, headers: Headers, body: Body, holding: Holding) -> Response:
        """The response to a request. Raises ClientDisconnected."""
        began, api = time.perf_counter(), self._forms.default
        record.api = api.name
        try:
            account = self._service.keys.find(headers)
            if account.holder:
                record.fields["key"] = account.holder
            with account.request():
                async with self._service.accept():
                    content = await self._read(headers, body, holding)
                    with self._service.admission.body():
                        api, content = self._forms.choose(content)
                        record.api = api.name
                        return await self._answer(api, content, body, record, began, account)
        except Refusal as refusal:
            return await self._refuse(api, refusal, headers, body, record)
        except ClientDisconnected:
            raise
        except Exception as error:  # noqa: BLE001 - the client gets an answer, the log gets the error
            log("unexpected error", level=logging.ERROR, error=error, request_id=record.id)
            failed = Refusal("failed", f"unexpected error; {IN_LOG}")
            return await self._refuse(api, failed, headers, body, record)

    async def _answer(  # noqa: PLR0913 - one request
        self, api: Api, content: bytes, body: Body, record: RequestRecord, began: float, account: Account
    ) -> Response:
        decoded = api.decode(content)
        self._service.admission.check_documents(api.count(decoded))
        requests = api.read(decoded, self._service.template)
        documents = sum(len(request.documents) for request in requests)
        record.fields |= {"documents": documents, "characters": sum(request.characters for request in requests)}
        record.fields["model"], _ = self._service.models.choose(requests[0].model)
        account.spend(documents)
        if self._service.config.log_texts:
            texts = [{"query": request.query, "documents": request.documents} for request in requests]
            record.fields["texts"] = texts[0] if len(texts) == 1 else texts
        answers = await self._service.answer(requests, record.id, body.wait_for_disconnect, holder=account.holder)
        record.fields |= {
            "tokens": sum(answer.tokens for answer in answers),
            "documents_cut": sum(answer.documents_cut for answer in answers),
        }
        if counts := [answer.ranking.states for answer in answers if answer.ranking.states is not None]:
            record.fields["states"] = StatesCounts(*map(sum, zip(*counts, strict=True)))._asdict()
        stages = _stages(answers[0])
        record.fields |= {name: round(seconds, 6) for name, seconds in stages.items()}
        return _write(api.write(decoded, answers), {**stages, "total": time.perf_counter() - began})

    async def _read(self, headers: Headers, content: Body, holding: Holding) -> bytes:
        config = self._service.config
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise Refusal("media type", f"Content-Type is {media_type or 'missing'!r:.100}; expected application/json")
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            raise Refusal("media type", f"Content-Encoding is {encoding!r:.100}; expected a body that is not compressed")
        length = headers.get("content-length", "")
        return await content.read(
            length=int(length[:20]) if length.isdecimal() else None,
            limit=config.max_body_bytes,
            seconds=config.body_seconds,
            receive=holding.receive,
        )

    async def _refuse(self, api: Api, refusal: Refusal, headers: Headers, body: Body, record: RequestRecord) -> Response:
        if refusal.reason != "slow" and "expect" not in headers and not self._service.has_ended:
            await body.drain(self._service.config.body_seconds)
        self._service.metrics.count_refusal(refusal.reason)
        record.fields |= {"refused": refusal.reason, "message": str(refusal)[:500]}
        if refusal.reason in FAULTS and refusal.__cause__ is not None:
            record.fields["cause"] = one_line(str(refusal.__cause__))
        reply_headers = {} if body.is_complete else {"connection": "close"}
        if refusal.retry_after is not None:
            reply_headers["retry-after"] = str(refusal.retry_after)
        if refusal.reason == "key":
            reply_headers["www-authenticate"] = "Bearer"
        error = msgspec.json.encode(api.refuse(refusal, record.id))
        return Response(error, api.statuses[refusal.reason], reply_headers, media_type="application/json")


def _write(reply: object, seconds: Mapping[str, float]) -> Response:
    stages = ", ".join(f"{name};dur={1000 * spent:.3f}" for name, spent in seconds.items())
    return Response(msgspec.json.encode(reply), media_type="application/json", headers={"server-timing": stages})


def _stages(answer: RankingResult) -> dict[str, float]:
    return {"tokenize": answer.tokenize_seconds, "queue": answer.queue_seconds, "run": answer.run_seconds}
