"""evaluate: what is compared with what, on the built-in gate pools and with systems made for the test."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

import resift_export
from resift import Settings
from resift.errors import InputError
from resift.evaluate import ArtifactSystem, GivenOrder, ScoresFile, evaluate, read_dataset
from resift.evaluate.lengths import measure_lengths
from resift.evaluate.results import Evaluation
from resift.evaluate.systems import Columns, Scorer
from resift.metrics import kendall_tau, ndcg, top_overlap
from resift.pools.reading import CandidatePool

pytest.importorskip("ir_measures")

GATE = Path(resift_export.__file__).parent / "data" / "gate.jsonl"


@pytest.fixture(scope="module")
def data():
    """12 labelled pools of ten documents."""
    return read_dataset(GATE, limit=12)


@pytest.fixture(scope="module")
def both(data, artifact):
    """The order given against the tiny artifact's int8 and float32."""
    return evaluate(data, [ArtifactSystem(artifact, Settings(precision=precision)) for precision in ("int8", "float32")])


@pytest.fixture(scope="module")
def logits(data, artifact):
    """The same, scored without evaluate."""
    from resift import Reranker

    found = []
    for precision in ("int8", "float32"):
        with Reranker.load(artifact, settings=Settings(precision=precision)) as reranker:
            found.append([reranker.logits(pool.query, pool.documents) for pool in data.pools])
    return found


class Fixed:
    """A system that scores candidates by a function of their positions, and notes what it is asked."""

    def __init__(self, name, function, asked=None, *, is_timed=False):
        self.name, self.function, self.asked, self.is_timed = name, function, asked if asked is not None else [], is_timed

    @contextmanager
    def open(self, pools):
        def score(pool):
            self.asked.append((self.name, pool.qid))
            keys = self.function(np.arange(len(pool.documents), dtype=np.float64))
            return Columns(keys, keys)

        yield Scorer(name=self.name, kind="scores", score=score, is_timed=self.is_timed)
        self.asked.append((self.name, "closed"))


def pools(*labels):
    """Pools labelled as given, each with the judgements of its own candidates."""
    made = [
        CandidatePool(
            f"query {number}",
            [f"{number} {place}" for place in range(len(row))],
            f"q{number}",
            [{"docid": f"d{place}"} for place in range(len(row))],
        )
        for number, row in enumerate(labels)
    ]
    qrels = {f"q{number}": {f"d{place}": label for place, label in enumerate(row)} for number, row in enumerate(labels)}
    return replace(read_dataset(GATE, limit=1), name="made", pools=made, qrels=qrels, left_out={})


def named(evaluation, name):
    return next(system for system in evaluation.systems if system.name == name)


def test_quality_is_that_of_the_logits(data, both, logits):
    labels = [data.labels(pool) for pool in data.pools]
    given, int8, float32 = both.systems
    assert [system.kind for system in both.systems] == ["given", "artifact", "artifact"]
    assert [system.precision for system in both.systems] == [None, "int8", "float32"]
    for system, keys in ((given, [-np.arange(10.0)] * 12), (int8, logits[0]), (float32, logits[1])):
        assert system.per_query["nDCG@10"] == pytest.approx([ndcg(*pair) for pair in zip(labels, keys, strict=True)], abs=1e-6)
        assert system.measures["nDCG@10"] == pytest.approx(np.mean(system.per_query["nDCG@10"]))
    assert given.differences == {}
    assert int8.differences["nDCG@10"].value == pytest.approx(int8.measures["nDCG@10"] - given.measures["nDCG@10"])
    assert int8.differences["nDCG@10"].low <= int8.differences["nDCG@10"].value <= int8.differences["nDCG@10"].high


def test_agreement_is_with_float32(both, logits):
    assert named(both, both.systems[2].name).agreement is None
    found = both.systems[1].agreement
    pairs = list(zip(logits[1], logits[0], strict=True))
    assert found.reference == both.systems[2].name
    assert found.tau == pytest.approx(np.mean([kendall_tau(*pair) for pair in pairs]))
    assert found.worst_tau == pytest.approx(min(kendall_tau(*pair) for pair in pairs))
    assert found.overlap == pytest.approx(np.mean([top_overlap(*pair) for pair in pairs]))


def test_only_models_are_timed(both):
    given, *models = both.systems
    assert given.latency_ms is given.pairs_per_second is None
    for system in models:
        assert 0 < system.latency_ms.p50 <= system.latency_ms.p95
        assert system.pairs_per_second > 0


def test_smaller_pools_are_derived_as_if_they_had_been_scored(data, both, artifact):
    assert both.sizes == [5, 10]
    five = evaluate(data.first(5), [ArtifactSystem(artifact, Settings(precision="int8"))])
    for whole, small in zip(both.systems[:2], five.systems, strict=True):
        assert whole.by_size["nDCG@10"] == [pytest.approx(small.measures["nDCG@10"]), pytest.approx(whole.measures["nDCG@10"])]
    assert both.recall[1] == 1
    shares = [
        sum(label > 0 for label in data.labels(pool)[:5]) / sum(label > 0 for label in data.labels(pool)) for pool in data.pools
    ]
    assert both.recall[0] == pytest.approx(np.mean(shares))


def test_regressions_are_the_worst_queries_with_both_rankings(data, both, logits):
    system = both.systems[1]
    change = np.array(system.per_query["nDCG@10"]) - np.array(both.systems[0].per_query["nDCG@10"])
    worse = [data.pools[number].qid for number in np.argsort(change, kind="stable")[:5] if change[number] < 0]
    found = [regression for regression in both.regressions if regression.system == system.name]
    assert [regression.qid for regression in found] == worse
    assert worse
    number = next(number for number, pool in enumerate(data.pools) if pool.qid == worse[0])
    pool, order = data.pools[number], np.argsort(-logits[0][number], kind="stable")
    assert [place.given_rank for place in found[0].before] == [1, 2, 3, 4, 5]
    assert [place.given_rank - 1 for place in found[0].after] == order[:5].tolist()
    assert [place.docid for place in found[0].after] == [pool.fields[position]["docid"] for position in order[:5]]
    assert [place.label for place in found[0].after] == [data.labels(pool)[position] for position in order[:5]]
    assert found[0].after[0].text == pool.documents[order[0]][:300]
    assert found[0].value - found[0].baseline == pytest.approx(change.min())


def test_the_record_is_json_and_back(both):
    assert msgspec.json.decode(msgspec.json.encode(both), type=Evaluation) == both
    assert next(iter(msgspec.json.decode(msgspec.json.encode(both)))) == "data"
    assert {"resift", "numpy", "ir-measures", "onnxruntime"} <= both.versions.keys()
    assert both.created.endswith("+00:00")


def test_a_file_of_the_same_ranking_measures_the_same(both, data, logits, file):
    lines = [
        {
            "qid": pool.qid,
            "results": [{"index": int(place), "score": float(row[place])} for place in np.argsort(-row, kind="stable")],
        }
        for pool, row in zip(data.pools, logits[0], strict=True)
    ]
    path = file(b"\n".join(map(msgspec.json.encode, lines)), "other.jsonl")
    found = evaluate(data, [ScoresFile(path)]).systems[1]
    assert (found.name, found.kind, found.latency_ms, found.unscored) == ("other.jsonl", "scores", None, 0)
    assert found.per_query == both.systems[1].per_query
    assert sum(found.scores.relevant) == sum(both.systems[1].scores.relevant) > 0


def test_judgements_outside_the_pools_count():
    data = pools([1, 0])
    outside = replace(data, qrels={"q0": {**data.qrels["q0"], "elsewhere": 1}, "not evaluated": {"x": 1}})
    found = evaluate(outside, measures=["nDCG@10", "AP"])
    assert found.systems[0].measures["nDCG@10"] == pytest.approx(1 / (1 + 1 / np.log2(3)))
    assert found.systems[0].measures["AP"] == 0.5
    assert (found.recall, found.data.judgements) == ([0.5], 3)
    assert (found.queries[0].relevant, found.queries[0].judged_relevant) == (1, 2)


def test_equal_scores_keep_the_order_given():
    found = evaluate(pools([1, 0, 0], [0, 2, 1]), [Fixed("flat", np.zeros_like)])
    assert found.systems[1].per_query == found.systems[0].per_query
    assert found.systems[1].differences["nDCG@10"].p_value == 1


def test_the_baseline_may_be_any_system():
    found = evaluate(pools([0, 1], [0, 1]), [Fixed("reversed", lambda places: places)], measures=["P@1"], baseline="reversed")
    assert found.baseline == "reversed"
    assert (named(found, "reversed").differences, named(found, "reversed").measures) == ({}, {"P@1": 1})
    assert named(found, "order given").differences["P@1"].value == -1
    assert {regression.system for regression in found.regressions} == {"order given"}
    assert found.regressions[0].before[0].score == 1
    assert found.regressions[0].after[0].score is None


def test_systems_score_every_pool_in_turning_order_after_one_pool_each():
    asked = []
    systems = [Fixed(name, np.negative, asked, is_timed=True) for name in "ab"]
    evaluate(pools([1, 0], [0, 1], [1, 1]), systems)
    assert asked[:2] == [("a", "q0"), ("b", "q0")]
    assert asked[2:8] == [("a", "q0"), ("b", "q0"), ("a", "q1"), ("b", "q1"), ("b", "q2"), ("a", "q2")]
    assert asked[8:] == [("b", "closed"), ("a", "closed")]


def test_progress_is_told_after_each_pool():
    told = []
    systems = [Fixed(name, np.negative, is_timed=True) for name in "ab"]
    evaluate(pools([1, 0], [0, 1, 1]), systems, progress=lambda **told_now: told.append(told_now))
    assert told == [{"pools": 1, "pairs": 4, "share": 0.5}, {"pools": 2, "pairs": 10, "share": 1.0}]


def test_histograms_hold_every_score():
    found = evaluate(pools([1, 0, 2], [0, 1]), [Fixed("by place", lambda places: places / 2)]).systems[1].scores
    assert (sum(found.relevant), sum(found.other)) == (3, 2)
    assert (found.edges[0], found.edges[-1]) == (0, 1)
    assert (found.relevant[-1], found.other[0]) == (1, 1)


@pytest.mark.parametrize(
    ("systems", "options", "message"),
    [
        ([GivenOrder()], {}, "two systems are named 'order given'"),
        ([], {"baseline": "int8"}, "the baseline is 'int8'; expected one of the systems: 'order given'"),
        ([], {"reference": "torch"}, "the reference is 'torch'"),
        ([], {"measures": ["nDCG@0"]}, "measure 'nDCG@0'"),
    ],
)
def test_names_that_are_not_there_are_refused_before_anything_is_scored(systems, options, message):
    fixed = Fixed("x", np.negative)
    with pytest.raises(InputError, match=message):
        evaluate(pools([1, 0]), [fixed, *systems], **options)
    assert not [entry for entry in fixed.asked if entry[1] != "closed"]


def test_nothing_to_evaluate():
    nothing = replace(pools([1, 0]), pools=[], left_out={"not judged": 3})
    with pytest.raises(InputError, match=r"made has no query to evaluate \(not judged: 3\)"):
        evaluate(nothing)


def test_lengths_before_the_cut(artifact):
    from resift import Reranker

    with Reranker.load(artifact, settings=Settings(max_length=32)) as reranker:
        words = [CandidatePool("a", ["a", "a " * 40, "a " * 200])]
        scored = reranker.submit("a", words[0].documents).result()
        found = measure_lengths(reranker, words, [scored])
        whole = measure_lengths(reranker, [CandidatePool("a", ["a"])], [reranker.submit("a", ["a"]).result()])
    cut = scored.tokens_cut.tolist()
    assert (found.pairs, found.pairs_cut, found.max_length) == (3, 2, 32)
    assert sum(found.counts) == 3
    assert found.edges[-1] >= 204 > found.edges[-2]  # the longest: 200 + the query + three special tokens
    assert cut[2] == 200 - (32 - 4)
    assert found.mean_share_cut == pytest.approx((cut[1] / 40 + cut[2] / 200) / 2)
    assert (whole.pairs_cut, whole.mean_share_cut, sum(whole.counts)) == (0, 0, 1)
