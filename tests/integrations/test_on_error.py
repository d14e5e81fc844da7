"""on_error in the adapters: what is kept and marked where a reranking fails or is late, and what raises all the same."""

from __future__ import annotations

import asyncio
import logging
import os

import pytest

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # read once, at import

pytest.importorskip("haystack")
pytest.importorskip("langchain_core")
pytest.importorskip("llama_index.core")

import haystack
from langchain_core.documents import Document
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode

from resift import ArtifactError, ClosedError, InputError, Reranker, Settings
from resift.integrations import fallback
from resift.integrations.haystack import ResiftRanker
from resift.integrations.langchain import ResiftReranker
from resift.integrations.llamaindex import ResiftRerank
from tests.conftest import worst_first
from tests.support import tiny

QUERY, TEXTS = "how do tides work", list(dict.fromkeys(tiny.texts()[1:60:2]))[:5]
HASTY = 1e-6
"""A budget that no reranking meets."""


class LangChain:
    scored = False

    def __init__(self, model, top=None, threshold=None, **options):
        self.adapter = ResiftReranker(model=model, top_n=top, score_threshold=threshold, **options)

    def rank(self, texts, query=QUERY):
        return self.rows(self.adapter.compress_documents(self.given(texts), query))

    async def arank(self, texts, query=QUERY):
        return self.rows(await self.adapter.acompress_documents(self.given(texts), query))

    def given(self, texts):
        return [Document(text, metadata={"n": number}) for number, text in enumerate(texts)]

    def rows(self, documents):
        return [(document.page_content, document.metadata.get("relevance_score"), document.metadata) for document in documents]


class LlamaIndex:
    scored = True

    def __init__(self, model, top=None, threshold=None, **options):
        """There is no threshold."""
        self.adapter = ResiftRerank(model=model, top_n=top, **options)

    def rank(self, texts, query=QUERY):
        return self.rows(self.adapter.postprocess_nodes(self.given(texts), QueryBundle(query)))

    async def arank(self, texts, query=QUERY):
        return self.rows(await self.adapter.apostprocess_nodes(self.given(texts), QueryBundle(query)))

    def given(self, texts):
        return [NodeWithScore(node=TextNode(text=text, metadata={"n": n}), score=0.5) for n, text in enumerate(texts)]

    def rows(self, nodes):
        for mode in (MetadataMode.EMBED, MetadataMode.LLM):
            assert all("rerank_error" not in node.node.get_content(mode) for node in nodes)
        return [(node.text, node.score, node.metadata) for node in nodes]


class Haystack:
    scored = True

    def __init__(self, model, top=None, threshold=None, **options):
        given = {"reranker": model} if isinstance(model, Reranker) else {"model": model}
        self.adapter = ResiftRanker(**given, top_k=top, score_threshold=threshold, **options)

    def rank(self, texts, query=QUERY):
        return self.rows(self.adapter.run(query, self.given(texts)))

    async def arank(self, texts, query=QUERY):
        return self.rows(await self.adapter.run_async(query, self.given(texts)))

    def given(self, texts):
        return [haystack.Document(content=text, meta={"n": number}, score=0.5) for number, text in enumerate(texts)]

    def rows(self, found):
        return [(document.content, document.score, document.meta) for document in found["documents"]]


@pytest.fixture(params=[LangChain, LlamaIndex, Haystack])
def kind(request):
    return request.param


@pytest.fixture(autouse=True)
def _nothing_was_logged(monkeypatch):
    monkeypatch.setattr(fallback, "_logged", set())


@pytest.fixture
def closed(artifact):
    with Reranker.load(artifact) as loaded:
        pass
    return loaded


@pytest.mark.parametrize("top", [None, 2])
def test_the_order_given_is_kept_and_marked_where_reranking_fails(kind, closed, reranker, top):
    given = worst_first(reranker, QUERY, TEXTS)
    adapter = kind(closed, top, threshold=1e9, on_error="keep_order")
    expected = [
        (text, 0.5 if kind.scored else None, {"n": number, "rerank_error": "ClosedError: this Reranker is closed; load another"})
        for number, text in enumerate(given[:top])
    ]
    assert adapter.rank(given) == asyncio.run(adapter.arank(given)) == expected
    assert adapter.rank([]) == []


def test_errors_are_raised_unless_told_otherwise(kind, closed):
    for adapter in (kind(closed), kind(closed, on_error="raise")):
        with pytest.raises(ClosedError):
            adapter.rank(TEXTS)
        with pytest.raises(ClosedError):
            asyncio.run(adapter.arank(TEXTS))


def test_the_order_given_is_kept_where_the_model_cannot_be_loaded(kind, tmp_path):
    with pytest.raises(ArtifactError):
        kind(str(tmp_path)).rank(TEXTS)
    for rows in (
        kind(str(tmp_path), on_error="keep_order").rank(TEXTS),
        asyncio.run(kind(str(tmp_path), on_error="keep_order").arank(TEXTS)),
    ):
        assert [text for text, _, _ in rows] == TEXTS
        assert all(metadata["rerank_error"].startswith("ArtifactError: no manifest.json in ") for _, _, metadata in rows)


def test_the_order_given_is_kept_at_a_missed_deadline(kind, reranker):
    given = worst_first(reranker, QUERY, TEXTS)
    adapter = kind(reranker, 3, threshold=1e9, budget_ms=HASTY, on_error="keep_order")
    for rows in (adapter.rank(given), asyncio.run(adapter.arank(given))):
        assert [text for text, _, _ in rows] == given[:3]
        assert {score for _, score, _ in rows} == {0.5 if kind.scored else None}
        assert all(metadata["rerank_error"].startswith("deadline: the budget_ms passed") for _, _, metadata in rows)
    partial = kind(reranker, 3, budget_ms=HASTY).rank(given)
    assert all("rerank_error" not in metadata for _, _, metadata in partial)


def test_nothing_changes_where_nothing_fails(kind, reranker):
    given = worst_first(reranker, QUERY, TEXTS)
    for budget_ms in (None, 60_000):
        rows = kind(reranker, budget_ms=budget_ms, on_error="keep_order").rank(given)
        assert [text for text, _, _ in rows] == given[::-1]
        assert all("rerank_error" not in metadata for _, _, metadata in rows)


@pytest.mark.parametrize(("texts", "query"), [(TEXTS, None), (TEXTS, 3)])
def test_wrong_arguments_are_raised_all_the_same(kind, reranker, texts, query):
    adapter = kind(reranker, on_error="keep_order")
    with pytest.raises((TypeError, InputError)):
        adapter.rank(texts, query)
    with pytest.raises((TypeError, InputError)):
        asyncio.run(adapter.arank(texts, query))


def test_a_plan_that_the_model_lacks_is_raised_all_the_same(kind, reranker):
    with pytest.raises(InputError, match="needs a graph first-look"):
        kind(reranker, plan="fast", on_error="keep_order").rank(TEXTS)


def test_an_error_that_is_not_resifts_is_raised_all_the_same(kind, reranker, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("a fault of the program")

    monkeypatch.setattr(Reranker, "rerank", broken)
    with pytest.raises(RuntimeError, match="a fault of the program"):
        kind(reranker, on_error="keep_order").rank(TEXTS)


def test_each_kind_of_failure_is_logged_once(closed, reranker, caplog):
    with caplog.at_level(logging.WARNING, "resift.integrations.fallback"):
        for kind in (LangChain, LlamaIndex, Haystack):
            for _ in range(2):
                kind(closed, on_error="keep_order").rank(TEXTS)
                kind(reranker, budget_ms=HASTY, on_error="keep_order").rank(TEXTS)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("documents are not reranked, but stay in the order given (ClosedError: this Reranker is closed")
    assert second.startswith("documents are not reranked, but stay in the order given (deadline: ")


@pytest.mark.parametrize("wrong", ["ignore", "", None, True])
def test_another_value_is_refused(kind, wrong):
    with pytest.raises((ValueError, TypeError), match="on_error"):
        kind(None, on_error=wrong)


TITLED = [("Tides", "The moon pulls the sea."), ("Bread", "Yeast makes gas."), ("", "Salt is mined."), ("Harbours", "A pier.")]


@pytest.mark.parametrize("framework", ["langchain", "llamaindex", "haystack"])
def test_a_document_template_names_fields_of_the_metadata(artifact, reranker, framework):
    expected = reranker.rerank(QUERY, [f"{title}\n{text}" if title else text for title, text in TITLED])
    with Reranker.load(artifact, settings=Settings(document_template="{title}\n{text}")) as loaded:
        if framework == "langchain":
            given = [Document(text, metadata={"title": title}) for title, text in TITLED]
            found = ResiftReranker(model=loaded, top_n=None).compress_documents(given, QUERY)
            rows = [(document.page_content, document.metadata["relevance_score"]) for document in found]
        elif framework == "llamaindex":
            nodes = [NodeWithScore(node=TextNode(text=text, metadata={"title": title, "other": 1})) for title, text in TITLED]
            ranked = ResiftRerank(model=loaded, top_n=None).postprocess_nodes(nodes, query_str=QUERY)
            rows = [(node.text, node.score) for node in ranked]
        else:
            documents = [haystack.Document(content=text, meta={"title": title}) for title, text in TITLED]
            done = ResiftRanker(reranker=loaded, scale_score=False).run(QUERY, documents)["documents"]
            rows = [(document.content, document.score) for document in done]
    logits = framework == "haystack"
    assert rows == [(TITLED[each.index][1], each.logit if logits else each.score) for each in expected]


@pytest.mark.parametrize("scale", ["logit", "sigmoid"])
def test_one_setting_makes_the_scales_alike(artifact, scale):
    with Reranker.load(artifact, settings=Settings(scores=scale)) as loaded:
        scores = [result.score for result in loaded.rerank(QUERY, TEXTS)]
        found = ResiftReranker(model=loaded, top_n=None).compress_documents([Document(text) for text in TEXTS], QUERY)
        assert [document.metadata["relevance_score"] for document in found] == scores
        nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
        assert [node.score for node in ResiftRerank(model=loaded, top_n=None).postprocess_nodes(nodes, query_str=QUERY)] == scores
        documents = [haystack.Document(content=text) for text in TEXTS]
        ranked = ResiftRanker(reranker=loaded).run(QUERY, documents)["documents"]
        assert [document.score for document in ranked] == pytest.approx(scores)
