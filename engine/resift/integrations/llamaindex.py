"""LlamaIndex (extra: llamaindex): a node postprocessor, on llama-index-core alone.

To rerank the nodes of a query engine:

    index.as_query_engine(similarity_top_k=30, node_postprocessors=[ResiftRerank(top_n=5)])
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from resift.errors import ExtraError, InputError
from resift.integrations.fallback import RERANK_ERROR, Fallback
from resift.integrations.fields import document_of, has_template
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
"""The key of a node's metadata that holds the retriever's score, as in LlamaIndex's own rerankers."""

_dispatcher = get_dispatcher(__name__)


class ResiftRerank(RankingAdapter, BaseNodePostprocessor):  # type: ignore[misc] # llama-index-core is optional
    """Reranks the nodes that a retriever found, in a query engine, a chat engine or by `postprocess_nodes`.

        ResiftRerank(top_n=5)
        ResiftRerank(model="./my-artifact", settings=Settings(threads=2), keep_retrieval_score=False)

    Returns the best nodes, best first, in the order of `Reranker.rerank`, with its scores, on the scale that the model declares
    (the embedded model's scores are logits). The model reads a node as it is embedded, with its metadata, as in LlamaIndex's own
    rerankers. With a document template in the settings, `{text}` is the node's text, and other fields are those of its metadata.
    """

    top_n: int | None = Field(default=2, ge=1)
    """Maximum number of nodes; None: all."""
    keep_retrieval_score: bool = True
    """Whether `metadata["retrieval_score"]` holds the retriever's score of a node; neither the language model nor the embedding
    model reads this key."""

    @model_validator(mode="before")  # type: ignore[untyped-decorator] # pydantic comes with llama-index-core
    @classmethod
    def _without_class_name(cls, fields: Any) -> Any:
        """Removes the class_name that LlamaIndex adds when it serializes, and that only `from_dict` removes."""
        return {name: value for name, value in fields.items() if name != "class_name"} if isinstance(fields, dict) else fields

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex serializes it."""
        return "ResiftRerank"

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        """The best of `nodes`, which are not changed. Raises InputError without a query, and otherwise like `Reranker.rerank`."""
        query = _query(query_bundle)
        with Fallback(self.on_error) as fallback:
            reranker = self._load()
            with self._report_events(nodes, query, reranker) as ranked:
                ranking = reranker.rerank(query.query_str, self._read(nodes), **self._rerank_options())
                ranked.extend(self._ranked(nodes, ranking, fallback))
            return ranked
        return self._in_order(nodes, fallback.reason)

    async def _apostprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        """`_postprocess_nodes` for asyncio; cancelling it drops the pairs that have not started."""
        query = _query(query_bundle)
        with Fallback(self.on_error) as fallback:
            reranker = await self._aload()
            with self._report_events(nodes, query, reranker) as ranked:
                ranking = await reranker.arerank(query.query_str, self._read(nodes), **self._rerank_options())
                ranked.extend(self._ranked(nodes, ranking, fallback))
            return ranked
        return self._in_order(nodes, fallback.reason)

    def _read(self, nodes: list[NodeWithScore]) -> list[Any]:
        """What the model reads of each node."""
        mode = MetadataMode.NONE if has_template(self.settings) else MetadataMode.EMBED
        return [document_of(each.node.get_content(metadata_mode=mode), each.node.metadata, self.settings) for each in nodes]

    def _ranked(self, nodes: list[NodeWithScore], ranking: Ranking, fallback: Fallback) -> list[NodeWithScore]:
        """The nodes of the ranking with their scores, or, if `fallback` does not accept it, in the order given."""
        if not fallback.accepts(ranking):
            return self._in_order(nodes, fallback.reason)
        ranked = zip((nodes[result.index] for result in ranking), decreasing([result.score for result in ranking]), strict=True)
        return [_copy(node, score, {RETRIEVAL_SCORE: node.score} if self.keep_retrieval_score else {}) for node, score in ranked]

    def _in_order(self, nodes: list[NodeWithScore], reason: str) -> list[NodeWithScore]:
        return [_copy(node, node.score, {RERANK_ERROR: reason}) for node in nodes[: self.top_n]]

    @contextmanager
    def _report_events(self, nodes: list[NodeWithScore], query: QueryBundle, reranker: Reranker) -> Iterator[list[NodeWithScore]]:
        """Reports a reranking to LlamaIndex's dispatcher and callbacks.

        The caller fills the list that is yielded with the ranked nodes; they are reported at the end.
        """
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


def _copy(retrieved: NodeWithScore, score: float | None, metadata: dict[str, Any]) -> NodeWithScore:
    """A copy with the score and further metadata, which neither the language model nor the embedding model reads."""
    node = retrieved.node
    if metadata:
        node = node.model_copy(
            update={
                "metadata": {**node.metadata, **metadata},
                "excluded_embed_metadata_keys": [*node.excluded_embed_metadata_keys, *metadata],
                "excluded_llm_metadata_keys": [*node.excluded_llm_metadata_keys, *metadata],
            }
        )
    return retrieved.model_copy(update={"node": node, "score": score})
