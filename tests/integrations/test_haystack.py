"""ResiftRanker in Haystack's own pipelines: order, copies, YAML, asyncio, and what it refuses."""

from __future__ import annotations

import asyncio
import copy
import importlib
import os
import sys
import threading

import numpy as np
import pytest

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # read once, at import

from haystack import Document, Pipeline, component
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.core.errors import DeserializationError
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils.misc import _deduplicate_documents

from resift import ArtifactError, ExtraError, InputError, Reranker, Settings
from resift.integrations import haystack as adapter
from resift.integrations.haystack import ResiftRanker
from resift.scoring import activate
from tests.support import tiny
from tests.support.forks import beside_threads, can_fork, in_child

QUERY, TEXTS = "what the contract says of the place of work", list(dict.fromkeys(tiny.texts()[1:60:2]))[:20]
DOCUMENTS = [Document(content=text, meta={"number": number}, score=1.0 - number / 100) for number, text in enumerate(TEXTS)]
TRUSTED = ["resift.integrations.haystack"]


@pytest.fixture
def ranker(reranker):
    return ResiftRanker(reranker=reranker)


def texts(documents):
    return [document.content for document in documents]


def retrieval(**parameters) -> Pipeline:
    """Haystack's BM25 retriever over an in-memory store, then a ResiftRanker."""
    store = InMemoryDocumentStore()
    store.write_documents(copy.deepcopy(DOCUMENTS))
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(store, top_k=8))
    pipeline.add_component("ranker", ResiftRanker(**parameters))
    pipeline.connect("retriever.documents", "ranker.documents")
    return pipeline


def asked(query=QUERY, **parameters):
    return {"retriever": {"query": query}, "ranker": {"query": query, **parameters}}


def test_a_pipeline_ranks_what_its_retriever_found_as_the_reranker_does(reranker):
    pipeline = retrieval(reranker=reranker)
    found = pipeline.run(asked(), include_outputs_from={"retriever"})
    retrieved, ranked = found["retriever"]["documents"], found["ranker"]["documents"]
    assert len(retrieved) == 8
    ranking = reranker.rerank(QUERY, texts(retrieved))
    assert texts(ranked) == [result.document for result in ranking] != texts(retrieved)
    assert [document.score for document in ranked] == pytest.approx([result.score for result in ranking])


def test_a_pipeline_runs_it_for_asyncio_without_a_thread_of_its_own(reranker, monkeypatch):
    pipeline = retrieval(reranker=reranker)
    expected = pipeline.run(asked())
    monkeypatch.setattr(Reranker, "rerank", None)  # the synchronous way would fail

    async def ask():
        return await asyncio.gather(*(pipeline.run_async(asked(query)) for query in (QUERY, "bread", QUERY)))

    first, _, last = asyncio.run(ask())
    assert first == last == expected


def test_it_goes_through_yaml_in_a_pipeline(artifact):
    pipeline = retrieval(
        model=artifact,
        settings=Settings(threads=1, precision="float32"),
        top_k=3,
        scale_score=False,
        score_threshold=-7.5,
        meta_fields_to_embed=["number"],
        embedding_separator=" | ",
        query_prefix="instruction: ",
        query_suffix="?\n",
        document_prefix="passage: ",
        document_suffix=" (end)",
        on_error="keep_order",
    )
    text = pipeline.dumps()
    with pytest.raises(DeserializationError, match="allowed_modules"):
        Pipeline.loads(text)
    loaded = Pipeline.loads(text, allowed_modules=TRUSTED)
    assert loaded.dumps() == text
    ranker = loaded.get_component("ranker")
    assert ranker.to_dict() == pipeline.get_component("ranker").to_dict()
    given = {"query": QUERY, "documents": DOCUMENTS}
    ranked = ranker.run(**given)["documents"]
    assert ranked == pipeline.get_component("ranker").run(**given)["documents"]
    with Reranker.load(artifact, settings=Settings(threads=1, precision="float32")) as reranker:
        read = [f"passage: {document.meta['number']} | {document.content} (end)" for document in DOCUMENTS]
        ranking = reranker.rerank(f"instruction: {QUERY}?\n", read, top_k=3)
    assert [(document.meta["number"], document.score) for document in ranked] == [(each.index, each.logit) for each in ranking]


def test_defaults_go_through_a_dictionary():
    data = ResiftRanker().to_dict()
    assert data["type"] == "resift.integrations.haystack.ResiftRanker"
    assert data["init_parameters"]["model"] is None
    assert ResiftRanker.from_dict(data).to_dict() == data
    assert ResiftRanker.from_dict({"type": data["type"]}).to_dict() == data


def test_a_loaded_reranker_is_not_written_to_yaml(ranker):
    with pytest.raises(InputError, match="make it with model and settings"):
        ranker.to_dict()


def test_documents_are_copied_with_all_they_have(ranker):
    before = copy.deepcopy(DOCUMENTS)
    ranked = ranker.run(QUERY, DOCUMENTS, top_k=None)["documents"]
    assert before == DOCUMENTS
    for document in ranked:
        original = DOCUMENTS[document.meta["number"]]
        assert document is not original
        assert (document.id, document.content, document.meta) == (original.id, original.content, original.meta)
        assert document.score != original.score


def test_of_duplicates_the_one_with_the_highest_score_is_ranked(ranker):
    given = [
        Document(id="a", content=TEXTS[0], score=0.1),
        Document(id="b", content=TEXTS[1]),
        Document(id="a", content=TEXTS[2], score=0.3),
        Document(id="b", content=TEXTS[3], score=-5.0),
        Document(id="a", content=TEXTS[4]),
        Document(id="c", content=TEXTS[2], score=0.3),
        Document(id="c", content=TEXTS[5], score=0.3),
    ]
    kept = _deduplicate_documents(given)
    assert [(document.id, document.content) for document in kept] == [("a", TEXTS[2]), ("b", TEXTS[3]), ("c", TEXTS[2])]
    ranked = ranker.run(QUERY, given)["documents"]
    assert sorted((document.id, document.content) for document in ranked) == sorted((each.id, each.content) for each in kept)
    assert [each.id for each in ranked if each.id in "ac"] == ["a", "c"]  # equal texts: the order given


def test_scores_are_scaled_unless_told_otherwise_even_in_one_run(reranker):
    logits = [result.logit for result in reranker.rerank(QUERY, TEXTS)]
    scaled = activate(np.array(logits, np.float32), "sigmoid").tolist()
    ranker = ResiftRanker(reranker=reranker, top_k=None)
    assert [each.score for each in ranker.run(QUERY, DOCUMENTS)["documents"]] == scaled
    assert [each.score for each in ranker.run(QUERY, DOCUMENTS, scale_score=False)["documents"]] == logits
    raw = ResiftRanker(reranker=reranker, top_k=None, scale_score=False)
    assert [each.score for each in raw.run(QUERY, DOCUMENTS)["documents"]] == logits
    assert [each.score for each in raw.run(QUERY, DOCUMENTS, scale_score=True)["documents"]] == scaled


def test_a_threshold_keeps_what_reaches_it_and_zero_is_a_threshold(reranker):
    logits = [result.logit for result in reranker.rerank(QUERY, TEXTS)]
    above = [logit for logit in logits if logit >= 0]
    assert 0 < len(above) < len(logits)  # or the test would show nothing
    ranker = ResiftRanker(reranker=reranker, top_k=None, scale_score=False, score_threshold=logits[4])
    assert [each.score for each in ranker.run(QUERY, DOCUMENTS)["documents"]] == logits[:5]
    assert [each.score for each in ranker.run(QUERY, DOCUMENTS, score_threshold=0.0)["documents"]] == above
    assert ranker.run(QUERY, DOCUMENTS, score_threshold=1e9) == {"documents": []}
    assert len(ranker.run(QUERY, DOCUMENTS, top_k=2)["documents"]) == 2


def test_top_k_may_exceed_the_documents_and_there_may_be_none(reranker):
    assert len(ResiftRanker(reranker=reranker).run(QUERY, DOCUMENTS)["documents"]) == 10
    assert len(ResiftRanker(reranker=reranker).run(QUERY, DOCUMENTS, top_k=999)["documents"]) == len(DOCUMENTS)
    assert ResiftRanker(reranker=reranker).run(QUERY, []) == {"documents": []}
    assert asyncio.run(ResiftRanker(reranker=reranker).run_async(QUERY, [])) == {"documents": []}


def test_the_model_reads_the_meta_fields_first(reranker):
    given = [
        Document(content="The sea rises twice a day.", meta={"title": "Tides", "year": 0, "tags": ["sea", "moon"]}),
        Document(content="Yeast makes gas.", meta={"title": None}),
        Document(content=None, meta={"title": "Only a title"}),
        Document(content=None),
    ]
    read = ["Tides; 0; ['sea', 'moon']; The sea rises twice a day.", "Yeast makes gas.", "Only a title; ", ""]
    ranker = ResiftRanker(reranker=reranker, meta_fields_to_embed=["title", "year", "tags"], embedding_separator="; ")
    ranked = ranker.run(QUERY, given, scale_score=False)["documents"]
    ranking = reranker.rerank(QUERY, read)
    assert [(each.content, each.score) for each in ranked] == [(given[each.index].content, each.logit) for each in ranking]
    plain = reranker.logits(QUERY, [text.split("; ")[-1] for text in read])
    assert reranker.logits(QUERY, read).tolist() != plain.tolist()


def test_warm_up_loads_once_however_many_threads_ask(artifact, monkeypatch):
    loads, load = [], Reranker.load
    monkeypatch.setattr(adapter.Reranker, "load", lambda *given, **named: loads.append(given) or load(*given, **named))
    pipeline = retrieval(model=artifact)
    pipeline.warm_up()
    assert len(loads) == 1
    ranker = ResiftRanker(model=artifact)
    found = []
    threads = [threading.Thread(target=lambda: found.append(ranker.run(QUERY, DOCUMENTS))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 2
    assert found == [found[0]] * 4


def test_closing_frees_what_was_loaded_here_and_a_run_loads_it_again(artifact, reranker):
    pipeline = retrieval(model=artifact)
    expected = pipeline.run(asked())
    first = pipeline.get_component("ranker")._loaded
    pipeline.close()
    assert not first._close.alive
    assert pipeline.run(asked()) == expected
    pipeline.close()
    pipeline.close()
    given = retrieval(reranker=reranker)
    given.close()
    assert given.run(asked()) == expected


@pytest.mark.parametrize("alone", [True, False])
def test_asyncio_loads_the_model_beside_the_loop(artifact, reranker, monkeypatch, alone):
    begun, proceed, load = threading.Event(), threading.Event(), Reranker.load

    def held(*given, **named):
        begun.set()
        assert proceed.wait(60)
        return load(*given, **named)

    monkeypatch.setattr(adapter.Reranker, "load", held)

    pipeline, ready = retrieval(model=artifact), ResiftRanker(reranker=reranker)
    ranker = pipeline.get_component("ranker")

    async def ask():
        work = ranker.run_async(QUERY, DOCUMENTS[:8]) if alone else pipeline.run_async(asked())
        running = asyncio.create_task(work)
        assert await asyncio.to_thread(begun.wait, 60)
        await ready.run_async(QUERY, DOCUMENTS)  # another ranker does not wait for this one's model
        proceed.set()  # reached only if the loop is free while the model loads
        return await running

    found = asyncio.run(ask())
    assert len((found if alone else found["ranker"])["documents"]) == 8


def test_a_cancelled_run_drops_what_has_not_begun(one_at_a_time, gate):
    opened, begun, rows = gate
    ranker = ResiftRanker(reranker=one_at_a_time)

    async def ask():
        running = asyncio.create_task(ranker.run_async(QUERY, DOCUMENTS))
        assert await asyncio.to_thread(begun.wait, 60)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(ask())
    opened.set()
    one_at_a_time.rerank("another", ["call"])
    assert sum(rows) < len(DOCUMENTS)


def test_a_deep_copy_ranks_like_the_original(artifact):
    ranker = ResiftRanker(model=artifact)
    ranker.warm_up()
    assert copy.deepcopy(ranker).run(QUERY, DOCUMENTS) == ranker.run(QUERY, DOCUMENTS)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"top_k": 0}, InputError, "top_k is 0"),
        ({"top_k": "3"}, TypeError, "top_k is str"),
        ({"score_threshold": float("nan")}, InputError, "score_threshold is NaN"),
        ({"score_threshold": "0.5"}, TypeError, "score_threshold is str"),
        ({"scale_score": "no"}, TypeError, "scale_score is str"),
    ],
)
def test_bad_values_are_refused_when_made_and_when_run(ranker, given, kind, message):
    with pytest.raises(kind, match=message):
        ResiftRanker(**given)
    with pytest.raises(kind, match=message):
        ranker.run(QUERY, DOCUMENTS, **given)
    with pytest.raises(kind, match=message):
        asyncio.run(ranker.run_async(QUERY, DOCUMENTS, **given))


@pytest.mark.parametrize("name", ["query_prefix", "query_suffix", "document_prefix", "document_suffix"])
def test_each_affix_stands_where_its_name_says_and_is_text(reranker, name):
    place, end = name.split("_")
    texts_of = {"query": [QUERY], "document": TEXTS}
    texts_of[place] = [f"sea {text}" if end == "prefix" else f"{text} sea" for text in texts_of[place]]
    ranking = reranker.rerank(texts_of["query"][0], texts_of["document"])
    affix = {name: "sea " if end == "prefix" else " sea"}
    found = ResiftRanker(reranker=reranker, top_k=None, scale_score=False, **affix).run(QUERY, DOCUMENTS)["documents"]
    assert [(each.meta["number"], each.score) for each in found] == [(each.index, each.logit) for each in ranking]
    with pytest.raises(TypeError, match=f"{name} is NoneType; expected a str"):
        ResiftRanker(**{name: None})


def test_what_else_is_refused(reranker, tmp_path):
    with pytest.raises(InputError, match="expected either"):
        ResiftRanker(model="somewhere", reranker=reranker)
    with pytest.raises(TypeError, match="reranker is str"):
        ResiftRanker(reranker="somewhere")
    with pytest.raises(TypeError, match="list of field names"):
        ResiftRanker(meta_fields_to_embed="title")
    with pytest.raises(TypeError, match=r"documents\[1\] is str"):
        ResiftRanker(reranker=reranker).run(QUERY, [DOCUMENTS[0], "text"])
    with pytest.raises(TypeError, match="query is NoneType"):
        ResiftRanker(reranker=reranker).run(None, DOCUMENTS)
    with pytest.raises(ArtifactError):
        ResiftRanker(model=tmp_path).warm_up()


def test_a_pipeline_checks_its_sockets_when_connected(reranker):
    @component
    class Wrong:
        @component.output_types(documents=list[int])
        def run(self):
            return {"documents": [1]}

    pipeline = Pipeline()
    pipeline.add_component("wrong", Wrong())
    pipeline.add_component("ranker", ResiftRanker(reranker=reranker))
    with pytest.raises(Exception, match="do not match"):
        pipeline.connect("wrong.documents", "ranker.documents")


@can_fork
@beside_threads
def test_a_child_forked_while_another_thread_loads_a_ranker_ranks(artifact, monkeypatch):
    expected = texts(ResiftRanker(model=artifact).run(QUERY, DOCUMENTS)["documents"])
    load, loading, forked = Reranker.load, threading.Event(), threading.Event()

    def slow(*given, **options):
        loading.set()
        assert forked.wait(120)
        return load(*given, **options)

    monkeypatch.setattr(Reranker, "load", slow)
    thread = threading.Thread(target=ResiftRanker(model=artifact).warm_up)
    thread.start()
    try:
        assert loading.wait(120)
        monkeypatch.setattr(Reranker, "load", load)
        assert in_child(lambda: texts(ResiftRanker(model=artifact).run(QUERY, DOCUMENTS)["documents"])) == expected
    finally:
        forked.set()
        thread.join()


def test_without_haystack_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "haystack", None)
    monkeypatch.delitem(sys.modules, "resift.integrations.haystack")
    with pytest.raises(ExtraError, match=r"pip install 'resift\[haystack\]'"):
        importlib.import_module("resift.integrations.haystack")


def test_what_a_budget_leaves_unread_follows_with_falling_numbers_unless_there_is_a_threshold(reranker):
    hasty = ResiftRanker(reranker=reranker, budget_ms=1e-6, top_k=None)
    found = hasty.run(QUERY, DOCUMENTS)["documents"]
    assert texts(found) == TEXTS
    scores = [document.score for document in found]
    assert scores == sorted(set(scores), reverse=True)
    assert 0 < min(scores) <= max(scores) < 1
    assert hasty.run(QUERY, DOCUMENTS, score_threshold=0.0)["documents"] == []
    assert asyncio.run(hasty.run_async(QUERY, DOCUMENTS))["documents"] == found


def test_plan_and_budget_go_through_yaml():
    pipeline = Pipeline()
    pipeline.add_component("ranker", ResiftRanker(plan="full", budget_ms=50.0))
    loaded = Pipeline.loads(pipeline.dumps(), allowed_modules=TRUSTED).get_component("ranker")
    assert (loaded.plan, loaded.budget_ms) == ("full", 50.0)
    with pytest.raises(TypeError, match="plan is int; expected a str"):
        ResiftRanker(plan=3)
