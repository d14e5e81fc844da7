"""The ASGI app: the routes of all APIs, and those that tell about the server."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from resift.serve import openapi
from resift.serve.access import Access, Record
from resift.serve.apis import APIS
from resift.serve.endpoint import Endpoint, check_key
from resift.serve.request import Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.requests import Request

    from resift.serve.service import Service

POLICY = "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The content-security policy of the documentation, which has no scripts."""


def build(service: Service) -> Starlette:
    """The app over a service. Its start-up warms the models up in the background: /ready tells when that is done."""
    described = openapi.document(APIS, version("resift"), service.config)

    async def health(_: Request) -> Response:
        return _json({"status": "ok"})

    async def ready(_: Request) -> Response:
        return _json({"status": "ready"}) if service.ready else _json({"error": "unhealthy", "error_type": "Unhealthy"}, 503)

    async def info(_: Request) -> Response:
        return _json(_info(service))

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def document(_: Request) -> Response:
        return _json(described)

    async def docs(_: Request) -> Response:
        page, style = openapi.page(described)
        return HTMLResponse(page, headers={"content-security-policy": POLICY.format(style=style)})

    def keyed(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            try:
                check_key(request.headers, service.config.api_key)
            except Refusal as refusal:
                return _json({"error": str(refusal)}, 401, {"www-authenticate": "Bearer"})
            return await endpoint(request)

        return checked

    async def refused(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 500)
        text = {404: f"no route {request.url.path!r:.200}", 405: f"{request.method} is not allowed here"}.get(status, str(error))
        return _json({"error": text, "message": text, "id": Record.of(request.scope).id}, status, getattr(error, "headers", None))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        warming = asyncio.create_task(service.warm_up())
        yield
        warming.cancel()
        await asyncio.gather(warming, return_exceptions=True)

    return Starlette(
        routes=[
            *(Route(api.path, Endpoint(api, service), methods=["POST"]) for api in APIS),
            Route("/health", health),
            Route("/ready", ready),
            Route("/info", keyed(info)),
            Route("/metrics", keyed(metrics)),
            Route("/openapi.json", document),
            Route("/docs", docs),
        ],
        middleware=[Middleware(Access, metrics=service.metrics)],
        exception_handlers={404: refused, 405: refused},
        lifespan=lifespan,
    )


def _json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


def _info(service: Service) -> dict[str, Any]:
    """The fields of text-embeddings-inference for the first model, and all models' names."""
    config, name = service.config, service.models.first
    reranker = service.models.rerankers[name]
    return {
        "model_id": name,
        "model_sha": reranker.artifact.manifest.model.revision,
        "model_dtype": reranker.precision,
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_concurrent_requests": config.max_concurrent_requests,
        "max_input_length": reranker.resolved.max_length,
        "max_batch_tokens": reranker.resolved.token_budget,
        "max_batch_requests": None,
        "max_client_batch_size": config.max_client_batch_size,
        "auto_truncate": True,
        "tokenization_workers": reranker.resolved.threads,
        "version": version("resift"),
        "sha": None,
        "docker_label": None,
        "models": list(service.models.rerankers),
    }
