"""Validates the server's answers by the OpenAPI documents of the servers whose formats it speaks, and counts those that are valid.

    python -m tests.slow.openapi_peers FOLDER [--model ARTIFACT]

FOLDER has the documents, or gets them from GitHub: text-embeddings-inference's, Cohere's and infinity's. A request that is to
succeed must be valid by the document itself. An answer is valid if the document has its status and its content fits the schema
there. Prints what is not, and exits with 1 if that is anything but what DIFFERENT names. Needs jsonschema and pyyaml, and runs the
server with this interpreter.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import urllib.request
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import yaml

from benchmarks.load import servers

KEY, MODEL = "a-key-of-the-benchmark", "served"
FLAGS = ["--api-key", KEY, "--strict-model", "--name", MODEL, "--max-client-batch-size", "100"]
RAW = "https://raw.githubusercontent.com"
QUERY, TEXTS = "how do tides work", ["Bread rises.", "The moon pulls the sea into tides.", "Rain falls on the plain."]
OBJECTS = [{"text": text, "n": str(number)} for number, text in enumerate(TEXTS)]
LONG = " ".join(["tide"] * 2000)


@dataclass(frozen=True)
class ApiCall:
    """One request."""

    path: str
    body: dict[str, Any] | None = None
    """of a POST; None for a GET"""
    is_refused: bool = False
    key: str = KEY


@dataclass(frozen=True)
class Peer:
    """A server, its document and what to ask."""

    name: str
    url: str
    calls: list[ApiCall] = field(repr=False)


def calls(path: str, base: dict[str, Any], changes: list[dict[str, Any]], refused: list[dict[str, Any]]) -> list[ApiCall]:
    """The base body, and with each change; a change to None leaves a field out."""
    bodies = [(change, False) for change in [{}, *changes]] + [(change, True) for change in refused]
    changed = [({key: value for key, value in (base | change).items() if value is not None}, fails) for change, fails in bodies]
    return [ApiCall(path, body, fails) for body, fails in changed]


TEI = calls(
    "/rerank",
    {"query": QUERY, "texts": TEXTS},
    [
        {"raw_scores": True},
        {"raw_scores": False},
        {"return_text": True},
        {"return_text": True, "raw_scores": True},
        {"truncate": True},
        {"truncate": False},
        {"truncate": True, "texts": [LONG]},
        {"truncation_direction": "Right"},
        {"texts": TEXTS[:1]},
    ],
    [{"texts": ["a"] * 101}, {"texts": [LONG], "truncate": False}, {"query": None}, {"texts": [1]}, {"texts": None}],
)
BASE: dict[str, Any] = {"model": MODEL, "query": QUERY, "documents": TEXTS}
COHERE: list[dict[str, Any]] = [{"top_n": 1}, {"top_n": 99}, {"documents": TEXTS[:1]}, {"documents": [*TEXTS, LONG]}]
COHERE_REFUSED: list[dict[str, Any]] = [
    {"query": None},
    {"query": ""},
    {"documents": []},
    {"documents": None},
    {"top_n": 0},
    {"documents": [1]},
]
COHERE_V1: list[dict[str, Any]] = [
    *COHERE,
    {"return_documents": True},
    {"return_documents": False},
    {"documents": OBJECTS},
    {"documents": OBJECTS, "return_documents": True},
    {"documents": OBJECTS, "rank_fields": ["text", "n"], "return_documents": True},
    {"max_chunks_per_doc": 10},
]
COHERE_V2: list[dict[str, Any]] = [*COHERE, {"max_tokens_per_doc": 4096}, {"max_tokens_per_doc": 3}, {"priority": 0}]
PEERS = [
    Peer(
        "text-embeddings-inference",
        f"{RAW}/huggingface/text-embeddings-inference/main/docs/openapi.json",
        [*TEI, ApiCall("/health"), ApiCall("/info"), ApiCall("/metrics")],
    ),
    Peer(
        "cohere",
        f"{RAW}/cohere-ai/cohere-developer-experience/main/cohere-openapi.yaml",
        [
            *calls("/v1/rerank", BASE, COHERE_V1, COHERE_REFUSED),
            *calls("/v2/rerank", BASE, COHERE_V2, COHERE_REFUSED),
            *(ApiCall(path, BASE, is_refused=True, key="wrong") for path in ("/v1/rerank", "/v2/rerank")),
            *(ApiCall(path, BASE | {"model": "none"}, is_refused=True) for path in ("/v1/rerank", "/v2/rerank")),
        ],
    ),
    Peer(
        "infinity",
        f"{RAW}/michaelfeil/infinity/main/docs/assets/openapi.json",
        [
            *calls(
                "/rerank",
                BASE,
                [{"top_n": 1}, {"raw_scores": True}, {"raw_scores": False}, {"return_documents": True}, {"model": None}],
                [{"query": None}, {"documents": None}],
            ),
            ApiCall("/metrics"),
        ],
    ),
]
DIFFERENT = {
    ("infinity", "return_documents"): "a document is an object, as in all other formats of this path",
    ("infinity", "400"): "refusals have the status and the fields of the other formats of this path",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path, metavar="FOLDER")
    parser.add_argument("--model", default="", help="artifact (default: the embedded model)")
    arguments = parser.parse_args()
    arguments.documents.mkdir(parents=True, exist_ok=True)
    unexpected = 0
    with tempfile.TemporaryDirectory() as name:
        here = replace(servers.RESIFT, interpreter=sys.executable)
        server = servers.resift(here, Path(name), model=arguments.model, threads=1, flags=FLAGS)
        with servers.running(server), httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
            for peer in PEERS:
                document = read_document(peer, arguments.documents)
                faults = [(call, fault) for call in peer.calls if (fault := fault_of(document, call, client))]
                version = document["info"]["version"]
                print(f"{peer.name} {version}: {len(peer.calls) - len(faults)} of {len(peer.calls)} answers valid", flush=True)
                for call, fault in faults:
                    reason = next((why for (of, mark), why in DIFFERENT.items() if of == peer.name and mark in fault), "")
                    unexpected += not reason
                    print(f"  {call.path} {str(call.body)[:200]}: {fault}{reason and f' ({reason})'}")
    return int(bool(unexpected))


def read_document(peer: Peer, folder: Path) -> dict[str, Any]:
    """The peer's document, fetched into the folder if it is not there."""
    path = folder / f"{peer.name}{Path(peer.url).suffix}"
    if not path.exists():
        with urllib.request.urlopen(peer.url, timeout=60) as reply:
            path.write_bytes(reply.read())
    document: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return document


def fault_of(document: dict[str, Any], call: ApiCall, client: httpx.Client) -> str:
    """What is not as the document says; empty if all is."""
    operation = document["paths"][call.path]["get" if call.body is None else "post"]
    if call.body is not None and not call.is_refused:
        content = resolve(document, operation["requestBody"])["content"]
        if error := error_of(document, content["application/json"]["schema"], call.body):
            return f"the request is not valid: {error}"
    headers = {"authorization": f"Bearer {call.key}"}
    reply = client.get(call.path, headers=headers) if call.body is None else client.post(call.path, json=call.body, headers=headers)
    mark = "return_documents: " if call.body and call.body.get("return_documents") else ""
    if (reply.status_code >= 400) != call.is_refused:
        return f"status {reply.status_code}: {reply.text[:200]}"
    if str(reply.status_code) not in operation["responses"]:
        return f"the document has no status {reply.status_code}"
    documented = resolve(document, operation["responses"][str(reply.status_code)]).get("content", {})
    media_type = reply.headers.get("content-type", "").partition(";")[0]
    if media_type not in documented:
        return "" if not documented or not reply.content or call.path == "/metrics" else f"the document has no {media_type}"
    if media_type != "application/json":
        return ""
    error = error_of(document, documented[media_type].get("schema", {}), reply.json())
    return error and f"{mark}{error}"


def resolve(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """The node, or what it refers to."""
    while "$ref" in node:
        target = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def error_of(document: dict[str, Any], schema: dict[str, Any], value: object) -> str:
    """The first fault of a value by a schema of the document; empty if it has none."""
    whole = {"allOf": [schema], "components": document["components"]}
    if document["openapi"].startswith("3.0"):
        whole = with_null(whole)
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(whole).iter_errors(value))
    return "" if error is None else f"{error.json_path}: {error.message[:300]}"


def with_null(node: Any) -> Any:
    """A schema of OpenAPI 3.0 in JSON Schema's terms: `nullable` is another type."""
    if isinstance(node, list):
        return [with_null(each) for each in node]
    if not isinstance(node, dict):
        return node
    plain = {name: with_null(each) for name, each in node.items() if name != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if node.get("nullable") is True else plain


if __name__ == "__main__":
    sys.exit(main())
