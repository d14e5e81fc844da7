"""About: the routes that describe the server: its health, models, metrics and documentation."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from resift.serve import error_reply, model_list, openapi
from resift.serve.access import RequestRecord
from resift.serve.api_table import PATHS
from resift.serve.request import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from resift.serve.service import Service

POLICY = "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The content-security policy of the documentation, which has no scripts."""


class About:
    """Answers GET and HEAD. The probes and the documentation need no API key; all else does, if there is one.

    The metrics need none with the setting `open_metrics`.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._document = openapi.document(PATHS, version("resift"), service.config)
        self._page, self._style = openapi.page(self._document)  # once, as anyone may ask for it
        self._began = int(time.time())

    def routes(self) -> list[Route]:
        """The routes; each is answered by one method."""
        paths = {
            "/health": self.health,
            "/ready": self.ready,
            "/info": self.info,
            "/v1/models": self.models,
            "/v1/models/{name:path}": self.model,
            "/metrics": self.metrics,
            "/openapi.json": self.document,
            "/docs": self.docs,
        }
        return [Route(path, endpoint) for path, endpoint in paths.items()]

    async def health(self, _: Request) -> Response:
        """Whether the process answers."""
        return as_json({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        """Whether the models are warm and requests are accepted."""
        if self._service.is_ready:
            return as_json({"status": "ready"})
        return as_json({"error": "unhealthy", "error_type": "Unhealthy"}, 503)

    async def info(self, request: Request) -> Response:
        """The first model in the fields of text-embeddings-inference, and the names of all models."""
        return self._keyed(request, self._info)

    async def models(self, request: Request) -> Response:
        """The models in OpenAI's format."""
        return self._keyed(request, lambda: model_list.listed(self._service.models, self._began))

    async def model(self, request: Request) -> Response:
        """One model in OpenAI's format."""
        name = request.path_params["name"]
        return self._keyed(request, lambda: model_list.found(self._service.models, name, self._began))

    async def metrics(self, request: Request) -> Response:
        """Metrics for Prometheus."""
        if self._service.config.open_metrics:
            return self._metrics()
        return self._keyed(request, self._metrics)

    async def document(self, _: Request) -> Response:
        """The OpenAPI document."""
        return as_json(self._document)

    async def docs(self, _: Request) -> Response:
        """The OpenAPI document as a page."""
        return HTMLResponse(self._page, headers={"content-security-policy": POLICY.format(style=self._style)})

    def _keyed(self, request: Request, answer: Callable[[], object]) -> Response:
        """The answer as JSON, unless it is a Response, to a request that carries the key."""
        try:
            self._service.keys.find(request.headers)
            content = answer()
        except Refusal as refusal:
            error = error_reply.refuse(refusal, RequestRecord.of(request.scope).id)
            return as_json(error, error.error.code, {"www-authenticate": "Bearer"} if refusal.reason == "key" else None)
        return content if isinstance(content, Response) else as_json(content)

    def _metrics(self) -> Response:
        return Response(self._service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _info(self) -> dict[str, Any]:
        config, name = self._service.config, self._service.models.first
        reranker = self._service.models.rerankers[name]
        return {
            "model_id": reranker.artifact.manifest.model.id,
            "served_model_name": name,
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
            "models": list(self._service.models.rerankers),
        }


def as_json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A response of JSON."""
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")
