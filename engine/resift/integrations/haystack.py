"""Haystack: a ranker for pipelines (extra: haystack)."""

import asyncio
import dataclasses
import math
import os
from typing import Any, Self

import numpy as np

from resift.errors import ExtraError, InputError
from resift.inputs import check_count
from resift.integrations.fallback import RERANK_ERROR, Fallback, OnError, check_on_error
from resift.integrations.fields import document_of
from resift.process import Lock
from resift.ranking import Ranking, decreasing
from resift.reranker import Reranker
from resift.scoring import activate
from resift.settings import Settings

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ImportError as error:
    raise ExtraError("resift.integrations.haystack needs haystack-ai: pip install 'resift[haystack]'", name="haystack") from error

_loading = Lock()
"""The lock while a model is loaded, so that threads that share a ranker load it once."""


@dataclasses.dataclass(frozen=True)
class ResultSelection:
    """Which documents of a ranking are returned, and the scale of their scores."""

    top_k: int | None
    scale_score: bool | None
    """None: by `Settings.scores`, and True if that is auto"""
    score_threshold: float | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "top_k", check_count("top_k", self.top_k))
        if not isinstance(self.scale_score, bool | None):
            raise TypeError(f"scale_score is {type(self.scale_score).__name__}; expected a bool or None")
        threshold = self.score_threshold
        if threshold is not None and (not isinstance(threshold, int | float) or isinstance(threshold, bool)):
            raise TypeError(f"score_threshold is {type(threshold).__name__}; expected a number or None")
        if threshold is not None and math.isnan(threshold):
            raise InputError("score_threshold is NaN; expected a number, or None for any score")

    def with_overrides(self, **overrides: Any) -> "ResultSelection":
        """A copy with those of the `overrides` that are not None."""
        return dataclasses.replace(self, **{name: value for name, value in overrides.items() if value is not None})

    def apply(self, documents: list[Document], ranking: Ranking, settings: Settings) -> list[Document]:
        """Copies of the best `documents`, best first, with their scores. `ranking`: of the documents in this order."""
        is_scaled = settings.scores != "logit" if self.scale_score is None else self.scale_score
        logits = np.array([result.logit for result in ranking if result.score is not None], np.float32)
        scores: list[float] = activate(logits, "sigmoid" if is_scaled else "identity").tolist()
        if self.score_threshold is None:
            scores = decreasing([*scores, *[None] * (len(ranking) - len(scores))], minimum=0.0 if is_scaled else None)
        ranked = zip(ranking, scores, strict=False)  # with a threshold, documents without a score are dropped
        threshold = -math.inf if self.score_threshold is None else self.score_threshold
        results = [dataclasses.replace(documents[result.index], score=score) for result, score in ranked if score >= threshold]
        return results[: self.top_k]

    def in_order(self, documents: list[Document], reason: str) -> list[Document]:
        """Copies of the first documents, with `reason` in their meta, and the scores that they had."""
        return [dataclasses.replace(each, meta={**each.meta, RERANK_ERROR: reason}) for each in documents[: self.top_k]]


@dataclasses.dataclass(frozen=True)
class Affixes:
    """What the model reads before and after each query and each document."""

    query_prefix: str
    query_suffix: str
    document_prefix: str
    document_suffix: str

    def __post_init__(self) -> None:
        for name, text in dataclasses.asdict(self).items():
            if not isinstance(text, str):
                raise TypeError(f"{name} is {type(text).__name__}; expected a str")

    def query(self, query: str) -> str:
        """The query with its affixes. Raises TypeError for anything but a str."""
        if not isinstance(query, str):
            raise TypeError(f"query is {type(query).__name__}; expected str")
        return f"{self.query_prefix}{query}{self.query_suffix}"

    def document(self, text: str) -> str:
        """The text of a document with its affixes."""
        return f"{self.document_prefix}{text}{self.document_suffix}"


@component
class ResiftRanker:
    """Ranks documents by a cross-encoder's logits, best first: a component for Haystack's Pipeline.

        pipeline.add_component("ranker", ResiftRanker(top_k=5))
        pipeline.connect("retriever.documents", "ranker.documents")

    It takes the parameters of Haystack's SentenceTransformersSimilarityRanker that apply. Haystack loads a pipeline from YAML only
    if it trusts the modules named there: `Pipeline.loads(text, allowed_modules=["resift.integrations.haystack"])`.
    """

    def __init__(  # noqa: PLR0913 - the parameters of Haystack's rankers
        self,
        *,
        model: str | os.PathLike[str] | None = None,
        reranker: Reranker | None = None,
        settings: Settings | None = None,
        top_k: int | None = 10,
        query_prefix: str = "",
        query_suffix: str = "",
        document_prefix: str = "",
        document_suffix: str = "",
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        scale_score: bool | None = None,
        score_threshold: float | None = None,
        plan: str | None = None,
        budget_ms: float | None = None,
        on_error: OnError = "raise",
    ) -> None:
        """`model`: the source for `Reranker.load` (None: the embedded model); `warm_up` loads it, with `settings`.

        `reranker`: a loaded one, instead of both; a ranker with a loaded Reranker cannot be written to YAML.
        `top_k`: the maximum number of documents to return (None: all).
        `query_prefix`, `query_suffix`, `document_prefix`, `document_suffix`: what is put before and after each query and document.
        `meta_fields_to_embed`: meta fields whose values the model reads before the content, joined by `embedding_separator`. With a
        document template in the settings, `{text}` is the text made of all these, and other fields are those of the meta.
        `scale_score`: True gives the sigmoid of the logit, in [0, 1], False the logit itself, and None what `Settings.scores` says,
        or the sigmoid if that is auto. The order is the same.
        `score_threshold`: the minimum score, on that scale, of a returned document (None: any).
        `plan`, `budget_ms`: as for `Reranker.rerank`. Documents that have no score because of them follow with numbers that
        decrease below the last score, or are dropped if there is a threshold.
        `on_error`: what to do if the model cannot be loaded, a reranking fails, or `budget_ms` passes before the documents to be
        returned are scored: "raise" the error, and return a partial ranking at the deadline; or "keep_order", which returns the
        first `top_k` in the order given, with their own scores and the reason in `meta["rerank_error"]`.
        Raises InputError and TypeError for values that cannot be used.
        """
        if reranker is not None and (model is not None or settings is not None):
            raise InputError("a reranker was passed with model or settings; expected either a reranker or those")
        if reranker is not None and not isinstance(reranker, Reranker):
            raise TypeError(f"reranker is {type(reranker).__name__}; expected a Reranker: give a folder or a hub id as model")
        self._selection = ResultSelection(top_k, scale_score, score_threshold)
        if isinstance(meta_fields_to_embed, str):
            raise TypeError(f"meta_fields_to_embed is the str {meta_fields_to_embed!r}; expected a list of field names")
        self.model = None if model is None else os.fspath(model)
        self.settings = settings
        if plan is not None and not isinstance(plan, str):
            raise TypeError(f"plan is {type(plan).__name__}; expected a str, which can be written to YAML")
        check_on_error(on_error)
        self._affixes = Affixes(query_prefix, query_suffix, document_prefix, document_suffix)
        self.plan = plan
        self.budget_ms = budget_ms
        self.on_error = on_error
        self.meta_fields_to_embed = list(meta_fields_to_embed or [])
        self.embedding_separator = embedding_separator
        self._caller_reranker = reranker
        self._loaded = reranker

    def warm_up(self) -> None:
        """Loads the model, once; `run` does so if it was not done before. Raises like `Reranker.load`."""
        self._reranker()

    async def warm_up_async(self) -> None:
        """`warm_up` for asyncio, without blocking the event loop."""
        if self._loaded is None:
            await asyncio.to_thread(self._reranker)

    def close(self) -> None:
        """Frees the model that `warm_up` loaded; a later run loads it again. A Reranker of the caller's stays open."""
        with _loading.hold():
            loaded, self._loaded = self._loaded, self._caller_reranker
        if loaded is not None and loaded is not self._caller_reranker:
            loaded.close()

    def to_dict(self) -> dict[str, Any]:
        """The component as a dictionary, for YAML. Raises InputError if it was made with a loaded Reranker."""
        if self._caller_reranker is not None:
            raise InputError("a ResiftRanker made with a loaded reranker cannot be serialized; make it with model and settings")
        data: dict[str, Any] = default_to_dict(
            self,
            model=self.model,
            settings=None if self.settings is None else dataclasses.asdict(self.settings),
            **dataclasses.asdict(self._selection),
            **dataclasses.asdict(self._affixes),
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
            plan=self.plan,
            budget_ms=self.budget_ms,
            on_error=self.on_error,
        )
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The component that `to_dict` wrote. Raises like the constructor."""
        parameters = dict(data.get("init_parameters", {}))
        if parameters.get("settings") is not None:
            parameters["settings"] = Settings(**parameters["settings"])
        ranker: Self = default_from_dict(cls, {**data, "init_parameters": parameters})
        return ranker

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    def run(
        self,
        query: str,
        documents: list[Document],
        *,
        top_k: int | None = None,
        scale_score: bool | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, list[Document]]:
        """Returns {"documents": copies of the best documents with their new scores, best first}; equal logits keep their order.

        `top_k`, `scale_score` and `score_threshold`: None means the constructor's. Of documents with the same id the one with the
        highest score is ranked, as in Haystack's rankers. A document without content counts as empty. Raises InputError and
        TypeError for values that cannot be used, and otherwise like `Reranker.rerank`.
        """
        selection = self._selection.with_overrides(top_k=top_k, scale_score=scale_score, score_threshold=score_threshold)
        unique = _unique(documents)
        with Fallback(self.on_error) as fallback:
            reranker = self._reranker()
            ranking = reranker.rerank(self._affixes.query(query), self._read(unique, reranker), **self._rerank_options(selection))
            if fallback.accepts(ranking):
                return {"documents": selection.apply(unique, ranking, reranker.settings)}
        return {"documents": selection.in_order(unique, fallback.reason)}

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    async def run_async(
        self,
        query: str,
        documents: list[Document],
        *,
        top_k: int | None = None,
        scale_score: bool | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, list[Document]]:
        """`run` for asyncio, without blocking the event loop; cancelling it drops the pairs that have not started."""
        selection = self._selection.with_overrides(top_k=top_k, scale_score=scale_score, score_threshold=score_threshold)
        unique = _unique(documents)
        with Fallback(self.on_error) as fallback:
            reranker = self._loaded
            if reranker is None:
                reranker = await asyncio.to_thread(self._reranker)
            texts = self._read(unique, reranker)
            ranking = await reranker.arerank(self._affixes.query(query), texts, **self._rerank_options(selection))
            if fallback.accepts(ranking):
                return {"documents": selection.apply(unique, ranking, reranker.settings)}
        return {"documents": selection.in_order(unique, fallback.reason)}

    def _reranker(self) -> Reranker:
        loaded = self._loaded
        if loaded is None:
            with _loading.hold():
                loaded = self._loaded = self._loaded or Reranker.load(self.model, settings=self.settings)
        return loaded

    def _rerank_options(self, selection: ResultSelection) -> dict[str, Any]:
        """The keyword arguments of `Reranker.rerank`."""
        return {"top_k": selection.top_k, "plan": self.plan, "budget_ms": self.budget_ms}

    def _read(self, documents: list[Document], reranker: Reranker) -> list[Any]:
        """What the model reads of each document: the values of its meta fields, then its content, by the document template."""
        read = []
        for document in documents:
            fields = (document.meta.get(name) for name in self.meta_fields_to_embed)
            values = [str(value) for value in fields if value is not None]
            text = self._affixes.document(self.embedding_separator.join([*values, document.content or ""]))
            read.append(document_of(text, document.meta, reranker.settings))
        return read


def _unique(documents: list[Document]) -> list[Document]:
    """The documents without duplicates: of those with the same id the one with the highest score, at the first one's position."""
    best: dict[str, Document] = {}
    for position, document in enumerate(documents):
        if not isinstance(document, Document):
            raise TypeError(f"documents[{position}] is {type(document).__name__}; expected a Haystack Document")
        other = best.get(document.id)
        if other is None or _score(document) > _score(other):
            best[document.id] = document
    return list(best.values())


def _score(document: Document) -> float:
    return -math.inf if document.score is None else document.score
