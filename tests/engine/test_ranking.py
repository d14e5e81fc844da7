from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resift import RankedDocument, Ranking

# Few distinct values, so that ties are common.
LOGITS = st.lists(st.integers(-4, 4).map(lambda value: value / 4), max_size=40)


def rank(logits, **keywords):
    values = np.array(logits, np.float32)
    documents = [f"document {index}" for index in range(len(values))]
    return Ranking.from_logits(documents, values, values / 10, np.arange(len(values), dtype=np.int32) * 3, **keywords)


@settings(deadline=None)
@given(LOGITS)
def test_results_are_sorted_by_logit_and_ties_keep_the_callers_order(logits):
    assert [result.index for result in rank(logits)] == sorted(range(len(logits)), key=lambda index: (-logits[index], index))


@settings(deadline=None)
@given(LOGITS)
def test_every_result_carries_its_own_documents_columns(logits):
    for result in rank(logits):
        assert result.document == f"document {result.index}"
        assert result.logit == logits[result.index]
        assert result.score == pytest.approx(logits[result.index] / 10, rel=1e-6)
        assert result.tokens_cut == result.index * 3
        assert result.tokens_cut_at_least is False


@settings(deadline=None)
@given(LOGITS, st.integers(1, 50))
def test_top_k_is_a_prefix_of_the_whole_ranking(logits, top_k):
    best = rank(logits, top_k=top_k)
    assert best.results == rank(logits).results[:top_k]
    assert len(best) == min(top_k, len(logits))


def test_ranking_goes_by_logit_where_scores_saturate():
    logits, scores = np.array([30, 40, 35], np.float32), np.ones(3, np.float32)
    assert [result.index for result in Ranking.from_logits(["a", "b", "c"], logits, scores, np.zeros(3, np.int32))] == [1, 2, 0]


def test_values_are_plain_python_numbers():
    for result in rank([0.5, 1.5]):
        assert [type(value) for value in (result.index, result.score, result.logit, result.tokens_cut)] == [int, float, float, int]


def test_a_ranking_becomes_json():
    ranking = rank([0.5, 1.5], query_tokens_cut=7, at_least=np.array([False, True]))
    assert json.loads(json.dumps(asdict(ranking))) == {
        "results": [
            {
                "index": 1,
                "score": pytest.approx(0.15),
                "logit": 1.5,
                "document": "document 1",
                "tokens_cut": 3,
                "tokens_cut_at_least": True,
            },
            {
                "index": 0,
                "score": pytest.approx(0.05),
                "logit": 0.5,
                "document": "document 0",
                "tokens_cut": 0,
                "tokens_cut_at_least": False,
            },
        ],
        "query_tokens_cut": 7,
    }


def test_a_ranking_is_a_sequence_of_its_results():
    ranking = rank([1, 3, 2])
    assert isinstance(ranking, Sequence)
    assert isinstance(ranking[0], RankedDocument)
    assert [result.index for result in reversed(ranking)] == [0, 2, 1]
    assert ranking[-1].index == 0
    assert ranking[:2] == ranking.results[:2]
    assert ranking[1] in ranking
    with pytest.raises(IndexError):
        ranking[3]


def test_no_documents_rank_as_an_empty_sequence():
    assert list(rank([])) == []
    assert not rank([])
