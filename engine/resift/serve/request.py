"""The request that every API is read into, its result, and the reasons for which it may be refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from resift.errors import one_line

if TYPE_CHECKING:
    from resift.ranking import Ranking

Reason = Literal[
    "syntax",  # the body is not JSON in UTF-8
    "invalid",  # a field is missing, of another type or out of range
    "empty",  # no documents
    "media type",
    "slow",  # the body took too long to arrive
    "body size",
    "documents",  # too many of them
    "length",  # too many characters or tokens, or a pair that must not be cut
    "model",  # no such model
    "key",
    "busy",
    "late",  # no answer before the deadline
    "stopping",
    "failed",  # the model failed
    "artifact",  # the model's files are damaged or gone
]


class Refusal(Exception):  # noqa: N818 - it is not an error of the server
    """The refusal of a request; each API writes it with its own status and fields."""

    def __init__(self, reason: Reason, message: str, *, retry_after: int | None = None) -> None:
        """`retry_after`: seconds after which the client may try again."""
        super().__init__(one_line(message))
        self.reason: Reason = reason
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingRequest:
    """A client's request, the same for every API."""

    model: str | None
    query: str
    documents: list[str]
    instruction: str | None = None
    """put before the query, in place of the prompt that the model declares; None: that prompt"""
    top_n: int | None = None
    document_tokens: int | None = None
    """maximum number of tokens read of a document; None: as many as the model takes"""
    truncate: bool = True
    """False: a pair that is too long is refused, not cut"""
    plan: str | None = None
    """the cascade that scores the documents; None: that of the engine's settings"""
    threshold: float | None = None
    """the probability that a document must have to be returned; None: all are"""
    budget_ms: float | None = None
    """milliseconds after which the ranking is returned with the scores that exist by then; None: once all documents are scored"""

    @property
    def characters(self) -> int:
        """Characters of the instruction, the query and all documents."""
        return len(self.instruction or "") + len(self.query) + sum(map(len, self.documents))


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingResult:
    """The engine's result for a request."""

    id: str
    """id of the request"""
    model: str
    """the true name of the model that ranked"""
    ranking: Ranking
    """best first, cut to `top_n`"""
    relevance: list[float]
    """for each result of the ranking: the sigmoid of its logit, in [0, 1]; decreasing numbers for results that the full model did
    not score"""
    logits: list[float]
    """for each result of the ranking: its logit; decreasing numbers for results that the full model did not score"""
    tokens: int
    """tokens that were read, over all pairs"""
    documents_cut: int
    """number of the request's documents that were cut"""
    tokenize_seconds: float
    """time from admission until all pairs were tokenized"""
    queue_seconds: float
    """time that the pairs waited for a worker"""
    run_seconds: float
    """time from then until all pairs had run"""
