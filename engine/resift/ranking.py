"""Ranking: what rerank() returns."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from resift.calibration import check_threshold
from resift.documents import DEFAULT, Document, document_id, plain
from resift.inputs import check_count
from resift.states.document_states import StatesCounts  # noqa: TC001 - pydantic reads the types of a Ranking

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resift.inputs import Candidates


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Scored:
    """The result of `Reranker.submit`: columns in the caller's order."""

    logits: NDArray[np.float32]
    """float32[n]: what a ranking is sorted by, from the last graph that scored the pair; different graphs do not compare"""
    scores: NDArray[np.float32]
    """float32[n]: on the scale of `Settings.scores`; NaN for pairs of which the full graph did not score all windows"""
    tokens_cut: NDArray[np.int32]
    """int32[n]: tokens cut from the end of each document because the pair was too long, or too long for all its windows"""
    tokens_cut_at_least: NDArray[np.bool_]
    """bool[n]: whether `tokens_cut` is a lower bound, because the document was too long to be counted in full"""
    query_tokens_cut: int
    """tokens cut from the end of the query; the largest number if there are several queries"""
    lengths: NDArray[np.int32]
    """int32[n]: tokens of each encoded pair, special tokens included; those that two windows share count once"""
    waited: float = 0.0
    """seconds from being queued until the first pair began to run"""
    graphs: tuple[str, ...] = ("full",)
    """names of the graphs of the call's stages, in their order"""
    stages_done: NDArray[np.int8] | None = None
    """int8[n]: how many of `graphs` scored all windows of each pair; its logit is from the last of these. None: all graphs did.
    With 0 the logit is from the windows for which the first graph had time, or NaN if there was none"""
    windows: NDArray[np.int32] | None = None
    """int32[n]: windows of each document that were scored by the graph its logit is from; None: Settings.windows is off"""
    window: NDArray[np.int32] | None = None
    """int32[n]: number, from 0, of the window that the logit is from (of equal ones, the first); None: Settings.windows is off"""
    probabilities: NDArray[np.float64] | None = None
    """float64[n]: the probability that each document is relevant, NaN where its score is; None: Settings.calibration is None"""
    outputs: NDArray[np.float32] | None = None
    """float32[n, labels]: what the last stage's graph returned; NaN for pairs that it did not score, None if it scored none"""
    states: StatesCounts | None = None
    """how many of the documents that a split graph read were prepared, in memory or new (equal ones, and those of which equal
    tokens are read, count once); None: none read them"""

    def select(self, positions: Sequence[int]) -> Scored:
        """The rows at `positions` of every column."""
        columns: dict[str, Any] = {
            field.name: column[positions] for field in fields(self) if isinstance(column := getattr(self, field.name), np.ndarray)
        }
        return replace(self, **columns)

    def to_dict(self) -> dict[str, Any]:
        """Its fields as JSON has them: a list for each column, null for a number that is missing."""
        return {**{field.name: plain(getattr(self, field.name)) for field in fields(self)}, "states": _mapping(self.states)}


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One document of a ranking."""

    index: int
    """its position in the caller's list, from 0"""
    score: float | None
    """on the scale of `Settings.scores`: a logit, or a number in [0, 1]; None if the full graph did not score all windows of the
    document, which happens only with a plan named by the caller or with a deadline"""
    logit: float | None
    """from the graph named by `scored_by`; None if no graph scored the document"""
    document: Document = field(hash=False)
    """the caller's own"""
    tokens_cut: int
    """tokens cut from the end of the document because the pair was too long, or too long for all its windows"""
    tokens_cut_at_least: bool = False
    """whether `tokens_cut` is a lower bound: of a text of more than 100,000 characters not all tokens are counted"""
    scored_by: str | None = "full"
    """name of the last graph that scored all its windows, or of the first graph if time ran out in between; None if none did"""
    windows: int = 1
    """number of its windows that `scored_by` scored: all, unless time ran out; above 1 only with `Settings.windows`"""
    window: int = 0
    """number, from 0, of the window with the largest logit (of equal ones, the first), which is the document's logit"""
    probability: float | None = None
    """that the document is relevant, by Settings.calibration; None without one, and where the score is None"""
    text: str = field(default="", repr=False)
    """what the model read of the document: a str itself; of a mapping, what `Settings.document_template` says"""

    def __post_init__(self) -> None:
        if isinstance(self.document, str):
            object.__setattr__(self, "text", self.document)

    @property
    def id(self) -> str | int | None:
        """The id of a document that is a mapping: its first of `id`, `_id`, `docid` and `doc_id`; None for a str."""
        return document_id(self.document)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it, with the document as the caller gave it and its id, but not `text`."""
        columns = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "text"}
        row: dict[str, Any] = plain({"index": self.index, "id": self.id, **columns})
        return row


@dataclass(frozen=True, slots=True)
class Ranking(Sequence[RankedDocument]):
    """Ranked documents, best first; equal logits keep the caller's order.

    Documents that the last graph of a plan scored come first, then those that only the graph before it scored, and so on, each
    group by the logits of its graph.
    """

    results: tuple[RankedDocument, ...]
    query_tokens_cut: int = 0
    """tokens cut from the end of the query"""
    windowed: bool = False
    """whether documents may have had several windows"""
    calibrated: bool = False
    """whether documents that the full graph scored have a probability"""
    without_score: int = 0
    """number of documents of the pool, whether they are among the results or not, that the full graph did not score; they have no
    probability, and never pass a threshold"""
    states: StatesCounts | None = field(default=None, compare=False)
    """how many of the pool's documents that a split graph read were prepared, in memory or new; see `Scored.states`"""

    @classmethod
    def of(
        cls,
        documents: Sequence[Document],
        scored: Scored,
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        texts: Sequence[str] | None = None,
    ) -> Ranking:
        """Ranks `documents` by what `Reranker.submit` returned for them, best first, and keeps the best `top_k` (None: all).

        `threshold`: only documents whose probability is that or more. `texts`: what the model read of each document, as from
        `Reranker.texts`; None: what it reads without a template in the Settings. Raises TypeError and InputError for documents, a
        `top_k` or a `threshold` that cannot be used.
        """
        top_k = check_count("top_k", top_k)
        check_threshold(threshold, is_calibrated=scored.probabilities is not None)
        given = list(documents)
        count, graphs = len(scored.logits), scored.graphs
        probabilities = np.full(count, np.nan) if scored.probabilities is None else scored.probabilities
        order = best_first(scored.logits, scored.stages_done)
        if threshold is not None:
            order = order[probabilities[order] >= threshold]  # a NaN is not
        order = order[:top_k]
        done = len(graphs) if scored.stages_done is None else scored.stages_done
        stages = np.where(np.isnan(scored.logits), 0, np.maximum(1, done))
        windows = np.ones(count, np.int32) if scored.windows is None else scored.windows
        window = np.zeros(count, np.int32) if scored.window is None else scored.window
        columns = (
            scored.scores,
            scored.logits,
            scored.tokens_cut,
            scored.tokens_cut_at_least,
            stages,
            windows,
            window,
            probabilities,
        )
        rows = zip(order.tolist(), *(column[order].tolist() for column in columns), strict=True)
        return cls(
            tuple(
                RankedDocument(
                    index,
                    _or_none(score),
                    _or_none(logit),
                    given[index],
                    cut,
                    bound,
                    graphs[stage - 1] if stage else None,
                    windows_read,
                    best_window,
                    _or_none(probability),
                    texts[index] if texts is not None else DEFAULT.text(given[index], f"documents[{index}]"),
                )
                for index, score, logit, cut, bound, stage, windows_read, best_window, probability in rows
            ),
            scored.query_tokens_cut,
            scored.windows is not None,
            scored.probabilities is not None,
            int(np.isnan(scored.scores).sum()),
            scored.states,
        )

    def __len__(self) -> int:
        return len(self.results)

    @overload
    def __getitem__(self, index: int) -> RankedDocument: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[RankedDocument, ...]: ...
    def __getitem__(self, index: int | slice) -> RankedDocument | tuple[RankedDocument, ...]:
        return self.results[index]

    def to_list(self) -> list[dict[str, Any]]:
        """Its results as JSON has them, best first; see `RankedDocument.to_dict`."""
        return [result.to_dict() for result in self.results]

    def to_dict(self) -> dict[str, Any]:
        """The ranking as JSON has it: no NaN, no number or array of numpy's, no text without a UTF-8 form."""
        head = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**head, "results": self.to_list(), "states": _mapping(self.states)}

    def to_json(self) -> str:
        """`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)


def rank(pools: Sequence[Candidates], scored: Sequence[Scored], top_k: int | None, threshold: float | None = None) -> list[Ranking]:
    """The Ranking of each of the pools, whose candidates were scored so."""
    return [
        Ranking.of(pool.originals, each, top_k=top_k, threshold=threshold, texts=pool.documents)
        for pool, each in zip(pools, scored, strict=True)
    ]


def best_first(logits: NDArray[np.float32], stages_done: NDArray[np.int8] | None) -> NDArray[np.intp]:
    """intp[n]: positions of candidates by `Scored.stages_done`, most first, then by logit, then in the caller's order.

    A NaN, the logit of a candidate that no stage scored, comes last.
    """
    if stages_done is None:
        return np.argsort(-logits, kind="stable")
    return np.lexsort((-logits, -stages_done))


def decreasing(values: Sequence[float | None], *, minimum: float | None = None) -> list[float]:
    """`values`, best first, with each None at their end replaced by a number, for formats that need one for each result.

    The numbers decrease below the last value that is not None, by 1 each. With `minimum`, the lower end of the scale, they are
    evenly spaced above it, and start from 1 if all values are None.
    """
    numbers = [value for value in values if value is not None]
    missing = len(values) - len(numbers)
    start = numbers[-1] if numbers else 0.0 if minimum is None else 1.0
    if minimum is not None:
        return numbers + [minimum + (start - minimum) * (missing - number) / (missing + 1) for number in range(missing)]
    for _ in range(missing):
        start = min(start - 1.0, math.nextafter(start, -math.inf))
        numbers.append(start)
    return numbers


def _mapping(counts: StatesCounts | None) -> dict[str, int] | None:
    return None if counts is None else counts._asdict()


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
