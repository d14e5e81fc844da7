"""The OpenAPI document of the APIs, and a page that shows it without scripts."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from typing import TYPE_CHECKING, Any

import msgspec

from resift.serve.error_reply import Error
from resift.serve.model_list import ModelList, ModelObject

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from resift.serve.api import Api
    from resift.serve.config import Config
    from resift.serve.forms import Forms
    from resift.serve.request import Reason

REFUSALS: Mapping[Reason, str] = {
    "syntax": "the body is not JSON in UTF-8",
    "invalid": "a field is missing, of another type or out of range",
    "empty": "there are no documents",
    "media type": "the body is not application/json, or it is compressed",
    "slow": "the body arrives too slowly",
    "body size": "the body is too large",
    "documents": "there are too many documents",
    "length": "the texts are too long",
    "model": "no such model is served",
    "key": "the API key is missing or wrong",
    "busy": "too much work is waiting; Retry-After says when to try again",
    "late": "there was no answer within the deadline",
    "stopping": "the server is shutting down",
    "failed": "the model failed",
    "artifact": "the model's files are damaged or gone",
}
ABOUT = {
    "/health": "Whether the server runs",
    "/ready": "Whether the models are warm and requests are accepted",
    "/info": "What is served, in the fields of text-embeddings-inference",
    "/v1/models": "The models, in OpenAI's format",
    "/v1/models/{name}": "One model, in OpenAI's format",
    "/metrics": "Metrics for Prometheus",
}
OPEN = ("/health", "/ready")
"""Paths of ABOUT that need no key."""
REPLIES = {"/v1/models": ModelList, "/v1/models/{name}": ModelObject}
"""Types of the answers to GET that are described."""
NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}, "description": "one of its names"}
STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;color:#1c1c1e;background:#fff}
pre{background:#f4f4f6;padding:.8rem;overflow:auto;border-radius:6px;font-size:.85rem}h2{margin-top:2.5rem}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;vertical-align:top;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #ddd}
@media(prefers-color-scheme:dark){body{color:#eee;background:#18181b}pre{background:#27272a}td,th{border-color:#3f3f46}a{color:#8ab4f8}}"""


def document(paths: Mapping[str, Forms], version: str, config: Config) -> dict[str, Any]:
    """OpenAPI 3.1, as plain objects."""
    apis = dict.fromkeys(api for forms in paths.values() for api in forms.apis)
    types = dict.fromkeys([*(kind for api in apis for kind in (api.body, api.reply, api.error)), Error, *REPLIES.values()])
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(types, schemas, strict=True))
    operations: dict[str, Any] = {path: {"post": _operation(path, forms.apis, schema_of)} for path, forms in paths.items()}
    for path, summary in ABOUT.items():
        operations[path] = {"get": _about(path, summary, schema_of, config)}
    specification: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "resift", "version": version, "description": "Rerankers on CPU, in the formats clients already speak."},
        "paths": operations,
        "components": {"schemas": components},
    }
    if config.root_path:
        specification["servers"] = [{"url": config.root_path}]
    if config.is_keyed:
        specification["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        specification["security"] = [{"key": []}]
    return specification


def _operation(path: str, apis: Iterable[Api], schema_of: Mapping[Any, Any]) -> dict[str, Any]:
    apis = list(apis)
    reasons: dict[int, dict[str, None]] = {}  # texts and errors of a status, each once
    errors: dict[int, dict[type, None]] = {}
    for api in apis:
        for reason, status in api.statuses.items():
            reasons.setdefault(status, {})[REFUSALS[reason]] = None
            errors.setdefault(status, {})[api.error] = None
    refusals = {
        str(status): _reply("; ".join(texts), [schema_of[error] for error in errors[status]])
        for status, texts in sorted(reasons.items())
    }
    body = {"schema": _any([schema_of[api.body] for api in apis]), "examples": {api.name: {"value": api.example} for api in apis}}
    return {
        "summary": "; or: ".join(api.summary for api in apis),
        "operationId": path.strip("/").replace("/", "-"),
        "requestBody": {"required": True, "content": {"application/json": body}},
        "responses": {"200": _reply("The answer to each body", [schema_of[api.reply] for api in apis]), **refusals},
    }


def _about(path: str, summary: str, schema_of: Mapping[Any, Any], config: Config) -> dict[str, Any]:
    error = [schema_of[Error]]
    schemas = [schema_of[REPLIES[path]]] if path in REPLIES else []
    responses = {"200": _reply(summary, schemas) if schemas else {"description": summary}}
    if path == "/ready":
        responses["503"] = {"description": "Not yet, or not any more"}
    if path.endswith("{name}"):
        responses["404"] = _reply(REFUSALS["model"], error)
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if path.endswith("{name}"):
        operation["parameters"] = [NAME]
    if config.is_keyed and (path in OPEN or (path == "/metrics" and config.open_metrics)):
        operation["security"] = []
    elif config.is_keyed:
        responses["401"] = _reply(REFUSALS["key"], error)
    return operation


def _reply(description: str, schemas: list[Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _any(schemas)}}}


def _any(schemas: list[Any]) -> Any:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def page(specification: Mapping[str, Any]) -> tuple[str, str]:
    """The document as HTML, and the SHA-256 of its style in base64, for a content-security policy."""
    root = specification.get("servers", [{"url": ""}])[0]["url"]
    sections = [
        _section(root + path, method, operation)
        for path, methods in specification["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = [
        f'<h3 id="{html.escape(name)}">{html.escape(name)}</h3>{_code(schema)}'
        for name, schema in specification["components"]["schemas"].items()
    ]
    title = f"{specification['info']['title']} {specification['info']['version']}"
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style><h1>{html.escape(title)}</h1>"
        f'<p>{html.escape(specification["info"]["description"])} This page as <a href="{root}/openapi.json">OpenAPI</a>.</p>'
        f"{''.join(sections)}<h2>Types</h2>{''.join(schemas)}</html>"
    )
    return text, base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()


def _section(path: str, method: str, operation: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{status}<td>{html.escape(response['description'])}" for status, response in operation["responses"].items()
    )
    text = f"<h2>{method.upper()} {html.escape(path)}</h2><p>{html.escape(operation['summary'])}.</p>"
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]["application/json"]
        schemas = content["schema"].get("anyOf", [content["schema"]])
        for schema, example in zip(schemas, content["examples"].values(), strict=True):
            name = schema["$ref"].rpartition("/")[2]
            body = json.dumps(example["value"], indent=2).replace("'", r"'\''")
            curl = f"curl -s HOST{path} -H 'Content-Type: application/json' -d '{body}'"
            text += f'<p>Body: <a href="#{html.escape(name)}">{html.escape(name)}</a></p><pre>{html.escape(curl)}</pre>'
    return f"{text}<table><tr><th>status<th>when{rows}</table>"


def _code(schema: Any) -> str:
    return f"<pre>{html.escape(json.dumps(schema, indent=2))}</pre>"
