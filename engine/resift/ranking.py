"""Ranking: what rerank() returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, overload

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The result of `Reranker.submit`: columns in the caller's order."""

    logits: NDArray[np.float32]
    """float32[n]: what a ranking is sorted by"""
    tokens_cut: NDArray[np.int32]
    """int32[n]: tokens cut from the end of each document because the pair was too long"""
    tokens_cut_at_least: NDArray[np.bool_]
    """bool[n]: whether `tokens_cut` is a lower bound, as the document was too long to be counted in full"""
    query_tokens_cut: int = 0
    """tokens cut from the end of the query (of several queries, the largest count)"""
    lengths: NDArray[np.int32] = field(kw_only=True)
    """int32[n]: tokens of each pair that were read, special tokens included"""
    waited: float = field(default=0.0, kw_only=True)
    """seconds from being queued until the first pair began to run"""
    outputs: NDArray[np.float32] | None = field(default=None, kw_only=True)
    """float32[n, labels]: what the model returned, from which `logits` are made"""


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One document of a ranking."""

    index: int
    """its position in the caller's list, from 0"""
    score: float
    """on the scale the model declares: a logit, or a probability in [0, 1]"""
    logit: float
    """what the ranking is sorted by"""
    document: str
    tokens_cut: int
    """tokens cut from the end of the document because the pair was too long"""
    tokens_cut_at_least: bool = False
    """whether `tokens_cut` is a lower bound: of a text of more than 100,000 characters not all tokens are counted"""


@dataclass(frozen=True, slots=True)
class Ranking(Sequence[RankedDocument]):
    """Ranked documents, best first; equal logits keep the caller's order."""

    results: tuple[RankedDocument, ...]
    query_tokens_cut: int = 0
    """tokens cut from the end of the query"""

    @classmethod
    def from_logits(  # noqa: PLR0913 - one column each
        cls,
        documents: Sequence[str],
        logits: NDArray[np.float32],
        scores: NDArray[np.float32],
        tokens_cut: NDArray[np.int32],
        *,
        at_least: NDArray[np.bool_] | None = None,
        query_tokens_cut: int = 0,
        top_k: int | None = None,
    ) -> Ranking:
        """Ranks `documents` by `logits`, both of length n and in the caller's order, and keeps the best `top_k`.

        `at_least`, bool[n], marks documents whose `tokens_cut` is a lower bound; None: all counts are exact.
        """
        order = np.argsort(-logits, kind="stable")[:top_k]
        bounds = np.zeros(len(logits), np.bool_) if at_least is None else at_least
        columns = zip(*(column[order].tolist() for column in (scores, logits, tokens_cut, bounds)), strict=True)
        return cls(
            tuple(
                RankedDocument(index, score, logit, documents[index], cut, bound)
                for index, (score, logit, cut, bound) in zip(order.tolist(), columns, strict=True)
            ),
            query_tokens_cut,
        )

    def __len__(self) -> int:
        return len(self.results)

    @overload
    def __getitem__(self, index: int) -> RankedDocument: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[RankedDocument, ...]: ...
    def __getitem__(self, index: int | slice) -> RankedDocument | tuple[RankedDocument, ...]:
        return self.results[index]
