"""The one request all APIs are read into, what it is answered with, and why it may be refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

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
    "tokenizer",  # it cannot encode a text
    "model",  # no such model
    "key",
    "busy",
    "late",  # no answer before the deadline
    "stopping",
    "failed",
]


class Refusal(Exception):  # noqa: N818 - no error of the server
    """A request that is not answered; each API words it in its own status and shape."""

    def __init__(self, reason: Reason, message: str, *, retry_after: int | None = None) -> None:
        """`retry_after`: seconds after which it is worth asking again."""
        super().__init__(message)
        self.reason: Reason = reason
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asks, whatever API it speaks."""

    model: str | None
    query: str
    documents: list[str]
    top_n: int | None = None
    document_tokens: int | None = None
    """most tokens read of a document; None: what the model takes"""
    truncate: bool = True
    """False: a pair that is too long is refused, not cut"""
    plan: str | None = None
    """how the documents are worked through; None: as the engine's settings say"""
    budget_ms: float | None = None
    """milliseconds after which the answer is what was read by then; None: it waits for all"""

    @property
    def characters(self) -> int:
        """Of the query and all documents."""
        return len(self.query) + sum(map(len, self.documents))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the engine found."""

    id: str
    """of the request"""
    model: str
    """the true name of the model that ranked"""
    ranking: Ranking
    """best first, cut to `top_n`"""
    relevance: list[float]
    """for each result of the ranking: the sigmoid of its logit, in [0, 1]; below the last one read in full, decreasing numbers"""
    logits: list[float]
    """for each result of the ranking: its logit; below the last one read in full, decreasing numbers"""
    tokens: int
    """read, over all pairs"""
    cut: int
    """documents of the request that were cut"""
    tokenized: float
    """seconds from admission until all pairs were tokenized"""
    waited: float
    """seconds the pairs waited for a worker"""
    ran: float
    """seconds from then until all had run"""
