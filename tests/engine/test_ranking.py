from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resift import RankedDocument, Ranking
from resift.ranking import decreasing
from tests.support.columns import columns_of

# Few distinct values, so that ties are common.
LOGITS = st.lists(st.integers(-4, 4).map(lambda value: value / 4), max_size=40)


def rank(logits, **keywords):
    values = np.array(logits, np.float32)
    documents = [f"document {index}" for index in range(len(values))]
    top_k = keywords.pop("top_k", None)
    return Ranking.of(
        documents, columns_of(values, scores=values / 10, tokens_cut=np.arange(len(values)) * 3, **keywords), top_k=top_k
    )


@given(LOGITS)
def test_results_are_sorted_by_logit_and_ties_keep_the_callers_order(logits):
    assert [result.index for result in rank(logits)] == sorted(range(len(logits)), key=lambda index: (-logits[index], index))


@given(LOGITS)
def test_every_result_carries_its_own_documents_columns(logits):
    for result in rank(logits):
        assert result.document == f"document {result.index}"
        assert result.logit == logits[result.index]
        assert result.score == pytest.approx(logits[result.index] / 10, rel=1e-6)
        assert result.tokens_cut == result.index * 3
        assert result.tokens_cut_at_least is False


@given(LOGITS, st.integers(1, 50))
def test_top_k_is_a_prefix_of_the_whole_ranking(logits, top_k):
    best = rank(logits, top_k=top_k)
    assert best.results == rank(logits).results[:top_k]
    assert len(best) == min(top_k, len(logits))


def test_ranking_goes_by_logit_where_scores_saturate():
    saturated = columns_of([30, 40, 35], scores=np.ones(3, np.float32))
    assert [result.index for result in Ranking.of(["a", "b", "c"], saturated)] == [1, 2, 0]


def test_values_are_plain_python_numbers():
    for result in rank([0.5, 1.5]):
        assert [type(value) for value in (result.index, result.score, result.logit, result.tokens_cut)] == [int, float, float, int]


def test_a_ranking_becomes_json():
    ranking = rank([0.5, 1.5], query_tokens_cut=7, tokens_cut_at_least=np.array([False, True]))
    assert json.loads(json.dumps(asdict(ranking))) == {
        "results": [
            {
                "index": 1,
                "score": pytest.approx(0.15),
                "logit": 1.5,
                "document": "document 1",
                "tokens_cut": 3,
                "tokens_cut_at_least": True,
                "scored_by": "full",
                "windows": 1,
                "window": 0,
                "probability": None,
                "text": "document 1",
            },
            {
                "index": 0,
                "score": pytest.approx(0.05),
                "logit": 0.5,
                "document": "document 0",
                "tokens_cut": 0,
                "tokens_cut_at_least": False,
                "scored_by": "full",
                "windows": 1,
                "window": 0,
                "probability": None,
                "text": "document 0",
            },
        ],
        "query_tokens_cut": 7,
        "windowed": False,
        "calibrated": False,
        "without_score": 0,
        "states": None,
    }


def test_a_ranking_becomes_one_line_of_json_and_rows():
    ranking = Ranking.of(["a\nb", "half \ud83d"], columns_of([1, 2], query_tokens_cut=7))
    assert (
        json.loads(ranking.to_json())
        == ranking.to_dict()
        == {
            "results": ranking.to_list(),
            "query_tokens_cut": 7,
            "windowed": False,
            "calibrated": False,
            "without_score": 0,
            "states": None,
        }
    )
    assert ranking.to_list() == [
        {
            "index": index,
            "id": None,
            "score": score,
            "logit": score,
            "document": document,
            "tokens_cut": 0,
            "tokens_cut_at_least": False,
            "scored_by": "full",
            "windows": 1,
            "window": 0,
            "probability": None,
        }
        for index, score, document in ((1, 2.0, "half \ufffd"), (0, 1.0, "a\nb"))
    ]
    assert len(ranking.to_json().splitlines()) == 1
    assert ranking[0].document == "half \ud83d"


def test_documents_are_read_once_and_by_position():
    documents = pd.Series(["a", "b"], index=[1, 0])
    assert [result.document for result in Ranking.of(documents, columns_of([1, 2]))] == ["b", "a"]
    assert Ranking.of(iter(documents), columns_of([1, 2]), top_k=np.int64(1)) == Ranking.of(documents, columns_of([1, 2]), top_k=1)


def test_columns_become_json():
    columns = planned_columns([9.0, -3.0, np.nan], [1, 2, 0])
    found = columns.to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["logits"] == [9.0, -3.0, None]
    assert found["scores"] == [None, pytest.approx(-0.3), None]
    assert (found["stages_done"], found["graphs"], found["windows"]) == ([1, 2, 0], list(STAGES), None)


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


STAGES = ("first-look", "full")


def planned_columns(logits, read):
    """Columns after two stages; scores are a tenth of the logits of those that both read."""
    scores = np.where(np.array(read) == 2, np.array(logits, np.float32) / 10, np.nan).astype(np.float32)
    return columns_of(logits, scores=scores, graphs=STAGES, stages_done=np.array(read, np.int8))


def planned(logits, read, top_k=None):
    return Ranking.of([f"document {index}" for index in range(len(logits))], planned_columns(logits, read), top_k=top_k)


def test_what_a_later_stage_read_ranks_above_what_it_did_not():
    ranking = planned([9.0, -3.0, 8.0, -2.0, np.nan], [1, 2, 1, 2, 0])
    assert [(result.index, result.logit, result.scored_by) for result in ranking] == [
        (3, -2.0, "full"),
        (1, -3.0, "full"),
        (0, 9.0, "first-look"),
        (2, 8.0, "first-look"),
        (4, None, None),
    ]
    assert [result.score for result in ranking] == [pytest.approx(-0.2), pytest.approx(-0.3), None, None, None]
    json.dumps(asdict(ranking), allow_nan=False)
    assert json.loads(ranking.to_json())["results"][-1]["score"] is None


@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 2)), max_size=30), st.none() | st.integers(1, 40))
def test_within_a_stage_logits_decide_and_ties_keep_the_callers_order(rows, top_k):
    logits = [float(logit) if read else float("nan") for logit, read in rows]
    read = [read for _, read in rows]
    expected = sorted(range(len(rows)), key=lambda index: (-read[index], -logits[index] if read[index] else 0, index))
    assert [result.index for result in planned(logits, read, top_k=top_k)] == expected[:top_k]


@pytest.mark.parametrize(
    ("values", "least", "expected"),
    [
        ([], None, []),
        ([3.0, 2.0], None, [3.0, 2.0]),
        ([3.0, 2.5, None, None], None, [3.0, 2.5, 1.5, 0.5]),
        ([None, None], None, [-1.0, -2.0]),
        ([0.9, 0.6, None, None], 0.0, [0.9, 0.6, 0.4, 0.2]),
        ([None], 0.0, [0.5]),
        ([0.5, 0.25], 0.0, [0.5, 0.25]),
    ],
)
def test_numbers_decrease_below_the_last_one_known(values, least, expected):
    assert decreasing(values, minimum=least) == pytest.approx(expected)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.integers(1, 50))
def test_numbers_decrease_strictly_from_any_logit(logit, missing):
    found = decreasing([logit, *[None] * missing])
    assert found[0] == logit
    assert all(above > below for above, below in itertools.pairwise(found))


@given(st.floats(1e-6, 1.0), st.integers(1, 500))
def test_numbers_on_a_scale_stay_on_it(score, missing):
    found = decreasing([score, *[None] * missing], minimum=0.0)
    assert all(above > below > 0 for above, below in itertools.pairwise(found))
