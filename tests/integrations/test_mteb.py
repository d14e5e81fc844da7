"""A Reranker as mteb's cross-encoder, on tiny tasks of mteb's own. Needs mteb 2."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from resift.errors import ExtraError, InputError
from resift.integrations.mteb import MtebCrossEncoder

QUERIES = ["how do tides work", "how do tides work", "why does bread rise"]
DOCUMENTS = ["Bread rises by yeast.", "The moon pulls the sea.", "Yeast makes gas."]


@pytest.fixture
def model(reranker):
    pytest.importorskip("mteb", minversion="2")
    return MtebCrossEncoder(reranker)


def batches(texts, size):
    """As mteb's loaders give them."""
    return [{"text": texts[start : start + size], "id": list(range(size))} for start in range(0, len(texts), size)]


def test_mteb_evaluates_it_as_the_ranker_ranks(model, reranker):
    import mteb
    from mteb.mocks.mock_tasks import MockRerankingTask

    results = mteb.evaluate(model, MockRerankingTask(), cache=None)
    assert (results.model_name, results.model_revision) == (model.mteb_model_meta.name, reranker.artifact.fingerprint())
    [found] = results.task_results
    task = MockRerankingTask()
    task.load_data()
    data = task.dataset["default"]["test"]
    texts = {row["id"]: f"{row['title']} {row['text']}".strip() for row in data["corpus"]}
    places = []
    for row in data["queries"]:
        pool = data["top_ranked"][row["id"]]
        ranked = [pool[result.index] for result in reranker.rerank(row["text"], [texts[name] for name in pool])]
        [relevant] = [name for name, grade in data["relevant_docs"][row["id"]].items() if grade]
        places.append(1 / (1 + ranked.index(relevant)))
    assert found.get_score() == pytest.approx(np.mean(places))


def test_scores_are_the_logits_of_pairs_in_their_order(model, reranker):
    expected = [reranker.logits(query, [document])[0] for query, document in zip(QUERIES, DOCUMENTS, strict=True)]
    for size in (1, 2, 3):
        found = model.predict(
            batches(QUERIES, size), batches(DOCUMENTS, size), task_metadata=None, hf_split="test", hf_subset="default"
        )
        assert found.tolist() == expected
    assert model.predict([], []).tolist() == []


def test_a_task_without_text_is_refused(model):
    with pytest.raises(InputError, match="mteb's task has image, but no text; expected a task on text"):
        model.predict([{"image": []}], [{"text": ["a"]}])


def test_without_mteb_it_is_named(reranker, monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    monkeypatch.setitem(sys.modules, "mteb.models", None)
    with pytest.raises(ExtraError, match=r"needs mteb 2, which cannot be imported .*pip install 'mteb>=2'"):
        MtebCrossEncoder(reranker)
