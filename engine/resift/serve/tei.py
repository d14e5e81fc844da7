"""The format of text-embeddings-inference (TEI), with its errors, messages and limits.

https://huggingface.github.io/text-embeddings-inference/ and its router/src/http/server.rs. Unknown fields are ignored, as TEI does.
Where TEI answers with plain text (the body is not JSON, or of another type), the status here is the same, and the body is TEI's
error object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from resift.serve.api import Api, Count, Extensions, Name
from resift.serve.request import RankingRequest, Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from resift.documents import DocumentTemplate
    from resift.serve.request import RankingResult

ErrorType = Literal["Empty", "Validation", "Tokenizer", "Backend", "Overloaded", "Unhealthy"]
Direction = Literal["Right", "right", "Left", "left"]

STATUSES: Mapping[Reason, int] = {
    "syntax": 400,
    "invalid": 422,
    "empty": 400,
    "media type": 415,
    "slow": 408,
    "body size": 413,
    "documents": 413,
    "length": 413,
    "model": 404,
    "key": 401,
    "busy": 429,
    "late": 429,
    "stopping": 503,
    "failed": 424,
    "artifact": 500,
}
TYPES: Mapping[Reason, ErrorType] = {
    "empty": "Empty",
    "busy": "Overloaded",
    "late": "Overloaded",
    "stopping": "Unhealthy",
    "failed": "Backend",
    "artifact": "Backend",
}


class RerankRequest(Extensions, kw_only=True):
    """POST /rerank."""

    query: str
    texts: Annotated[list[str], msgspec.Meta(extra_json_schema={"minItems": 1})]
    truncate: bool | None = None
    """false: a pair that is too long is refused; otherwise its text is cut"""
    truncation_direction: Direction = "Right"
    """the end that is cut; this server cuts on the right only"""
    raw_scores: bool = False
    """true: scores are logits; otherwise the sigmoids of the logits"""
    return_text: bool = False
    top_n: Count | None = None
    """an extension, as in llama.cpp: how many of the best texts are returned"""
    model: Name | None = None
    """an extension: which of several models ranks"""


class Rank(msgspec.Struct, omit_defaults=True):
    """One text of the ranking."""

    index: int
    score: float
    text: str | None = None
    tokens_cut: int | None = None
    scored_by: str | None = None
    """with a plan or a budget, the last graph that scored it; absent if none did"""
    probability: float | None = None
    """that it is relevant, if the server's settings have a calibration and the full model scored it"""


class ErrorResponse(msgspec.Struct):
    """A refusal."""

    error: str
    error_type: ErrorType


def _read(body: RerankRequest, _: DocumentTemplate) -> list[RankingRequest]:
    if not body.texts:
        raise Refusal("empty", "`texts` cannot be empty")
    if body.truncation_direction.lower() == "left" and body.truncate is not False:
        raise Refusal("invalid", "`truncation_direction` is Left, but this server cuts a text at its end only; expected Right")
    if not body.query and "" in body.texts:
        raise Refusal("length", "Input validation error: `inputs` cannot be empty")
    request = RankingRequest(
        model=body.model,
        query=body.query,
        documents=body.texts,
        top_n=body.top_n,
        truncate=body.truncate is not False,
        plan=body.plan,
        budget_ms=body.budget_ms,
        threshold=body.threshold,
    )
    return [request]


def _write(body: RerankRequest, answers: Sequence[RankingResult]) -> list[Rank]:
    [answer] = answers
    return [
        Rank(
            result.index,
            logit if body.raw_scores else score,
            body.texts[result.index] if body.return_text else None,
            **body.result_fields(result),
        )
        for result, score, logit in zip(answer.ranking, answer.relevance, answer.logits, strict=True)
    ]


def _refuse(refusal: Refusal, _: str) -> ErrorResponse:
    return ErrorResponse(str(refusal), TYPES.get(refusal.reason, "Validation"))


RERANK = Api(
    name="tei",
    summary="Rerank, in the format of text-embeddings-inference",
    body=RerankRequest,
    reply=list[Rank],
    error=ErrorResponse,
    count=lambda body: len(body.texts),
    read=_read,
    write=_write,
    refuse=_refuse,
    statuses=STATUSES,
    example={"query": "What is Deep Learning?", "texts": ["Deep Learning is not...", "Deep learning is..."]},
    strict=True,  # as TEI is
)
