"""Error reply: a refusal in the fields that clients of Cohere, Jina, Voyage, OpenAI, vLLM and llama.cpp read, in one object."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resift.serve.request import Reason, Refusal

STATUSES: Mapping[Reason, int] = {
    "syntax": 400,
    "invalid": 400,
    "empty": 400,
    "media type": 415,
    "slow": 408,
    "body size": 413,
    "documents": 400,
    "length": 400,
    "model": 404,
    "key": 401,
    "busy": 429,
    "late": 504,
    "stopping": 503,
    "failed": 500,
    "artifact": 500,
}
TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
"""OpenAI's types of errors by status; any other below 500 is an invalid_request_error."""


class ErrorObject(msgspec.Struct):
    """A refusal, as OpenAI, vLLM, infinity and llama.cpp nest it."""

    message: str
    type: str
    code: int
    """the status"""
    param: None = None


class Error(msgspec.Struct):
    """A refusal; `message` is Cohere's field, `detail` that of Jina and Voyage, `error` OpenAI's."""

    id: str
    message: str
    detail: str
    error: ErrorObject


def refuse(refusal: Refusal, request_id: str) -> Error:
    """The reply to a refused request."""
    status, text = STATUSES[refusal.reason], str(refusal)
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return Error(request_id, text, text, ErrorObject(text, kind, status))
