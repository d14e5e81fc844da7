"""The format of Voyage, whose path is Jina's: a body with its `top_k` or `truncation`.

https://docs.voyageai.com/reference/reranker-api. Unknown fields are ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from resift.serve.api import Api, Count, Extensions, Name, Text, check_query
from resift.serve.error_reply import STATUSES, Error, refuse
from resift.serve.request import RankingRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift.documents import DocumentTemplate
    from resift.serve.request import RankingResult


class VoyageRequest(Extensions, kw_only=True):
    """POST /v1/rerank, Voyage's."""

    model: Name | None = None
    query: Text
    documents: Annotated[list[str], msgspec.Meta(min_length=1)]
    top_k: Count | None = None
    return_documents: bool | None = None
    truncation: bool | None = None
    """false: a pair that is too long is refused; otherwise its document is cut"""


class VoyageResult(msgspec.Struct, omit_defaults=True):
    """One document of the ranking."""

    index: int
    relevance_score: float
    document: str | None = None
    tokens_cut: int | None = None
    scored_by: str | None = None
    """with a plan or a budget, the last graph that scored it; absent if none did"""
    probability: float | None = None
    """that it is relevant, if the server's settings have a calibration and the full model scored it"""


class VoyageUsage(msgspec.Struct):
    """The tokens that were read."""

    total_tokens: int


class VoyageResponse(msgspec.Struct):
    """The ranking, best first."""

    data: list[VoyageResult]
    model: str
    usage: VoyageUsage
    object: Literal["list"] = "list"


def _read(body: VoyageRequest, _: DocumentTemplate) -> list[RankingRequest]:
    check_query(body.query)
    request = RankingRequest(
        model=body.model,
        query=body.query,
        documents=body.documents,
        top_n=body.top_k,
        truncate=body.truncation is not False,
        plan=body.plan,
        budget_ms=body.budget_ms,
        threshold=body.threshold,
    )
    return [request]


def _write(body: VoyageRequest, answers: Sequence[RankingResult]) -> VoyageResponse:
    [answer] = answers
    results = [
        VoyageResult(
            index=result.index,
            relevance_score=score,
            document=body.documents[result.index] if body.return_documents else None,
            **body.result_fields(result),
        )
        for result, score in zip(answer.ranking, answer.relevance, strict=True)
    ]
    return VoyageResponse(results, answer.model, VoyageUsage(answer.tokens))


RERANK = Api(
    name="voyage",
    summary="Rerank, in the format of Voyage",
    body=VoyageRequest,
    reply=VoyageResponse,
    error=Error,
    count=lambda body: len(body.documents),
    read=_read,
    write=_write,
    refuse=refuse,
    statuses=STATUSES,
    example={
        "model": "rerank-2.5",
        "query": "how do tides work",
        "documents": ["Bread rises because yeast makes gas.", "The moon's gravity pulls the sea into tides."],
        "top_k": 2,
    },
)
