"""Routes of the page: its files, read once, and headers that allow it to load and request only from this server."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

    from resift.serve.config import Config

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
"""no-cache: a browser keeps the files and asks each time whether they have changed."""
ASSETS = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "documents.js": "text/javascript",
    "snippets.js": "text/javascript",
}
KEY = b'data-key="none"'
"""the attribute in index.html that is "required" instead if the page must ask for a key"""


def routes(config: Config) -> list[Route]:
    """One route for each file of the page."""
    files = resources.files(__package__)
    page = files.joinpath("index.html").read_bytes()
    if config.is_keyed:
        page = page.replace(KEY, b'data-key="required"')
    assets = [_route(f"/page/{name}", files.joinpath(name).read_bytes(), kind) for name, kind in ASSETS.items()]
    return [_route("/", page, "text/html"), *assets]


def _route(path: str, content: bytes, media_type: str) -> Route:
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "etag": etag}

    async def answer(request: Request) -> Response:
        cached_tags = request.headers.get("if-none-match", "")
        if etag in (tag.strip().removeprefix("W/") for tag in cached_tags.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    return Route(path, answer)
