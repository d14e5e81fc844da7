"""Measures are trec_eval's, of the ranking itself."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from resift.errors import ExtraError, InputError
from resift.evaluate.measures import MEASURES, Judge, parse_measures

pytest.importorskip("ir_measures")

TREC_NAMES = {"nDCG@10": "ndcg_cut_10", "P@1": "P_1", "AP": "map", "R@10": "recall_10", "RR": "recip_rank", "Rprec": "Rprec"}


@pytest.fixture
def judged():
    """30 queries of 1 to 40 candidates with graded labels, judgements outside the pools, and random logits without ties."""
    random = np.random.default_rng(5)
    docids = [[f"d{number}" for number in random.permutation(60)[: random.integers(1, 41)]] for _ in range(30)]
    qids = [f"q{number}" for number in range(30)]
    qrels = {qid: {f"d{number}": int(random.integers(0, 4)) for number in random.permutation(60)[:20]} for qid in qids}
    return qids, docids, qrels, [random.permutation(len(ids)).astype(np.float64) for ids in docids]


def test_values_are_those_of_trec_eval_for_the_same_scores(judged):
    import pytrec_eval

    qids, docids, qrels, scores = judged
    found = Judge(list(TREC_NAMES), qids, docids, qrels).values([np.argsort(-values) for values in scores])
    runs = {qid: dict(zip(ids, values.tolist(), strict=True)) for qid, ids, values in zip(qids, docids, scores, strict=True)}
    expected = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "P.1", "map", "recall.10", "recip_rank", "Rprec"}).evaluate(
        runs
    )
    for name, trec_name in TREC_NAMES.items():
        assert found[name] == pytest.approx([expected[qid][trec_name] for qid in qids], abs=1e-6)
        assert 0 < found[name].mean() < 1


def test_a_case_computed_by_hand():
    # Relevant: a (3), c (1) in the pool, e (2) outside it. Ranked: b, a, c.
    judge = Judge(
        ["nDCG@10", "nDCG@2", "P@1", "RR@10", "AP", "R@10"], ["q"], [["a", "b", "c"]], {"q": {"a": 3, "c": 1, "e": 2, "b": 0}}
    )
    found = {name: values[0] for name, values in judge.values([np.array([1, 0, 2])]).items()}
    gain = 3 / math.log2(3)
    assert found == {
        "nDCG@10": pytest.approx((gain + 1 / math.log2(4)) / (3 + 2 / math.log2(3) + 1 / math.log2(4))),
        "nDCG@2": pytest.approx(gain / (3 + 2 / math.log2(3))),
        "P@1": 0,
        "RR@10": 0.5,
        "AP": pytest.approx((1 / 2 + 2 / 3) / 3),
        "R@10": pytest.approx(2 / 3),
    }


def test_ids_that_trec_eval_would_misread_or_sort_by():
    # trec_eval breaks ties by the larger id, and reads ids as C strings: "x\0a" and "x\0b" would be one document.
    docids = ["z", "x\0a", "x\0b", "\ud800", ""]
    judge = Judge(["P@1", "R@2"], ["\0", "\0q"], [docids, docids], {"\0": {"x\0b": 1}, "\0q": {"": 1}})
    assert judge.values([np.array([2, 0, 1, 3, 4]), np.array([4, 0, 1, 2, 3])])["P@1"].tolist() == [1, 1]
    assert judge.values([np.array([0, 1, 2, 3, 4]), np.array([4])])["R@2"].tolist() == [0, 1]


def test_an_order_may_leave_candidates_out():
    judge = Judge(["R@10"], ["q", "p"], [["a", "b"], ["a"]], {"q": {"a": 1, "b": 1}, "p": {"a": 1}})
    assert judge.values([np.array([0]), np.array([], np.int64)])["R@10"].tolist() == [0.5, 0]


def test_names_are_those_of_ir_measures_without_repetitions():
    assert [str(measure) for measure in parse_measures(["MRR@10", "NDCG@10", "nDCG@10", "P(rel=2)@5"])] == [
        "RR@10",
        "nDCG@10",
        "P(rel=2)@5",
    ]
    assert [str(measure) for measure in parse_measures(MEASURES)] == list(MEASURES)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "nDCG10x",
        "nDCG@",
        "P@0",
        "RR@0",
        "P@1.5",
        "P",
        "P@-1",
        "P(rel=0)@5",
        "P(rel='a')@5",
        "alpha_nDCG@5",
        "a\0b",
        "P(**{})@1",
    ],
)
def test_a_measure_that_cannot_be_computed_is_refused_before_anything_is_scored(name):
    with pytest.raises(InputError, match=r"measure .* cannot be computed .*expected a name of ir-measures, such as nDCG@10"):
        parse_measures(["nDCG@10", name])


def test_no_measures():
    with pytest.raises(InputError, match="at least one"):
        parse_measures([])


def test_a_query_without_judgements():
    with pytest.raises(InputError, match="query 'p' has no judgements"):
        Judge(["AP"], ["q", "p"], [["a"], ["a"]], {"q": {"a": 1}, "p": {}})


def test_one_candidate_twice():
    with pytest.raises(InputError, match="query 'q' has the candidate 'a' twice"):
        Judge(["AP"], ["q"], [["b", "a", "a"]], {"q": {"a": 1}})


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    with pytest.raises(ExtraError, match=r"pip install 'resift\[eval\]'"):
        parse_measures(["AP"])
