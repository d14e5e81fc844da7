"""The ASGI app: an Endpoint for each path of the table of APIs, and routes that describe the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Route

from resift.errors import InputError
from resift.serve.about import About, as_json
from resift.serve.access import ID_HEADER, METHOD_LIMIT, PATH_LIMIT, Access, RequestRecord
from resift.serve.api_table import PATHS
from resift.serve.endpoint import Endpoint
from resift.serve.page.routes import routes as page_routes

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

    from resift.serve.config import Config
    from resift.serve.service import Service


def build(service: Service, lifespan: Lifespan[Starlette] | None = None) -> Starlette:
    """The app of a service. The caller, or `lifespan`, must run `service.warm_up`: /ready tells when that is done.

    Raises InputError for a root path that hides a path of the app.
    """
    routes = [
        *(Route(path, Endpoint(forms, service), methods=["POST"]) for path, forms in PATHS.items()),
        *About(service).routes(),
        *page_routes(service.config),
    ]
    root = service.config.root_path
    if hidden := next((route.path for route in routes if root and f"{route.path}/".startswith(f"{root}/")), None):
        raise InputError(f"--root-path {root} is the beginning of {hidden}, a path of the server; use another one")
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(Access, service=service),
            *_cors(service.config),
            Middleware(PlainPath, root=root),
        ],
        exception_handlers={404: _unknown, 405: _unknown},
        lifespan=lifespan,
    )


class PlainPath:
    """ASGI middleware: /v1/rerank/ is /v1/rerank. Clients do not follow a redirect of a POST, or follow it without its body.

    With a root path, /root/v1/rerank is the same: some proxies take the root path away, and some do not.
    """

    def __init__(self, app: ASGIApp, root: str) -> None:
        self._app = app
        self._root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the app with a path that has no root path and does not end with a slash."""
        if scope["type"] == "http":
            path = scope["path"]
            if path == self._root or path.startswith(f"{self._root}/"):
                path = path[len(self._root) :]
            scope["path"] = path.rstrip("/") or "/"
        await self._app(scope, receive, send)


def _cors(config: Config) -> list[Middleware]:
    """What lets the pages of other origins use the server, if any are set."""
    if not config.cors_origin:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=config.cors_origin,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", ID_HEADER],
            expose_headers=[ID_HEADER, "retry-after", "server-timing"],
        )
    ]


async def _unknown(request: Request, error: Exception) -> Response:
    """Answers a path or method that has no route, with the error fields of all APIs; OPTIONS with the methods of the path."""
    status = getattr(error, "status_code", 404)
    headers = None
    text = f"no route {request.url.path[:PATH_LIMIT]!r}"
    if status == 405:
        allowed = sorted((getattr(error, "headers", None) or {}).get("Allow", "").split(", "))
        headers = {"allow": ", ".join([*allowed, "OPTIONS"])}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        text = f"{request.method[:METHOD_LIMIT]} is not allowed here; expected {' or '.join(allowed)}"
    content = {"id": RequestRecord.of(request.scope).id, "error": text, "message": text, "detail": text}
    return as_json(content, status, headers)
