"""LangChain (extra: langchain): a document compressor and a cross-encoder, on langchain-core alone.

To rerank the documents of a retriever, with langchain-classic:

    ContextualCompressionRetriever(base_retriever=retriever, base_compressor=ResiftReranker(top_n=5))
"""

from __future__ import annotations

from math import inf, nextafter
from typing import TYPE_CHECKING, Any

from resift.errors import ExtraError
from resift.inputs import read_pairs
from resift.integrations.fallback import RERANK_ERROR, Fallback
from resift.integrations.fields import document_of
from resift.ranking import decreasing

try:
    from langchain_core.cross_encoders import BaseCrossEncoder
    from langchain_core.documents import BaseDocumentCompressor
    from pydantic import Field

    from resift.integrations.adapter import Adapter, RankingAdapter
except ImportError as error:
    raise ExtraError(
        "resift.integrations.langchain needs langchain-core 1.2.31 or newer, which cannot be imported "
        f"({error}): pip install 'resift[langchain]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.callbacks import Callbacks
    from langchain_core.documents import Document

    from resift.ranking import Ranking

RELEVANCE_SCORE = "relevance_score"
"""The key of a document's metadata that holds its score; that of an earlier reranker is replaced."""


class ResiftReranker(RankingAdapter, BaseDocumentCompressor):  # type: ignore[misc] # langchain-core is optional
    """Reranks the documents that a retriever found, for ContextualCompressionRetriever or a chain.

        ResiftReranker(top_n=5)
        ResiftReranker(model="./my-artifact", settings=Settings(threads=2), score_threshold=0.5)

    Returns copies of the best documents, best first, in the order of `Reranker.rerank`, each with its score in
    `metadata["relevance_score"]`, on the scale that the model declares (the embedded model's scores are logits). The model reads
    the text of a document. With a document template in the settings, `{text}` is that text, and other fields are those of the
    metadata.
    """

    top_n: int | None = Field(default=3, ge=1)
    """Maximum number of documents; None: all."""
    score_threshold: float | None = Field(default=None, allow_inf_nan=False)
    """Documents with a lower score, or with none because of a plan or a budget, are dropped. Without a threshold, documents without
    a score follow with numbers that decrease below the last score. Documents in the order given, by `on_error`, have no score, and
    none of them is dropped."""

    def compress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,  # noqa: ARG002 - there is no callback for rerankers
    ) -> list[Document]:
        """The best of `documents`, which are not changed. Raises like `Reranker.load` and `Reranker.rerank`."""
        with Fallback(self.on_error) as fallback:
            ranking = self._load().rerank(query, self._read(documents), **self._rerank_options())
            if fallback.accepts(ranking):
                return self._select(documents, ranking)
        return self._in_order(documents, fallback.reason)

    async def acompress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,  # noqa: ARG002
    ) -> list[Document]:
        """`compress_documents` for asyncio; cancelling it drops the pairs that have not started."""
        with Fallback(self.on_error) as fallback:
            ranking = await (await self._aload()).arerank(query, self._read(documents), **self._rerank_options())
            if fallback.accepts(ranking):
                return self._select(documents, ranking)
        return self._in_order(documents, fallback.reason)

    def _read(self, documents: Sequence[Document]) -> list[Any]:
        """What the model reads of each document."""
        return [document_of(document.page_content, document.metadata, self.settings) for document in documents]

    def _select(self, documents: Sequence[Document], ranking: Ranking) -> list[Document]:
        scores = decreasing([result.score for result in ranking])
        threshold = self.score_threshold
        return [
            _with_metadata(documents[result.index], RELEVANCE_SCORE, score)
            for result, score in zip(ranking, scores, strict=True)
            if threshold is None or (result.score is not None and result.score >= threshold)
        ]

    def _in_order(self, documents: Sequence[Document], reason: str) -> list[Document]:
        return [_with_metadata(document, RERANK_ERROR, reason) for document in documents[: self.top_n]]


class ResiftCrossEncoder(Adapter, BaseCrossEncoder):  # type: ignore[misc] # langchain-core is optional
    """Scores pairs, for the CrossEncoderReranker of langchain-classic 1.0.4 or newer.

        CrossEncoderReranker(model=ResiftCrossEncoder(), top_n=5)

    CrossEncoderReranker drops the scores and has no threshold: ResiftReranker does the same in one step, and keeps them.
    """

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """The scores of (query, document) pairs, in their order, on the scale that the model declares.

        Sorting the documents of a query by them gives the order of `Reranker.rerank`: where a sigmoid rounds different logits to
        one number, the lower one gets the next smaller float. Raises TypeError for anything but pairs of str, and otherwise like
        `Reranker.load` and `Reranker.rerank`.
        """
        pairs = read_pairs(text_pairs)
        positions: dict[str, list[int]] = {}
        for position, (query, _) in enumerate(pairs):
            positions.setdefault(query, []).append(position)
        pools = [[pairs[position][1] for position in pool] for pool in positions.values()]
        scores = [0.0] * len(pairs)
        for pool, ranking in zip(positions.values(), self._load().rerank_many(list(positions), pools, plan="full"), strict=True):
            for result, score in zip(ranking, distinct_scores(ranking), strict=True):
                scores[pool[result.index]] = score
        return scores


def distinct_scores(ranking: Ranking) -> list[float]:
    """The scores of a ranking, best first, equal only where the logits are."""
    scores: list[float] = []
    for position, result in enumerate(ranking):
        score = result.score
        assert score is not None  # the full model scored each document
        if scores and score >= scores[-1]:
            score = scores[-1] if result.logit == ranking[position - 1].logit else nextafter(scores[-1], -inf)
        scores.append(score)
    return scores


def _with_metadata(document: Document, key: str, value: float | str) -> Document:
    return document.model_copy(update={"metadata": {**document.metadata, key: value}})
