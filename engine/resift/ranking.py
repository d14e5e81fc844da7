"""Ranking: what rerank() answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What `Reranker.submit` answers: columns in the caller's order."""

    logits: NDArray[np.float32]
    """float32[n]: what a ranking goes by"""
    tokens_cut: NDArray[np.int32]
    """int32[n]: tokens at a document's end that the model did not read, as the pair was too long"""
    tokens_cut_at_least: NDArray[np.bool_]
    """bool[n]: documents of which more than `tokens_cut` may have been cut, as they are too long to be counted to their end"""
    query_tokens_cut: int = 0
    """tokens at the query's end that the model did not read (the most, where there are several queries)"""


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One document and its place."""

    index: int
    """its position in the caller's list, from 0"""
    score: float
    """on the scale the model declares: a logit, or a probability in [0, 1]"""
    logit: float
    """what the ranking goes by"""
    document: str
    tokens_cut: int
    """tokens at the document's end that the model did not read, as the pair was too long"""
    tokens_cut_at_least: bool = False
    """whether more than `tokens_cut` may have been cut: they are counted in the first 100,000 characters only"""


@dataclass(frozen=True, slots=True)
class Ranking(Sequence[RankedDocument]):
    """Ranked documents, best first; equal logits keep the caller's order."""

    results: tuple[RankedDocument, ...]
    query_tokens_cut: int = 0
    """tokens at the query's end that the model did not read"""

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

        `at_least`, bool[n], says of which documents `tokens_cut` is a lower bound; None for exact counts.
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
