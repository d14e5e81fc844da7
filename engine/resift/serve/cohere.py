"""The formats of Cohere: v2, and v1 combined with Jina's, as both are POST /v1/rerank.

https://docs.cohere.com/v2/reference/rerank, https://docs.cohere.com/v1/reference/rerank, https://jina.ai/reranker
Unknown fields are ignored, as those servers do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from resift.serve.api import Api, Extensions, check_query
from resift.serve.request import RankingRequest, Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resift.serve.request import RankingResult

Text = Annotated[str, msgspec.Meta(min_length=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Fields = dict[str, Any]
Document = Annotated[Fields, msgspec.Meta(extra_json_schema={"properties": {"text": {"type": "string"}}, "required": ["text"]})]

STATUSES: Mapping[Reason, int] = {
    "syntax": 400,
    "invalid": 400,
    "empty": 400,
    "media type": 415,
    "slow": 408,
    "body size": 413,
    "documents": 400,
    "length": 400,
    "tokenizer": 422,
    "model": 404,
    "key": 401,
    "busy": 429,
    "late": 504,
    "stopping": 503,
    "failed": 500,
}


class ApiVersion(msgspec.Struct):
    """Which version of the API answered."""

    version: str


class Tokens(msgspec.Struct):
    """The tokens that were read."""

    input_tokens: int


class Meta(msgspec.Struct, omit_defaults=True):
    """Facts about an answer."""

    api_version: ApiVersion
    tokens: Tokens
    warnings: list[str] = []


class Usage(msgspec.Struct):
    """The tokens that were read, in Jina's fields."""

    total_tokens: int
    prompt_tokens: int


class Error(msgspec.Struct):
    """A refusal; `message` is Cohere's field, `detail` is Jina's."""

    id: str
    message: str
    detail: str


class V2Request(Extensions, kw_only=True):
    """POST /v2/rerank."""

    model: str | None = None
    query: Text
    documents: Annotated[list[str], msgspec.Meta(min_length=1)]
    top_n: Count | None = None
    max_tokens_per_doc: Count | None = None
    """each document is cut to this many tokens, or to as many as the model takes if that is less"""
    priority: int | None = None
    """accepted, but all requests have the same priority"""
    relevant_spans: None = None
    """not supported"""


class V1Request(Extensions, kw_only=True):
    """POST /v1/rerank, Cohere's and Jina's."""

    model: str | None = None
    query: Text
    documents: Annotated[list[str | Document], msgspec.Meta(min_length=1)]
    """texts, or objects with a field `text` or those of `rank_fields`"""
    top_n: Count | None = None
    rank_fields: Annotated[list[str], msgspec.Meta(min_length=1)] | None = None
    """fields of the documents that are read, joined by line breaks, in this order"""
    return_documents: bool | None = None
    max_chunks_per_doc: Count | None = None
    """accepted: a document is read as one chunk, from its start"""
    max_tokens_per_doc: Count | None = None


class V2Result(msgspec.Struct, omit_defaults=True):
    """One document of the ranking."""

    index: int
    relevance_score: float
    """the sigmoid of the logit, in [0, 1]"""
    tokens_cut: int | None = None
    scored_by: str | None = None
    """with a plan or a budget, the last graph that scored it; absent if none did"""


class V1Result(V2Result, omit_defaults=True):
    """One document of the ranking, with its fields if `return_documents` is true."""

    document: Fields | None = None


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
    results: list[V1Result]
    meta: Meta


def _read_v2(body: V2Request) -> RankingRequest:
    return _request(body, body.documents)


def _read_v1(body: V1Request) -> RankingRequest:
    return _request(body, [_text(document, position, body.rank_fields) for position, document in enumerate(body.documents)])


def _request(body: V1Request | V2Request, documents: list[str]) -> RankingRequest:
    check_query(body.query)
    return RankingRequest(
        model=body.model,
        query=body.query,
        documents=documents,
        top_n=body.top_n,
        document_tokens=body.max_tokens_per_doc,
        plan=body.plan,
        budget_ms=body.budget_ms,
    )


def _text(document: str | Fields, position: int, rank_fields: list[str] | None) -> str:
    if isinstance(document, str):
        return document
    names = rank_fields or ["text"]
    texts = [document[name] for name in names if name in document]
    if not texts:
        raise Refusal(
            "invalid", f"documents[{position}] has no field {' or '.join(names)}; expected a string or an object with text"
        )
    for name, text in zip((name for name in names if name in document), texts, strict=True):
        if not isinstance(text, str):
            raise Refusal("invalid", f"documents[{position}].{name} is {type(text).__name__}; expected a string")
    return "\n".join(texts)


def _write_v2(body: V2Request, answer: RankingResult) -> V2Response:
    results = [
        V2Result(index=result.index, relevance_score=score, **body.result_fields(result))
        for result, score in zip(answer.ranking, answer.relevance, strict=True)
    ]
    return V2Response(answer.id, results, _meta("2", answer))


def _write_v1(body: V1Request, answer: RankingResult) -> V1Response:
    results = [
        V1Result(
            index=result.index,
            relevance_score=score,
            document=_fields(body.documents[result.index]) if body.return_documents else None,
            **body.result_fields(result),
        )
        for result, score in zip(answer.ranking, answer.relevance, strict=True)
    ]
    return V1Response(answer.id, answer.model, Usage(answer.tokens, answer.tokens), results, _meta("1", answer))


def _fields(document: str | Fields) -> Fields:
    return {"text": document} if isinstance(document, str) else document


def _meta(version: str, answer: RankingResult) -> Meta:
    warnings = []
    if answer.documents_cut:
        warnings.append(f"{answer.documents_cut} documents were too long and were cut at their end")
    if answer.ranking.query_tokens_cut:
        warnings.append(f"the query was too long and its last {answer.ranking.query_tokens_cut} tokens were cut")
    return Meta(ApiVersion(version), Tokens(answer.tokens), warnings)


def _refuse(refusal: Refusal, request_id: str) -> Error:
    return Error(request_id, str(refusal), str(refusal))


EXAMPLE = {
    "model": "rerank-v3.5",
    "query": "how do tides work",
    "documents": ["Bread rises because yeast makes gas.", "The moon's gravity pulls the sea into tides."],
    "top_n": 2,
}
V2 = Api(
    name="cohere-v2",
    path="/v2/rerank",
    summary="Rerank, in the format of Cohere v2",
    body=V2Request,
    reply=V2Response,
    error=Error,
    read=_read_v2,
    write=_write_v2,
    refuse=_refuse,
    statuses=STATUSES,
    example=EXAMPLE,
)
V1 = Api(
    name="cohere-jina-v1",
    path="/v1/rerank",
    summary="Rerank, in the formats of Cohere v1 and of Jina",
    body=V1Request,
    reply=V1Response,
    error=Error,
    read=_read_v1,
    write=_write_v1,
    refuse=_refuse,
    statuses=STATUSES,
    example=EXAMPLE,
)
