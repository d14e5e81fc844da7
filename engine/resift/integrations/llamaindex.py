"""LlamaIndex (extra: llamaindex): a node postprocessor, on llama-index-core alone.

Reranking what a query engine retrieves:

    index.as_query_engine(similarity_top_k=30, node_postprocessors=[ResiftRerank(top_n=5)])
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from resift.errors import ExtraError, InputError
from resift.ranking import decreasing

try:
    from llama_index.core.callbacks import CBEventType, EventPayload
    from llama_index.core.instrumentation import get_dispatcher
    from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode
    from pydantic import Field, model_validator

    from resift.integrations.adapter import RankingAdapter
except ImportError as error:
    raise ExtraError(
        "resift.integrations.llamaindex needs llama-index-core, which cannot be imported "
        f"({error}): pip install 'resift[llamaindex]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llama_index.core.schema import NodeWithScore, QueryBundle

    from resift.ranking import Ranking
    from resift.reranker import Reranker

RETRIEVAL_SCORE = "retrieval_score"
"""The key of a node's metadata that holds the score it was retrieved with, as in LlamaIndex's own rerankers."""

_dispatcher = get_dispatcher(__name__)


class ResiftRerank(RankingAdapter, BaseNodePostprocessor):  # type: ignore[misc] # llama-index-core is optional
    """Reranks the nodes that a retriever found, in a query engine, a chat engine or by `postprocess_nodes`.

        ResiftRerank(top_n=5)
        ResiftRerank(model="./my-artifact", settings=Settings(threads=2), keep_retrieval_score=False)

    Returns the best nodes, best first, in the order of `Reranker.rerank`, with its scores, on the scale the model declares (the
    embedded model's are logits). A node is read as it is embedded, with its metadata, as LlamaIndex's own rerankers read it.
    """

    top_n: int | None = Field(default=2, ge=1)
    """Most nodes to return; None: all."""
    keep_retrieval_score: bool = True
    """Whether the score a node was retrieved with is kept in `metadata["retrieval_score"]`, which neither the language model nor
    the embedding model is shown."""

    @model_validator(mode="before")  # type: ignore[untyped-decorator] # pydantic comes with llama-index-core
    @classmethod
    def _without_class_name(cls, fields: Any) -> Any:
        """LlamaIndex adds a class_name to what it serializes, and only `from_dict` takes it off again."""
        return {name: value for name, value in fields.items() if name != "class_name"} if isinstance(fields, dict) else fields

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex serializes it under."""
        return "ResiftRerank"

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        """The best of `nodes`, which are not changed. Raises InputError without a query, and otherwise like `Reranker.rerank`."""
        query = _query(query_bundle)
        reranker = self._load()
        with self._reported(nodes, query, reranker) as ranked:
            ranking = reranker.rerank(query.query_str, _texts(nodes), **self._asked())
            ranked.extend(self._ranked(nodes, ranking))
        return ranked

    async def _apostprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        """`_postprocess_nodes` for asyncio; cancelling it drops the pairs that have not started."""
        query = _query(query_bundle)
        reranker = await self._aload()
        with self._reported(nodes, query, reranker) as ranked:
            ranking = await reranker.arerank(query.query_str, _texts(nodes), **self._asked())
            ranked.extend(self._ranked(nodes, ranking))
        return ranked

    def _ranked(self, nodes: list[NodeWithScore], ranking: Ranking) -> list[NodeWithScore]:
        keep = self.keep_retrieval_score
        scores = decreasing([result.score for result in ranking])
        return [_scored(nodes[result.index], score, keep=keep) for result, score in zip(ranking, scores, strict=True)]

    @contextmanager
    def _reported(self, nodes: list[NodeWithScore], query: QueryBundle, reranker: Reranker) -> Iterator[list[NodeWithScore]]:
        """Tells LlamaIndex's dispatcher and callbacks of a reranking, and at its end of the nodes in the list it gives."""
        name = reranker.artifact.manifest.model.id
        top_n = len(nodes) if self.top_n is None else self.top_n
        ranked: list[NodeWithScore] = []
        payload = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: name,
            EventPayload.QUERY_STR: query.query_str,
            EventPayload.TOP_K: top_n,
        }
        _dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=top_n, model_name=name))
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            yield ranked
            event.on_end(payload={EventPayload.NODES: ranked})
        _dispatcher.event(ReRankEndEvent(nodes=ranked))


def _query(query: QueryBundle | None) -> QueryBundle:
    if query is None:
        raise InputError("no query to rank nodes for; give postprocess_nodes a query_str or a query_bundle")
    return query


def _texts(nodes: list[NodeWithScore]) -> list[str]:
    return [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]


def _scored(found: NodeWithScore, score: float, *, keep: bool) -> NodeWithScore:
    node = found.node
    if keep:
        node = node.model_copy(
            update={
                "metadata": {**node.metadata, RETRIEVAL_SCORE: found.score},
                "excluded_embed_metadata_keys": [*node.excluded_embed_metadata_keys, RETRIEVAL_SCORE],
                "excluded_llm_metadata_keys": [*node.excluded_llm_metadata_keys, RETRIEVAL_SCORE],
            }
        )
    return found.model_copy(update={"node": node, "score": score})
