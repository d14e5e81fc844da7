"""The formats of Cohere: v2, and v1 combined with Jina's, as both are POST /v1/rerank.

https://docs.cohere.com/v2/reference/rerank, https://docs.cohere.com/v1/reference/rerank, https://jina.ai/reranker
infinity, vLLM, llama.cpp and LocalAI follow Jina: V1 has the fields that they add. Unknown fields are ignored, as those servers do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from resift.serve.api import Api, Count, Extensions, Name, Text, check_query
from resift.serve.documents import JSON_DOCUMENT, joined_fields, texts_of, with_text
from resift.serve.error_reply import STATUSES, Error, refuse
from resift.serve.request import RankingRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift.documents import DocumentTemplate
    from resift.serve.request import RankingResult

Fields = dict[str, Any]
WithText = Annotated[Fields, msgspec.Meta(extra_json_schema={"properties": {"text": {"type": "string"}}, "required": ["text"]})]
SEARCH_UNIT = 100
"""Documents that Cohere bills as one search."""


class ApiVersion(msgspec.Struct):
    """Which version of the API answered."""

    version: str


class BilledUnits(msgspec.Struct):
    """What Cohere would bill: a search unit is a query with up to a hundred documents."""

    search_units: int


class Tokens(msgspec.Struct):
    """The tokens that were read; none are written."""

    input_tokens: int
    output_tokens: int = 0


class Meta(msgspec.Struct, omit_defaults=True):
    """Facts about an answer."""

    api_version: ApiVersion
    billed_units: BilledUnits
    tokens: Tokens
    warnings: list[str] = []


class Usage(msgspec.Struct):
    """The tokens that were read, in Jina's fields."""

    total_tokens: int
    prompt_tokens: int


class V2Request(Extensions, kw_only=True):
    """POST /v2/rerank."""

    model: Name | None = None
    query: Text
    documents: Annotated[list[Annotated[msgspec.Raw, JSON_DOCUMENT]], msgspec.Meta(min_length=1)]
    """texts, or objects, of which the server's document template says what is read; by default the field `text`"""
    top_n: Count | None = None
    max_tokens_per_doc: Count | None = None
    """each document is cut to this many tokens, or to as many as the model takes if that is less"""
    return_documents: bool | None = None
    priority: int | None = None
    """accepted, but all requests have the same priority"""
    relevant_spans: None = None
    """not supported"""


class V1Request(V2Request, kw_only=True):
    """POST /v1/rerank, Cohere's and Jina's; at the other paths that of infinity, vLLM, llama.cpp and LocalAI."""

    rank_fields: Annotated[list[Name], msgspec.Meta(min_length=1, max_length=64)] | None = None
    """fields of the documents that are read, joined by line breaks, in this order"""
    max_chunks_per_doc: Count | None = None
    """accepted: a document is read as one chunk, from its start"""
    instruction: str | None = None
    """vLLM's: put before the query, in place of the prompt that the model declares"""
    raw_scores: bool | None = None
    """infinity's: true for logits"""
    use_activation: bool | None = None
    """vLLM's: false for logits"""


class V2Result(msgspec.Struct, omit_defaults=True):
    """One document of the ranking."""

    index: int
    relevance_score: float
    """the sigmoid of the logit, in [0, 1], unless logits were asked for, or are the server's setting"""
    document: WithText | None = None
    """with `return_documents`: its own fields, and in `text` what the model read if it has no such field"""
    tokens_cut: int | None = None
    scored_by: str | None = None
    """with a plan or a budget, the last graph that scored it; absent if none did"""
    probability: float | None = None
    """that it is relevant, if the server's settings have a calibration and the full model scored it"""


class V2Response(msgspec.Struct):
    """The ranking, best first."""

    id: str
    results: list[V2Result]
    meta: Meta


class V1Response(msgspec.Struct):
    """The ranking, best first: the fields of Cohere's v1 and of Jina's answer."""

    id: str
    model: str
    usage: Usage
    results: list[V2Result]
    meta: Meta


def _read_v2(body: V2Request, template: DocumentTemplate) -> list[RankingRequest]:
    return _request(body, texts_of(body.documents, template))


def _read_v1(body: V1Request, template: DocumentTemplate) -> list[RankingRequest]:
    if body.rank_fields is None:
        return _read_v2(body, template)
    return _request(body, joined_fields(body.documents, body.rank_fields))


def _request(body: V2Request, texts: list[str]) -> list[RankingRequest]:
    check_query(body.query)
    request = RankingRequest(
        model=body.model,
        query=body.query,
        documents=texts,
        instruction=body.instruction if isinstance(body, V1Request) else None,
        top_n=body.top_n,
        document_tokens=body.max_tokens_per_doc,
        plan=body.plan,
        budget_ms=body.budget_ms,
        threshold=body.threshold,
    )
    return [request]


def _write_v2(body: V2Request, answers: Sequence[RankingResult]) -> V2Response:
    [answer] = answers
    return V2Response(answer.id, _results(body, answer, answer.relevance), _meta("2", body, answer))


def _write_v1(body: V1Request, answers: Sequence[RankingResult]) -> V1Response:
    [answer] = answers
    scores = answer.logits if body.raw_scores or body.use_activation is False else answer.relevance
    usage = Usage(answer.tokens, answer.tokens)
    return V1Response(answer.id, answer.model, usage, _results(body, answer, scores), _meta("1", body, answer))


def _results(body: V2Request, answer: RankingResult, scores: Sequence[float]) -> list[V2Result]:
    return [
        V2Result(
            index=result.index,
            relevance_score=score,
            document=with_text(body.documents[result.index], result.text) if body.return_documents else None,
            **body.result_fields(result),
        )
        for result, score in zip(answer.ranking, scores, strict=True)
    ]


def _meta(version: str, body: V2Request, answer: RankingResult) -> Meta:
    warnings = []
    if answer.documents_cut:
        warnings.append(f"{answer.documents_cut} documents were too long and were cut at their end")
    if answer.ranking.query_tokens_cut:
        warnings.append(f"the query was too long and its last {answer.ranking.query_tokens_cut} tokens were cut")
    if body.threshold is not None and answer.ranking.without_score:
        warnings.append(f"{answer.ranking.without_score} documents were not scored by the full model, and pass no threshold")
    units = -(-len(body.documents) // SEARCH_UNIT)
    return Meta(ApiVersion(version), BilledUnits(units), Tokens(answer.tokens), warnings)


EXAMPLE = {
    "model": "rerank-v3.5",
    "query": "how do tides work",
    "documents": ["Bread rises because yeast makes gas.", "The moon's gravity pulls the sea into tides."],
    "top_n": 2,
}
V2 = Api(
    name="cohere-v2",
    summary="Rerank, in the format of Cohere v2",
    body=V2Request,
    reply=V2Response,
    error=Error,
    count=lambda body: len(body.documents),
    read=_read_v2,
    write=_write_v2,
    refuse=refuse,
    statuses=STATUSES,
    example=EXAMPLE,
)
V1 = Api(
    name="cohere-jina-v1",
    summary="Rerank, in the formats of Cohere v1 and of Jina, which infinity, vLLM, llama.cpp and LocalAI follow",
    body=V1Request,
    reply=V1Response,
    error=Error,
    count=lambda body: len(body.documents),
    read=_read_v1,
    write=_write_v1,
    refuse=refuse,
    statuses=STATUSES,
    example=EXAMPLE,
)
