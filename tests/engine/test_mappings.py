"""Documents with more than text, through a Reranker: read by the settings' template, returned as they were given."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import json
import pickle

import numpy as np
import pandas as pd
import pytest

from resift import Ranking, Reranker, Settings
from tests.support import tiny

QUERY = "how do tides work"
TEXTS = tiny.texts()[1:16:2]
TITLED = [{"id": number, "title": f"part {number}", "text": text} for number, text in enumerate(TEXTS)]
TEMPLATE = "{title}\n{text}"
JOINED = [f"part {number}\n{text}" for number, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def titled(artifact):
    with Reranker.load(artifact, settings=Settings(document_template=TEMPLATE)) as loaded:
        yield loaded


def test_every_method_reads_mappings_by_the_settings_template(reranker, titled):
    expected = reranker.logits(QUERY, JOINED).tolist()
    scores = reranker.score(QUERY, JOINED).tolist()
    pairs = [(QUERY, document) for document in TITLED]

    async def later():
        encoded = await titled.aencode(QUERY, TITLED)
        return [
            await titled.arerank(QUERY, TITLED),
            (await titled.arerank_many([QUERY], [TITLED]))[0],
            (await titled.ascore(QUERY, TITLED)).tolist(),
            (await titled.ascore_pairs(pairs)).tolist(),
            titled.submit_encoded(encoded).result().logits.tolist(),
        ]

    ranking = titled.rerank(QUERY, TITLED)
    assert [result.index for result in ranking] == [result.index for result in reranker.rerank(QUERY, JOINED)]
    assert asyncio.run(later()) == [ranking, ranking, scores, scores, expected]
    assert titled.rerank_many([QUERY], [TITLED]) == [ranking]
    assert titled.score(QUERY, TITLED).tolist() == titled.score_pairs(iter(pairs)).tolist() == scores
    assert titled.logits(QUERY, pd.Series(TITLED, index=range(len(TITLED), 0, -1))).tolist() == expected
    future = titled.submit(QUERY, TITLED)
    assert Ranking.of(TITLED, future.result(), texts=titled.texts(TITLED)) == ranking
    assert titled.texts([*TITLED, "text"]) == [*JOINED, "text"]


def test_results_hold_the_callers_own_documents_their_ids_and_what_was_read(titled):
    for result in titled.rerank(QUERY, TITLED):
        assert result.document is TITLED[result.index]
        assert (result.id, result.text) == (result.index, JOINED[result.index])


def test_without_a_template_the_text_is_read_and_both_kinds_mix(reranker):
    mixed = [document if number % 2 else text for number, (document, text) in enumerate(zip(TITLED, TEXTS, strict=True))]
    ranking = reranker.rerank(QUERY, mixed)
    assert [(result.index, result.text) for result in ranking] == [
        (result.index, result.document) for result in reranker.rerank(QUERY, TEXTS)
    ]
    assert {result.index: result.id for result in ranking} == {
        number: number if number % 2 else None for number in range(len(mixed))
    }
    assert Ranking.of(mixed, reranker.submit(QUERY, mixed).result()) == ranking


def test_equal_texts_with_different_ids_keep_a_row_each(reranker):
    documents = [{"id": "a", "text": "Tides."}, {"id": "b", "text": "Bread."}, {"id": "c", "text": "Tides."}, "Tides."]
    found = {result.id: result.logit for result in reranker.rerank(QUERY, documents)}
    assert found.keys() == {"a", "b", "c", None}
    assert found["a"] == found["c"] == found[None]


def test_a_text_that_a_template_leaves_empty_is_an_empty_document(reranker, artifact):
    with Reranker.load(artifact, settings=Settings(document_template="{body}")) as loaded:
        [result] = loaded.rerank(QUERY, [{"body": ""}])
    assert (result.text, result.logit) == ("", reranker.logits(QUERY, [""])[0])


def test_what_was_cut_is_counted_of_what_was_read(titled, reranker):
    long = {"title": "water " * 400, "text": "the end"}
    [result], [expected] = titled.rerank(QUERY, [long]), reranker.rerank(QUERY, [f"{long['title']}\nthe end"])
    assert (result.tokens_cut, result.logit) == (expected.tokens_cut, expected.logit)
    assert result.tokens_cut > 200


def test_each_field_is_looked_up_once_for_each_document(titled):
    asked = []

    class Watched(dict):
        def __getitem__(self, key):
            asked.append(key)
            return super().__getitem__(key)

        def get(self, key, default=None):
            asked.append(key)
            return super().get(key, default)

    titled.rerank(QUERY, [Watched(document) for document in TITLED])
    assert (asked.count("title"), asked.count("text")) == (len(TITLED), len(TITLED))


@pytest.mark.parametrize("make", [np.array, lambda texts: list(map(np.str_, texts))], ids=["array", "list"])
def test_numpys_texts_are_texts(reranker, make):
    assert reranker.logits(QUERY, make(TEXTS)).tolist() == reranker.logits(QUERY, TEXTS).tolist()
    json.dumps(reranker.rerank(QUERY, make(TEXTS)).to_dict())


def test_a_template_and_a_ranking_of_mappings_pickle(artifact, titled):
    loaded = pickle.loads(pickle.dumps(titled))
    with loaded:
        ranking = loaded.rerank(QUERY, TITLED)
    assert str(loaded.resolved.document_template) == TEMPLATE
    assert pickle.loads(pickle.dumps(ranking)) == ranking == titled.rerank(QUERY, TITLED)


def test_a_ranking_of_mappings_becomes_json(titled):
    documents = [
        {
            **TITLED[0],
            "id": np.int64(7),
            "vector": np.array([1.5, np.nan], np.float32),
            "share": float("inf"),
            "day": dt.datetime(2024, 2, 29, 12),
            "half": "\ud83d",
            3: {"tags": ("a", None), "ok": np.bool_(True)},  # noqa: FBT003 - numpy's
        }
    ]
    ranking = titled.rerank(QUERY, documents)
    [row] = ranking.to_list()
    assert row == json.loads(ranking.to_json())["results"][0]
    assert (row["index"], row["id"], row["score"], row["logit"]) == (0, 7, ranking[0].score, ranking[0].logit)
    assert row["document"] == {
        **TITLED[0],
        "id": 7,
        "vector": [1.5, None],
        "share": None,
        "day": "2024-02-29T12:00:00",
        "half": "\ufffd",
        "3": {"tags": ["a", None], "ok": True},
    }
    assert "\n" not in ranking.to_json()
    ranking.to_json().encode()


def test_a_ranking_is_a_type_that_pydantic_writes_as_fastapi_does(titled):
    pydantic = pytest.importorskip("pydantic")
    ranking = titled.rerank(QUERY, TITLED)
    written = json.loads(pydantic.TypeAdapter(Ranking).dump_json(ranking))
    assert written == json.loads(json.dumps(dataclasses.asdict(ranking)))


def test_results_of_mappings_hash_and_become_dicts(titled):
    ranking = titled.rerank(QUERY, TITLED)
    assert len(set(ranking)) == len(TITLED)
    assert dataclasses.asdict(ranking)["results"][0]["document"] == ranking[0].document
