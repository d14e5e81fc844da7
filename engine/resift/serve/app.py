"""The ASGI app: a route for each API, and routes that describe the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from resift.serve.about import About, as_json
from resift.serve.access import Access, RequestRecord
from resift.serve.api_table import APIS
from resift.serve.endpoint import Endpoint
from resift.serve.page.routes import routes as page_routes

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Lifespan

    from resift.serve.service import Service


def build(service: Service, lifespan: Lifespan[Starlette] | None = None) -> Starlette:
    """The app of a service. The caller, or `lifespan`, must run `service.warm_up`: /ready tells when that is done."""
    return Starlette(
        routes=[
            *(Route(api.path, Endpoint(api, service), methods=["POST"]) for api in APIS),
            *About(service).routes(),
            *page_routes(service.config),
        ],
        middleware=[Middleware(Access, metrics=service.metrics)],
        exception_handlers={404: _unknown, 405: _unknown},
        lifespan=lifespan,
    )


async def _unknown(request: Request, error: Exception) -> Response:
    """Answers a path or method that has no route, with the error fields of all APIs."""
    status = getattr(error, "status_code", 404)
    text = f"no route {request.url.path!r:.200}" if status == 404 else f"{request.method} is not allowed here"
    content = {"id": RequestRecord.of(request.scope).id, "error": text, "message": text, "detail": text}
    return as_json(content, status, getattr(error, "headers", None))
