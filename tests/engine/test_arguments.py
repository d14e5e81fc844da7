"""What callers pass beside texts: counts of numpy's, a model's name in the wrong place, the scale of scores."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import resift
from resift import Plan, Reranker, Settings, Stage
from resift.inputs import check_count
from resift.scoring import activate
from tests.support import tiny

QUERY = "how do tides work"
DOCUMENTS = tiny.texts()[1:16:2]


@pytest.mark.parametrize("top_k", [3, np.int64(3), np.uint8(3), np.array(3)], ids=["int", "int64", "uint8", "array"])
def test_top_k_is_any_whole_number_and_may_be_the_third_argument(reranker, top_k):
    expected = reranker.rerank(QUERY, DOCUMENTS, top_k=3)

    async def later():
        many = await reranker.arerank_many([QUERY], [DOCUMENTS], top_k)
        return [await reranker.arerank(QUERY, DOCUMENTS, top_k), *many]

    assert reranker.rerank(QUERY, DOCUMENTS, top_k) == expected
    assert reranker.rerank_many([QUERY], [DOCUMENTS], top_k) == [expected]
    assert asyncio.run(later()) == [expected, expected]
    assert reranker.submit(QUERY, DOCUMENTS, top_k=top_k).result().logits.tolist() == reranker.logits(QUERY, DOCUMENTS).tolist()


@pytest.mark.parametrize("top_k", [3.0, np.float32(3), np.True_, "3", np.array([3])])
def test_anything_else_is_no_count(reranker, top_k):
    with pytest.raises(TypeError, match=f"top_k is {type(top_k).__name__}; expected an int or None"):
        reranker.rerank(QUERY, DOCUMENTS, top_k)


def test_budgets_and_limits_of_numpys(reranker):
    ranking = reranker.rerank(QUERY, DOCUMENTS, budget_ms=np.float32(1e6))
    assert [result.index for result in ranking] == [result.index for result in reranker.rerank(QUERY, DOCUMENTS)]
    [short, plain] = (asyncio.run(reranker.aencode(QUERY, DOCUMENTS, document_tokens=count)) for count in (np.int64(3), 3))
    assert short.lengths.tolist() == plain.lengths.tolist()


def test_counts_of_numpys_are_recorded_as_int():
    """What is written to journals and results of evaluations must be numbers of JSON."""
    found = [check_count("n", count) for count in (3, np.int64(3), np.uint8(3), np.array(3))]
    assert [(type(count), count) for count in found] == [(int, 3)] * 4


def test_a_plan_keeps_numbers_of_numpys(planned):
    plan = Plan([Stage("first-look", keep=np.int64(4)), Stage("full")])
    assert str(plan) == "first-look:4,full"
    assert Stage("first-look", keep=np.float64(0.5)) == Stage("first-look", keep=0.5)
    assert planned.rerank(QUERY, DOCUMENTS, plan=plan) == planned.rerank(QUERY, DOCUMENTS, plan="first-look:4,full")
    for keep in (np.True_, np.array([4]), 4j):
        with pytest.raises(TypeError, match=r"Stage\.keep is"):
            Stage("first-look", keep=keep)


@pytest.mark.parametrize("name", ["ms-marco-minilm-l12", Path("artifacts") / "mine", None], ids=["a name", "a path", "nothing"])
def test_a_name_in_place_of_an_artifact_says_how_to_load_it(name):
    with pytest.raises(TypeError) as refused:
        Reranker(name)
    assert str(refused.value) == f"artifact is {type(name).__name__}; expected an Artifact: use Reranker.load({name!r})"


@pytest.mark.parametrize("scores", ["logit", "sigmoid", "auto"])
def test_scores_are_on_the_scale_of_the_settings(reranker, artifact, scores):
    logits = reranker.logits(QUERY, DOCUMENTS)
    assert reranker.resolved.scores == "sigmoid", "what this model declares"
    expected = logits.tolist() if scores == "logit" else activate(logits, "sigmoid").tolist()
    pairs = [(QUERY, document) for document in DOCUMENTS]

    async def later(loaded):
        return [(await loaded.ascore(QUERY, DOCUMENTS)).tolist(), (await loaded.ascore_pairs(pairs)).tolist()]

    with Reranker.load(artifact, settings=Settings(scores=scores)) as loaded:
        ranking = loaded.rerank(QUERY, DOCUMENTS)
        assert loaded.resolved.scores == ("logit" if scores == "logit" else "sigmoid")
        assert loaded.logits(QUERY, DOCUMENTS).tolist() == logits.tolist()
        assert loaded.score(QUERY, DOCUMENTS).tolist() == loaded.score_pairs(pairs).tolist() == expected
        assert asyncio.run(later(loaded)) == [expected, expected]
        assert {result.index: result.score for result in ranking} == dict(enumerate(expected))
        assert [result.index for result in ranking] == [result.index for result in reranker.rerank(QUERY, DOCUMENTS)]
        assert json.loads(json.dumps(loaded.score(QUERY, DOCUMENTS).tolist())) == expected


def test_a_model_of_logits_scores_sigmoids_where_they_are_asked_for():
    with Reranker.load() as plain, Reranker.load(settings=Settings(scores="sigmoid")) as loaded:
        assert plain.resolved.scores == "logit"
        expected = activate(plain.score(QUERY, DOCUMENTS), "sigmoid").tolist()
        assert loaded.score(QUERY, DOCUMENTS).tolist() == expected


def test_the_version_is_that_of_the_package_and_costs_no_import():
    assert resift.__version__ == importlib.metadata.version("resift")
    assert "__version__" in dir(resift)
    code = "import resift, sys; resift.__version__; print({'numpy', 'onnxruntime', 'tokenizers'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
