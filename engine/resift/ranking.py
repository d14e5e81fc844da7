"""Ranking: what rerank() returns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

from resift.inputs import check_count

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Scored:
    """The result of `Reranker.submit`: columns in the caller's order."""

    logits: NDArray[np.float32]
    """float32[n]: what a ranking is sorted by, of the graph that read the pair last; those of different graphs do not compare"""
    scores: NDArray[np.float32]
    """float32[n]: on the scale the model declares; NaN for pairs that the full graph did not read in all their windows"""
    tokens_cut: NDArray[np.int32]
    """int32[n]: tokens cut from the end of each document because the pair was too long, or too long for all its windows"""
    tokens_cut_at_least: NDArray[np.bool_]
    """bool[n]: whether `tokens_cut` is a lower bound, as the document was too long to be counted in full"""
    query_tokens_cut: int
    """tokens cut from the end of the query (of several queries, the largest count)"""
    lengths: NDArray[np.int32]
    """int32[n]: tokens of each pair that were read, special tokens included; those that two windows share count once"""
    waited: float = 0.0
    """seconds from being queued until the first pair began to run"""
    graphs: tuple[str, ...] = ("full",)
    """names of the graphs of the call's stages"""
    read: NDArray[np.int8] | None = None
    """int8[n]: how many of `graphs` read each pair, in all its windows: its logit is that of the last of them; None: all of them.
    Without any, it is NaN, or that of the windows which the first graph had time for"""
    windows: NDArray[np.int32] | None = None
    """int32[n]: windows of each document that were read by the graph whose logit it has; None: Settings.windows is off"""
    window: NDArray[np.int32] | None = None
    """int32[n]: the number, from 0, of the window whose logit it is (of equal ones, the first); None: Settings.windows is off"""
    outputs: NDArray[np.float32] | None = None
    """float32[n, labels]: what the last stage's graph returned; NaN for pairs that it did not read, None if it read none"""


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One document of a ranking."""

    index: int
    """its position in the caller's list, from 0"""
    score: float | None
    """on the scale the model declares: a logit, or a probability in [0, 1]; None unless the full graph read it, in all its windows,
    which only a plan named by the caller or a deadline leaves out"""
    logit: float | None
    """that of the graph named by `scored_by`; None where none read it"""
    document: str
    tokens_cut: int
    """tokens cut from the end of the document because the pair was too long, or too long for all its windows"""
    tokens_cut_at_least: bool = False
    """whether `tokens_cut` is a lower bound: of a text of more than 100,000 characters not all tokens are counted"""
    scored_by: str | None = "full"
    """name of the last graph that read it in all its windows, or of the first if it had time for some; None where none did"""
    windows: int = 1
    """windows in which `scored_by` read it, above 1 only with `Settings.windows`; all that it has, unless time ran out"""
    window: int = 0
    """number, from 0, of the window whose logit it is: that with the largest, of equal ones the first"""


@dataclass(frozen=True, slots=True)
class Ranking(Sequence[RankedDocument]):
    """Ranked documents, best first; equal logits keep the caller's order.

    Those that the last graph of a plan read come first, then those of the graph before it, and so on, by its own logits.
    """

    results: tuple[RankedDocument, ...]
    query_tokens_cut: int = 0
    """tokens cut from the end of the query"""
    windowed: bool = False
    """whether documents may have been read in several windows"""

    @classmethod
    def of(cls, documents: Sequence[str], scored: Scored, *, top_k: int | None = None) -> Ranking:
        """Ranks `documents` by what `Reranker.submit` returned for them, best first, and keeps the best `top_k` (None: all).

        Raises TypeError and InputError for a `top_k` that cannot be used.
        """
        check_count("top_k", top_k)
        count, graphs = len(scored.logits), scored.graphs
        order = best_first(scored.logits, scored.read)[:top_k]
        stages = np.where(np.isnan(scored.logits), 0, np.maximum(1, len(graphs) if scored.read is None else scored.read))
        windows = np.ones(count, np.int32) if scored.windows is None else scored.windows
        window = np.zeros(count, np.int32) if scored.window is None else scored.window
        given = (scored.scores, scored.logits, scored.tokens_cut, scored.tokens_cut_at_least, stages, windows, window)
        columns = zip(*(column[order].tolist() for column in given), strict=True)
        return cls(
            tuple(
                RankedDocument(
                    index, _known(score), _known(logit), documents[index], cut, bound, graphs[last - 1] if last else None, *found
                )
                for index, (score, logit, cut, bound, last, *found) in zip(order.tolist(), columns, strict=True)
            ),
            scored.query_tokens_cut,
            scored.windows is not None,
        )

    def __len__(self) -> int:
        return len(self.results)

    @overload
    def __getitem__(self, index: int) -> RankedDocument: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[RankedDocument, ...]: ...
    def __getitem__(self, index: int | slice) -> RankedDocument | tuple[RankedDocument, ...]:
        return self.results[index]


def best_first(logits: NDArray[np.float32], read: NDArray[np.int8] | None) -> NDArray[np.intp]:
    """intp[n]: positions of candidates, those that most stages `read` first (`Scored.read`), then by logit, then as given.

    A logit that is NaN, as no stage read the candidate, comes last.
    """
    if read is None:
        return np.argsort(-logits, kind="stable")
    return np.lexsort((-logits, -read))


def decreasing(values: Sequence[float | None], *, least: float | None = None) -> list[float]:
    """A number for each result, best first, for formats that need one: `values`, of which the last may be None, with those replaced
    by numbers that strictly decrease below the last one known.

    They are 1 apart; with `least`, the lower end of the scale, they are evenly spaced above it (from 1 without any value known).
    """
    known = [value for value in values if value is not None]
    missing = len(values) - len(known)
    start = known[-1] if known else 0.0 if least is None else 1.0
    if least is not None:
        return known + [least + (start - least) * (missing - number) / (missing + 1) for number in range(missing)]
    for _ in range(missing):
        start = min(start - 1.0, math.nextafter(start, -math.inf))
        known.append(start)
    return known


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
