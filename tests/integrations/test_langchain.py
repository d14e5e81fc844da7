"""The adapters to LangChain, in LangChain's own retriever, chains and callbacks."""

from __future__ import annotations

import asyncio
import copy
import pickle
from pathlib import Path

import pytest

pytest.importorskip("langchain_core")

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from resift import ArtifactError, InputError, Reranker, Settings
from resift.integrations.langchain import ResiftCrossEncoder, ResiftReranker, distinct_scores
from resift.ranking import RankedDocument, Ranking

QUERY = "why are there two high tides a day"
TEXTS = [
    "Bread rises because yeast makes gas.",
    "The moon pulls the sea into a bulge on either side of the earth.",
    "",
    "A tide table lists the times of high and low water for a harbour.",
    "The moon pulls the sea into a bulge on either side of the earth.",
    "As the earth turns, a coast passes through both bulges in a day.",
    "Salt " * 400,
]


class Found(BaseRetriever):
    """A retriever that finds the same documents for every query."""

    found: list[Document]

    def _get_relevant_documents(self, query, *, run_manager):
        return self.found


@pytest.fixture
def documents():
    return [Document(text, id=f"d{n}", metadata={"source": f"file-{n}", "tags": ["a", n]}) for n, text in enumerate(TEXTS)]


@pytest.fixture
def expected(reranker):
    return reranker.rerank(QUERY, TEXTS)


@pytest.fixture
def pipeline(documents):
    """pipeline(compressor): LangChain's retriever that reranks what another one found."""
    retrievers = pytest.importorskip("langchain_classic.retrievers")
    return lambda compressor: retrievers.ContextualCompressionRetriever(
        base_retriever=Found(found=documents), base_compressor=compressor
    )


def ids(documents) -> list[str]:
    return [document.id for document in documents]


def best(ranking, count=None) -> list[str]:
    return [f"d{result.index}" for result in ranking[:count]]


def test_the_retriever_gives_the_rankers_order_scores_and_the_metadata(pipeline, artifact, documents, expected):
    before = copy.deepcopy(documents)
    found = pipeline(ResiftReranker(model=artifact, top_n=None)).invoke(QUERY)
    assert ids(found) == best(expected)
    for document, result in zip(found, expected, strict=True):
        given = before[result.index]
        assert document.page_content == given.page_content
        assert document.metadata == {**given.metadata, "relevance_score": result.score}
        assert type(document.metadata["relevance_score"]) is float
    assert documents == before
    assert not any(kept is given for kept in found for given in documents)


def test_the_retriever_reranks_in_asyncio_through_the_rankers_own_path(pipeline, artifact, expected, monkeypatch):
    monkeypatch.setattr(Reranker, "rerank", None)
    found = asyncio.run(pipeline(ResiftReranker(model=artifact, top_n=4)).ainvoke(QUERY))
    assert ids(found) == best(expected, 4)
    assert [document.metadata["relevance_score"] for document in found] == [result.score for result in expected[:4]]


def test_many_queries_at_once_get_their_own_rankings(pipeline, artifact, reranker):
    queries = [f"{QUERY} {number}" for number in range(8)]
    retriever = pipeline(ResiftReranker(model=artifact, top_n=3))
    wanted = [best(reranker.rerank(query, TEXTS, top_k=3)) for query in queries]
    assert [ids(found) for found in retriever.batch(queries)] == wanted
    assert [ids(found) for found in asyncio.run(retriever.abatch(queries))] == wanted


def test_a_chain_reranks_between_a_vector_store_and_a_prompt(artifact, reranker, documents):
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate

    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=16))
    store.add_documents(documents)
    compressor = ResiftReranker(model=artifact, top_n=2)
    rerank = RunnableLambda(
        lambda asked: compressor.compress_documents(asked["documents"], asked["query"]),
        afunc=lambda asked: compressor.acompress_documents(asked["documents"], asked["query"]),
    )
    chain = (
        {"documents": store.as_retriever(search_kwargs={"k": 6}), "query": RunnablePassthrough()}
        | RunnablePassthrough.assign(context=rerank | (lambda kept: "\n".join(document.page_content for document in kept)))
        | ChatPromptTemplate.from_template("{context}\n\nQuestion: {query}")
        | (lambda prompt: prompt.to_string())
        | StrOutputParser()
    )
    pool = [document.page_content for document in store.similarity_search(QUERY, k=6)]
    context = "\n".join(result.document for result in reranker.rerank(QUERY, pool, top_k=2))
    assert chain.invoke(QUERY) == asyncio.run(chain.ainvoke(QUERY)) == f"Human: {context}\n\nQuestion: {QUERY}"


def test_a_pipeline_of_compressors_takes_it(pipeline, artifact, expected):
    from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline

    one, two = ResiftReranker(model=artifact, top_n=5), ResiftReranker(model=artifact, top_n=2)
    found = pipeline(DocumentCompressorPipeline(transformers=[one, two])).invoke(QUERY)
    assert ids(found) == best(expected, 2)


@pytest.mark.parametrize("top_n", [1, 3, len(TEXTS), len(TEXTS) + 1, 10**6, None])
def test_top_n(artifact, documents, expected, top_n):
    assert ids(ResiftReranker(model=artifact, top_n=top_n).compress_documents(documents, QUERY)) == best(expected, top_n)


def test_three_documents_unless_told_otherwise(artifact, documents):
    assert len(ResiftReranker(model=artifact).compress_documents(documents, QUERY)) == 3


def test_score_threshold_keeps_what_reaches_it(artifact, documents, expected):
    for place in (0, 3, len(TEXTS) - 1):
        threshold = expected[place].score
        kept = [result for result in expected if result.score >= threshold]
        found = ResiftReranker(model=artifact, top_n=None, score_threshold=threshold).compress_documents(documents, QUERY)
        assert ids(found) == best(kept)
        assert len(found) > place
    assert ResiftReranker(model=artifact, score_threshold=1.5).compress_documents(documents, QUERY) == []
    assert len(ResiftReranker(model=artifact, top_n=2, score_threshold=0.0).compress_documents(documents, QUERY)) == 2


def test_a_threshold_of_zero_is_a_threshold():
    def logits(*values):
        return Ranking(tuple(RankedDocument(n, value, value, "", 0) for n, value in enumerate(values)))

    documents = [Document(text) for text in "abc"]
    kept = ResiftReranker(score_threshold=0)._select(documents, logits(1.0, 0.0, -1.0))
    assert [document.page_content for document in kept] == ["a", "b"]


def test_no_documents_give_none(pipeline, artifact):
    compressor = ResiftReranker(model=artifact)
    assert compressor.compress_documents([], QUERY) == []
    assert asyncio.run(compressor.acompress_documents([], QUERY)) == []
    retriever = pipeline(compressor)
    retriever.base_retriever.found = []
    assert retriever.invoke(QUERY) == asyncio.run(retriever.ainvoke(QUERY)) == []


def test_an_earlier_score_is_replaced_and_the_type_of_document_kept(artifact):
    class Page(Document):
        number: int = 0

    given = Page("The moon pulls the sea.", number=7, metadata={"relevance_score": 99.0})
    found = ResiftReranker(model=artifact).compress_documents((given,), QUERY)[0]
    assert type(found) is Page
    assert found.number == 7
    assert found.metadata["relevance_score"] != 99.0
    assert given.metadata == {"relevance_score": 99.0}


class Heard(BaseCallbackHandler):
    def __init__(self):
        self.ended, self.errors = [], []

    def on_retriever_end(self, documents, **rest):
        self.ended.append(ids(documents))

    def on_retriever_error(self, error, **rest):
        self.errors.append(type(error))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_callbacks_hear_of_what_was_found_and_then_of_what_was_kept(pipeline, artifact, documents, expected, asynchronous):
    retriever, heard = pipeline(ResiftReranker(model=artifact, top_n=2)), Heard()
    config = {"callbacks": [heard]}
    if asynchronous:
        asyncio.run(retriever.ainvoke(QUERY, config))
    else:
        retriever.invoke(QUERY, config)
    assert heard.ended == [ids(documents), best(expected, 2)]
    assert heard.errors == []


def test_callbacks_hear_of_a_failure(pipeline):
    heard = Heard()
    with pytest.raises(ArtifactError, match="no artifact 'absent'"):
        pipeline(ResiftReranker(model="absent")).invoke(QUERY, {"callbacks": [heard]})
    assert heard.errors == [ArtifactError]


def test_cancelling_drops_the_pairs_that_have_not_started(one_at_a_time, gate, documents):
    opened, begun, _ = gate
    compressor = ResiftReranker(model=one_at_a_time)

    async def ask():
        running = asyncio.ensure_future(compressor.acompress_documents(documents, QUERY))
        assert await asyncio.to_thread(begun.wait, 60)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        opened.set()
        return await compressor.acompress_documents(documents[:1], "bread")

    assert len(asyncio.run(ask())) == 1
    assert one_at_a_time.queued.dropped > 0


def test_the_cross_encoder_reranks_as_the_ranker_does(pipeline, artifact, documents, expected):
    compressors = pytest.importorskip("langchain_classic.retrievers.document_compressors")
    encoder = ResiftCrossEncoder(model=artifact)
    for top_n in (2, len(TEXTS) + 5):
        retriever = pipeline(compressors.CrossEncoderReranker(model=encoder, top_n=top_n))
        assert ids(retriever.invoke(QUERY)) == best(expected, top_n)
        assert ids(asyncio.run(retriever.ainvoke(QUERY))) == best(expected, top_n)
    assert pipeline(compressors.CrossEncoderReranker(model=pickle.loads(pickle.dumps(encoder)))).invoke(QUERY)


def test_the_cross_encoder_scores_pairs_of_several_queries_in_their_order(artifact, reranker):
    pairs = [(query, text) for text in TEXTS for query in (QUERY, "bread", "")]
    scores = ResiftCrossEncoder(model=artifact).score(pairs)
    assert scores == pytest.approx(reranker.score_pairs(pairs).tolist(), abs=1e-12)
    assert {type(score) for score in scores} == {float}
    assert ResiftCrossEncoder(model=artifact).score([]) == []
    with pytest.raises(TypeError, match=r"pairs\[0\]"):
        ResiftCrossEncoder(model=artifact).score([(QUERY, None)])


def test_scores_fall_where_logits_do_even_if_a_sigmoid_is_saturated():
    rows = [(1.0, 22.0), (1.0, 21.0), (1.0, 21.0), (1.0, 20.0), (0.5, 0.0), (0.5, 0.0), (0.0, -200.0), (0.0, -300.0)]
    scores = distinct_scores(Ranking(tuple(RankedDocument(n, score, logit, "", 0) for n, (score, logit) in enumerate(rows))))
    for place in range(1, len(rows)):
        assert (scores[place] == scores[place - 1]) is (rows[place] == rows[place - 1])
    assert scores == sorted(scores, reverse=True)
    assert scores == pytest.approx([score for score, _ in rows], abs=1e-15)


@pytest.mark.parametrize("kind", [ResiftReranker, ResiftCrossEncoder])
def test_a_copy_of_every_kind_ranks_alike(kind, artifact, documents, expected):
    settings = Settings(threads=1, max_length=100)
    given = kind(model=artifact, settings=settings)
    used = kind(model=artifact, settings=settings)
    used._load()
    for adapter in (given, used):
        for made in (
            pickle.loads(pickle.dumps(adapter)),
            copy.copy(adapter),
            copy.deepcopy(adapter),
            adapter.model_copy(deep=True),
            kind.model_validate(adapter.model_dump()),
            kind.model_validate_json(adapter.model_dump_json()),
            kind.model_validate(adapter.model_dump(mode="json")),
        ):
            assert type(made) is kind
            assert Path(made.model) == artifact
            assert made.settings == settings
            assert made._load().settings == settings
            assert made == given or isinstance(made.model, str)


def test_a_pickle_and_a_dump_do_not_carry_the_model(artifact):
    used = ResiftReranker(model=artifact)
    used._load()
    assert len(pickle.dumps(used)) < 2000
    assert used == ResiftReranker(model=artifact)
    assert set(used.model_dump()) == {"model", "settings", "top_n", "plan", "budget_ms", "on_error", "score_threshold"}
    assert "_loaded" not in repr(used)


def test_what_a_budget_leaves_unread_follows_with_falling_numbers_unless_there_is_a_threshold(reranker, documents):
    hasty = {"model": reranker, "top_n": None, "budget_ms": 1e-6}
    found = ResiftReranker(**hasty).compress_documents(documents, QUERY)
    assert ids(found) == ids(documents)
    scores = [document.metadata["relevance_score"] for document in found]
    assert scores == sorted(set(scores), reverse=True)
    assert ResiftReranker(**hasty, score_threshold=-1e9).compress_documents(documents, QUERY) == []
    assert asyncio.run(ResiftReranker(**hasty).acompress_documents(documents, QUERY)) == found


def test_a_plan_is_the_callers(reranker, documents, expected):
    assert ids(ResiftReranker(model=reranker, plan="full", top_n=None).compress_documents(documents, QUERY)) == best(expected)
    with pytest.raises(InputError, match="needs a graph first-look"):
        ResiftReranker(model=reranker, plan="fast").compress_documents(documents, QUERY)
