"""The format of vLLM's scores: one score a pair, in the order of the pairs.

https://docs.vllm.ai (scoring); its rerank format is that of cohere.V1. Unknown fields are ignored.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

import msgspec

from resift.serve.api import Api, Count, Name
from resift.serve.error_reply import STATUSES, Error, refuse
from resift.serve.request import RankingRequest, Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resift.documents import DocumentTemplate
    from resift.serve.request import RankingResult

Texts = str | list[str]
SIDES = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))
"""The names that vLLM has for the two sides of its pairs."""


class ScoreRequest(msgspec.Struct, kw_only=True):
    """POST /score. Two of its sides: one text with each of several, or as many texts on both sides, which are paired in order."""

    model: Name | None = None
    text_1: Texts | None = None
    text_2: Texts | None = None
    queries: Texts | None = None
    documents: Texts | None = None
    items: Texts | None = None
    data_1: Texts | None = None
    data_2: Texts | None = None
    use_activation: bool | None = None
    """false for logits"""
    max_tokens_per_doc: Count | None = None
    instruction: str | None = None
    """put before the query, in place of the prompt that the model declares"""

    def sides(self) -> list[tuple[str, list[str]]]:
        """The texts of the two sides, each with its name. Raises Refusal."""
        names = next((names for names in SIDES if all(getattr(self, name) is not None for name in names)), SIDES[0])
        return [(name, _texts(getattr(self, name), name)) for name in names]

    def pools(self) -> dict[str, list[tuple[int, str]]]:
        """The documents of each distinct query, each with the position of its pair. Raises Refusal."""
        (first, left), (second, right) = self.sides()
        if len(left) == 1:
            left *= len(right)
        if len(left) != len(right):
            raise Refusal("invalid", f"`{first}` has {len(left)} texts and `{second}` {len(right)}; expected one, or as many")
        pools: dict[str, list[tuple[int, str]]] = {}
        for position, (query, document) in enumerate(zip(left, right, strict=True)):
            pools.setdefault(query, []).append((position, document))
        return pools


class Score(msgspec.Struct):
    """The score of one pair."""

    index: int
    score: float
    """the sigmoid of the logit, in [0, 1], unless logits were asked for, or are the server's setting"""
    object: Literal["score"] = "score"


class ScoreUsage(msgspec.Struct):
    """The tokens that were read; none are written."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: None = None


class ScoreResponse(msgspec.Struct):
    """The scores, in the order of the pairs."""

    id: str
    created: int
    """Unix time, in seconds"""
    model: str
    data: list[Score]
    usage: ScoreUsage
    object: Literal["list"] = "list"


def _texts(side: Texts | None, name: str) -> list[str]:
    if side is None:
        raise Refusal("invalid", f"there is no `{name}`; expected text_1 and text_2, or queries and documents")
    if not side:
        raise Refusal("empty", f"`{name}` is empty; expected a text or a list of texts")
    return [side] if isinstance(side, str) else side


def _read(body: ScoreRequest, _: DocumentTemplate) -> list[RankingRequest]:
    return [
        RankingRequest(
            model=body.model,
            query=query,
            documents=[document for _, document in pool],
            instruction=body.instruction,
            document_tokens=body.max_tokens_per_doc,
            plan="full",
        )
        for query, pool in body.pools().items()
    ]


def _write(body: ScoreRequest, answers: Sequence[RankingResult]) -> ScoreResponse:
    scores: dict[int, float] = {}
    for pool, answer in zip(body.pools().values(), answers, strict=True):
        values = answer.logits if body.use_activation is False else answer.relevance
        scores |= {pool[result.index][0]: value for result, value in zip(answer.ranking, values, strict=True)}
    tokens = sum(answer.tokens for answer in answers)
    data = [Score(index, scores[index]) for index in range(len(scores))]
    return ScoreResponse(answers[0].id, int(time.time()), answers[0].model, data, ScoreUsage(tokens, tokens))


SCORE = Api(
    name="vllm-score",
    summary="Score pairs, in the format of vLLM",
    body=ScoreRequest,
    reply=ScoreResponse,
    error=Error,
    count=lambda body: max(len(texts) for _, texts in body.sides()),
    read=_read,
    write=_write,
    refuse=refuse,
    statuses=STATUSES,
    example={
        "text_1": "how do tides work",
        "text_2": ["Bread rises because yeast makes gas.", "The moon's gravity pulls the sea into tides."],
    },
)
