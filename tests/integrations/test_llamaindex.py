"""The adapter to LlamaIndex, in LlamaIndex's own query engine, retrievers, events and serialization."""

from __future__ import annotations

import asyncio
import copy
import pickle
from pathlib import Path

import pytest

pytest.importorskip("llama_index.core")

from llama_index.core import MockEmbedding, QueryBundle, VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from pydantic import ValidationError

from resift import ArtifactError, ClosedError, InputError, Reranker, Settings
from resift.integrations.llamaindex import ResiftRerank

QUERY = "why are there two high tides a day"
TEXTS = [
    "Bread rises because yeast makes gas.",
    "The moon pulls the sea into a bulge on either side of the earth.",
    "A tide table lists the times of high and low water for a harbour.",
    "As the earth turns, a coast passes through both bulges in a day.",
    "A barometer measures the pressure of the air.",
    "Salt " * 400,
]


class Found(BaseRetriever):
    """A retriever that finds the same nodes for every query."""

    def __init__(self, found):
        self.found = found
        super().__init__()

    def _retrieve(self, query_bundle):
        return self.found


@pytest.fixture
def nodes():
    return [
        NodeWithScore(
            node=TextNode(
                id_=f"n{number}",
                text=text,
                metadata={"title": f"Page {number}", "file": f"{number}.txt"},
                excluded_embed_metadata_keys=["file"],
            ),
            score=0.5 - number / 100,
        )
        for number, text in enumerate(TEXTS)
    ]


@pytest.fixture
def expected(reranker):
    """The ranking of the texts as LlamaIndex embeds them."""
    return reranker.rerank(QUERY, [f"title: Page {number}\n\n{text}" for number, text in enumerate(TEXTS)])


def ids(nodes) -> list[str]:
    return [node.node_id for node in nodes]


def best(ranking, count=None) -> list[str]:
    return [f"n{result.index}" for result in ranking[:count]]


def engine(retriever, *postprocessors, **options):
    synthesizer = get_response_synthesizer(llm=MockLLM(), response_mode=ResponseMode.COMPACT)
    return RetrieverQueryEngine(retriever, response_synthesizer=synthesizer, node_postprocessors=list(postprocessors), **options)


def test_the_query_engine_answers_from_the_rankers_best(nodes, artifact, expected):
    before = copy.deepcopy(nodes)
    response = engine(Found(nodes), ResiftRerank(model=artifact, top_n=3)).query(QUERY)
    assert ids(response.source_nodes) == best(expected, 3)
    for node, result in zip(response.source_nodes, expected[:3], strict=True):
        given = before[result.index]
        assert node.score == result.score
        assert type(node.score) is float
        assert node.node.text == given.node.text
        assert node.metadata == {**given.metadata, "retrieval_score": given.score}
    assert nodes == before
    assert not any(kept.node is given.node for kept in response.source_nodes for given in nodes)
    for result in expected[:3]:
        assert TEXTS[result.index].strip() in str(response)
    assert "retrieval_score" not in str(response)


def test_the_query_engine_reranks_in_asyncio_through_the_rankers_own_path(nodes, artifact, expected, monkeypatch):
    monkeypatch.setattr(Reranker, "rerank", None)
    response = asyncio.run(engine(Found(nodes), ResiftRerank(model=artifact, top_n=4)).aquery(QUERY))
    assert ids(response.source_nodes) == best(expected, 4)
    assert [node.score for node in response.source_nodes] == [result.score for result in expected[:4]]


def test_fused_retrievers_are_reranked(nodes, artifact, expected):
    fused = QueryFusionRetriever(
        [Found(nodes[:4]), Found(list(reversed(nodes[2:])))],
        llm=MockLLM(),
        mode="reciprocal_rerank",
        num_queries=1,
        similarity_top_k=len(nodes),
        use_async=False,
    )
    found = engine(fused, ResiftRerank(model=artifact, top_n=None)).retrieve(QueryBundle(QUERY))
    assert sorted(ids(found)) == sorted(best(expected))
    assert [node.score for node in found] == [result.score for result in expected]
    # the fusion writes its scores into the nodes that it was given
    assert {node.node_id: node.metadata["retrieval_score"] for node in found} == {node.node_id: node.score for node in nodes}


def test_the_nodes_of_an_index_stay_as_they_were_stored(nodes, artifact, reranker):
    index = VectorStoreIndex([node.node for node in nodes], embed_model=MockEmbedding(embed_dim=8))
    asked = index.as_query_engine(llm=MockLLM(), similarity_top_k=6, node_postprocessors=[ResiftRerank(model=artifact, top_n=2)])
    stored = {name: copy.deepcopy(node) for name, node in index.docstore.docs.items()}
    for _ in range(2):
        found = asked.query(QUERY).source_nodes
        texts = [node.node.get_content(MetadataMode.EMBED) for node in asked.retriever.retrieve(QUERY)]
        assert [node.score for node in found] == [result.score for result in reranker.rerank(QUERY, texts, top_k=2)]
    assert index.docstore.docs == stored


def test_a_cutoff_after_it_goes_by_its_scores(nodes, artifact, expected):
    cutoff = SimilarityPostprocessor(similarity_cutoff=expected[1].score)
    found = engine(Found(nodes), ResiftRerank(model=artifact, top_n=None), cutoff).retrieve(QueryBundle(QUERY))
    assert ids(found) == best(expected, 2)


@pytest.mark.parametrize("top_n", [1, 2, len(TEXTS), len(TEXTS) + 1, 10**6, None])
def test_top_n(nodes, artifact, expected, top_n):
    assert ids(ResiftRerank(model=artifact, top_n=top_n).postprocess_nodes(nodes, query_str=QUERY)) == best(expected, top_n)


def test_two_nodes_unless_told_otherwise(nodes, artifact):
    assert len(ResiftRerank(model=artifact).postprocess_nodes(nodes, query_str=QUERY)) == 2


def test_the_retrieval_score_is_kept_out_of_texts_or_left_out(nodes, artifact):
    nodes[0].score = None
    kept = ResiftRerank(model=artifact, top_n=None).postprocess_nodes(nodes, query_str=QUERY)
    given = {node.node_id: node for node in nodes}
    for node in kept:
        assert node.metadata["retrieval_score"] == given[node.node_id].score
        for mode in (MetadataMode.EMBED, MetadataMode.LLM):
            assert node.get_content(mode) == given[node.node_id].get_content(mode)
    bare = ResiftRerank(model=artifact, top_n=None, keep_retrieval_score=False).postprocess_nodes(nodes, query_str=QUERY)
    assert ids(bare) == ids(kept)
    assert all(node.node is given[node.node_id].node for node in bare)
    assert [node.score for node in bare] == [node.score for node in kept]
    assert nodes[1].score == 0.49


def test_no_nodes_give_none(artifact):
    reranking = ResiftRerank(model=artifact)
    assert reranking.postprocess_nodes([], query_str=QUERY) == []
    assert asyncio.run(reranking.apostprocess_nodes([], query_str=QUERY)) == []
    assert engine(Found([]), reranking).query(QUERY).source_nodes == []


def test_without_a_query_there_is_nothing_to_rank_for(nodes, artifact):
    with pytest.raises(InputError, match="no query"):
        ResiftRerank(model=artifact).postprocess_nodes(nodes)
    with pytest.raises(InputError, match="no query"):
        asyncio.run(ResiftRerank(model=artifact).apostprocess_nodes(nodes))


@pytest.fixture
def events():
    """The events that LlamaIndex's root dispatcher is told."""

    class Heard(BaseEventHandler):
        found: list = []  # noqa: RUF012 - a field, which pydantic copies

        def handle(self, event, **_):
            self.found.append(event)

    root, heard = get_dispatcher(), Heard()
    before = list(root.event_handlers)
    root.add_event_handler(heard)
    yield heard.found
    root.event_handlers = before


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("top_n", [2, None])
def test_events_and_callbacks_tell_of_the_reranking(nodes, artifact, expected, events, asynchronous, top_n):
    debug = LlamaDebugHandler(print_trace_on_end=False)
    asked = engine(Found(nodes), ResiftRerank(model=artifact, top_n=top_n), callback_manager=CallbackManager([debug]))
    _ = asyncio.run(asked.aquery(QUERY)) if asynchronous else asked.query(QUERY)
    start, end = (event for event in events if isinstance(event, ReRankStartEvent | ReRankEndEvent))
    assert (start.query.query_str, ids(start.nodes), ids(end.nodes)) == (QUERY, ids(nodes), best(expected, top_n))
    assert (start.top_n, start.model_name) == (top_n or len(nodes), Reranker.load(artifact).artifact.manifest.model.id)
    ((started, ended),) = debug.get_event_pairs(CBEventType.RERANKING)
    assert started.payload[EventPayload.QUERY_STR] == QUERY
    assert started.payload[EventPayload.TOP_K] == start.top_n
    assert ids(ended.payload[EventPayload.NODES]) == best(expected, top_n)


def test_a_failure_ends_the_event_and_reaches_the_caller(nodes, one_at_a_time):
    debug = LlamaDebugHandler(print_trace_on_end=False)
    one_at_a_time.close()
    reranking = ResiftRerank(model=one_at_a_time, callback_manager=CallbackManager([debug]))
    with pytest.raises(ClosedError) as caught:
        reranking.postprocess_nodes(nodes, query_str=QUERY)
    ((_, ended),) = debug.get_event_pairs(CBEventType.RERANKING)
    assert ended.payload == {EventPayload.EXCEPTION: caught.value}
    with pytest.raises(ArtifactError, match="no artifact 'absent'"):
        ResiftRerank(model="absent").postprocess_nodes(nodes, query_str=QUERY)


def test_cancelling_drops_the_pairs_that_have_not_started(nodes, one_at_a_time, gate):
    opened, begun, _ = gate
    reranking = ResiftRerank(model=one_at_a_time)

    async def ask():
        running = asyncio.ensure_future(reranking.apostprocess_nodes(nodes, query_str=QUERY))
        assert await asyncio.to_thread(begun.wait, 60)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        opened.set()
        return await reranking.apostprocess_nodes(nodes[:1], query_str="bread")

    assert len(asyncio.run(ask())) == 1
    assert one_at_a_time.queued.dropped > 0


def test_it_is_serialized_as_llamaindex_does(nodes, artifact, expected):
    settings = Settings(threads=1)
    given = ResiftRerank(model=artifact, settings=settings, top_n=4, keep_retrieval_score=False)
    used = ResiftRerank.from_dict(given.to_dict())
    assert ids(used.postprocess_nodes(nodes, query_str=QUERY)) == best(expected, 4)
    for reranking in (given, used):
        for made in (
            ResiftRerank.from_dict(reranking.to_dict()),
            ResiftRerank.from_json(reranking.to_json()),
            ResiftRerank.model_validate(reranking.model_dump()),
            ResiftRerank.model_validate_json(reranking.model_dump_json()),
            pickle.loads(pickle.dumps(reranking)),
            copy.copy(reranking),
            copy.deepcopy(reranking),
        ):
            assert Path(made.model) == artifact
            assert (made.settings, made.top_n, made.keep_retrieval_score) == (settings, 4, False)
            assert ids(made.postprocess_nodes(nodes, query_str=QUERY)) == best(expected, 4)
    assert given.to_dict()["class_name"] == "ResiftRerank"
    assert len(pickle.dumps(used)) < 10_000


def test_it_is_a_postprocessor_and_refuses_unknown_fields():
    assert isinstance(ResiftRerank(), BaseNodePostprocessor)
    for wrong in ({"topn": 3}, {"top_n": 0}, {"top_n": "many"}, {"keep_retrieval_score": "perhaps"}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            ResiftRerank(**wrong)


def test_what_a_budget_leaves_unread_follows_with_falling_numbers(reranker):
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
    found = ResiftRerank(model=reranker, top_n=None, budget_ms=1e-6).postprocess_nodes(nodes, query_str=QUERY)
    assert [node.text for node in found] == TEXTS
    scores = [node.score for node in found]
    assert scores == sorted(set(scores), reverse=True)
