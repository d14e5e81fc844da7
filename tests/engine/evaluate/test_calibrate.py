"""calibrate: maps and figures on numbers made for the test, and whole runs on pools whose labels follow an artifact's logits."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from resift import InputError, Reranker, Settings
from resift.calibration import sigmoid
from resift.evaluate import calibrate, diagnose, read_dataset
from resift.evaluate.calibration.maps import BLOCKS, PlattMap, choose, fit_isotonic, fit_platt, splits
from resift.evaluate.calibration.reliability import reliability, shares
from resift.evaluate.calibration.sample import Sample
from resift.evaluate.calibration.thresholds import Fold, Target, round_down, threshold
from tests.support import tiny

TEXTS = tiny.texts()


def sample_of(logits, relevant, queries=None):
    """One pair a row; each has a query of its own, unless they are named."""
    names = range(len(logits)) if queries is None else queries
    rows = zip(names, logits, relevant, strict=True)
    return Sample.of((f"q{name}", np.array([logit], float), np.array([mark], bool)) for name, logit, mark in rows)


def drawn(probability, queries=100, pairs=40, seed=0):
    """Pairs whose relevance is drawn with the probability of their logit."""
    chance = np.random.default_rng(seed)
    logits = chance.normal(0, 4, (queries, pairs))
    return Sample.of(zip(map(str, range(queries)), logits, chance.random((queries, pairs)) < probability(logits), strict=True))


def smoothed(sample):
    relevant, other = sample.relevant.sum(), (~sample.relevant).sum()
    return np.where(sample.relevant, (relevant + 1) / (relevant + 2), 1 / (other + 2))


def line(logits):
    return sigmoid(0.7 * logits - 1.2)


def step(logits):
    """What no line fits: two levels."""
    return np.where(logits > 1, 0.6, 0.05)


# Samples


def test_queries_that_only_differ_in_case_or_white_space_are_one_and_pairs_without_a_logit_are_left_out():
    pools = [("How do tides work", [1, np.nan]), ("why", [2]), ("how  do TIDES work ", [3])]
    sample = Sample.of((query, np.array(logits, float), np.array([True, False][: len(logits)])) for query, logits in pools)
    assert (sample.logits.tolist(), sample.queries.tolist(), sample.size) == ([1, 2, 3], [0, 1, 0], 2)


def test_no_query_is_in_two_folds_and_folds_are_seeded():
    sample = sample_of(np.arange(60), np.arange(60) % 2, [number % 20 for number in range(60)])
    seen = []
    for others, rows in splits(sample, 11):
        held_out = set(sample.queries[rows].tolist())
        assert not held_out & set(others.queries.tolist())
        assert len(held_out) == 4
        assert len(others.logits) + rows.sum() == 60
        seen += sorted(held_out)
    assert sorted(seen) == list(range(20))
    folds = [sample.fold_of_each(5, seed).tolist() for seed in (11, 11, 12)]
    assert folds[0] == folds[1] != folds[2]


# Maps


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e37], ids=["usual", "tiny", "huge"])
def test_platt_finds_the_optimum_whatever_the_scale_of_the_logits(scale):
    sample = drawn(line)
    scaled = Sample(sample.logits * scale, sample.relevant, sample.queries, sample.size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fit_platt(scaled)
    residuals = found(scaled.logits) - smoothed(sample)
    assert [residuals.sum(), residuals @ sample.logits] == pytest.approx([0, 0], abs=1e-5), "the gradient of the log loss"
    assert [found.slope * scale, found.intercept] == pytest.approx([0.7, -1.2], abs=0.1)


def test_labels_that_logits_separate_have_probabilities_short_of_0_and_1():
    sample = sample_of([-1.0, 1.0] * 20, [False, True] * 20)
    for fit in (fit_platt, fit_isotonic):
        assert fit(sample)(np.array([-1.0, 1.0])) == pytest.approx([1 / 22, 21 / 22])


def test_logits_that_fall_with_relevance_or_are_equal_give_the_share_of_relevant_pairs():
    for logits in ([1.0, -1.0] * 20, [3.0] * 40):
        sample = sample_of(logits, [False, True] * 20)
        for fit in (fit_platt, fit_isotonic):
            assert fit(sample)(np.array([-9.0, 9.0])) == pytest.approx([0.5, 0.5])


def test_isotonic_pools_what_falls_and_ties_have_one_level():
    found = fit_isotonic(sample_of([1, 2, 3, 4], [0, 1, 0, 1]))
    assert (found.logits.tolist(), found.probabilities) == ([1, 2, 3, 4], pytest.approx([0.25, 0.5, 0.5, 0.75]))
    tied = fit_isotonic(sample_of([1, 1, 1, 2], [0, 1, 1, 1]))
    assert (tied.logits.tolist(), tied.probabilities) == ([1, 2], pytest.approx([(1 / 3 + 0.8 + 0.8) / 3, 0.8]))


def test_isotonic_has_a_level_for_as_much_as_a_settings_file_holds():
    """Shares that rise from group to group: 1 of n, 2 of n, ..."""
    groups = 300
    logits = np.repeat(np.arange(groups), groups)
    found = fit_isotonic(Sample(logits.astype(float), np.tile(np.arange(groups), groups) < logits, logits, groups))
    assert len(found.logits) <= 2 * BLOCKS
    assert np.all(np.diff(found.logits) > 0)
    assert np.all(np.diff(found.probabilities) >= 0)


def test_a_line_is_chosen_unless_steps_are_better_beyond_chance():
    assert choose(drawn(line), "auto", 11).method == "platt"
    assert choose(drawn(line, queries=12, pairs=3), "auto", 11).method == "platt", "isotonic regression would follow each pair"
    chosen = choose(drawn(step), "auto", 11)
    assert chosen.method == "isotonic"
    assert chosen.losses["isotonic"] < chosen.losses["platt"]
    assert chosen.map(np.array([-3.0, 4.0])) == pytest.approx([0.05, 0.6], abs=0.05)
    assert choose(drawn(step), "platt", 11).method == "platt"


# Reliability


def test_the_errors_are_those_of_the_bins():
    sample = sample_of([0, 0, 0, 0], [0, 1, 1, 0])
    found = reliability(np.array([0.05, 0.05, 1.0, 0.85]), sample)
    assert found.ece.value == pytest.approx((abs(0.1 - 1) + abs(1.0 - 1) + 0.85) / 4)
    assert found.brier.value == pytest.approx((0.05**2 + 0.95**2 + 0 + 0.85**2) / 4)
    rows = [(each.low, each.high, each.pairs, each.probability, each.relevant.value) for each in found.bins]
    assert rows == [(0.0, 0.1, 2, pytest.approx(0.05), 0.5), (0.8, 0.9, 1, pytest.approx(0.85), 0.0), (0.9, 1.0, 1, 1.0, 1.0)]


def test_intervals_are_over_queries_not_over_pairs():
    """The same pairs again within each query say nothing new."""
    once = drawn(line, queries=30, pairs=5)
    often = Sample(*(np.tile(each, 8) for each in (once.logits, once.relevant, once.queries)), once.size)  # type: ignore[call-arg]
    found = [reliability(sigmoid(each.logits), each) for each in (once, often)]
    for name in ("ece", "brier"):
        first, second = (getattr(each, name) for each in found)
        assert (first.value, first.low, first.high) == pytest.approx((second.value, second.low, second.high))
        assert first.low < first.value < first.high


def test_an_interval_holds_the_value_and_one_query_has_none():
    [found] = shares(np.array([[3.0], [1.0]]), np.array([[4.0], [4.0]]))
    assert (found.value, found.low, found.high) == (0.5, 0.25, 0.75)
    [rare] = shares(np.array([[1.0], [0.0]]), np.array([[1.0], [0.0]]))
    assert (rare.value, rare.low, rare.high) == (1, 1, 1), "resamples without any pair have no share"


# Thresholds


def folds_of(sample, fitted):
    return [Fold(fitted, others, rows) for others, rows in splits(sample, 11)]


def test_thresholds_are_rounded_down_so_that_what_they_were_found_on_passes():
    given = np.array([0.1234567, 0.99999999, 1.0, 0.3, 1.23456789e-7, 0.0])
    found = round_down(given)
    assert found[:5] == pytest.approx([0.123456, 0.999999, 1.0, 0.3, 1.23456e-7], rel=1e-5)
    assert np.all(found <= given)
    assert found[5] == 0


def test_a_precision_has_the_lowest_threshold_that_reaches_it_and_a_recall_the_highest():
    """From the highest logit: 20 relevant, then 10 of 20, then none of 20."""
    logits = np.arange(60.0)
    relevant = np.concatenate([np.zeros(20), np.tile([0, 1], 10), np.ones(20)]).astype(bool)
    sample, fitted = sample_of(logits, relevant), PlattMap(0.1, -3.0)
    at = fitted(logits)

    def cut(measure, value):
        found = threshold(sample, fitted, Target(measure, value), folds_of(sample, fitted)).threshold
        return int(np.count_nonzero(at >= found))

    assert cut("precision", 1.0) == 21  # of these two halves, the best pair of the second is relevant, too
    assert cut("precision", 0.75) == 40
    assert cut("recall", 1.0) == 39
    assert cut("recall", 2 / 3) == 20
    assert cut("precision", 0.5) == 60


def test_equal_probabilities_pass_together():
    sample = sample_of([0.0] * 30 + [5.0] * 30, [False] * 30 + [True] * 24 + [False] * 6)
    fitted = fit_isotonic(sample)
    found = threshold(sample, fitted, Target("precision", 0.8), folds_of(sample, fitted))
    assert np.count_nonzero(fitted(sample.logits) >= found.threshold) == 30
    assert threshold(sample, fitted, Target("precision", 0.81), folds_of(sample, fitted)).threshold is None


def test_what_a_threshold_gives_is_measured_on_queries_that_it_was_not_found_on():
    sample = drawn(line)
    folds = [Fold(fit_platt(others), others, rows) for others, rows in splits(sample, 11)]
    found = threshold(sample, fit_platt(sample), Target("precision", 0.9), folds)
    new = drawn(line, seed=1)
    passes = fit_platt(sample)(new.logits) >= found.threshold
    assert new.relevant[passes].mean() == pytest.approx(0.9, abs=0.04)
    assert found.precision.low <= new.relevant[passes].mean() + 0.03
    assert found.passing.value == pytest.approx(passes.mean(), abs=0.03)


def test_a_precision_that_no_threshold_reaches_has_none_and_the_highest_is_told():
    sample = drawn(step)
    fitted = choose(sample, "isotonic", 11).map
    found = threshold(sample, fitted, Target("precision", 0.97), folds_of(sample, fitted))
    assert (found.threshold, found.precision, found.recall) == (None, None, None)
    assert 0.55 < found.best < 0.97


# Whole runs


@pytest.fixture(scope="module")
def rows(reranker):
    """40 queries of 8 documents: the half with the higher logits is relevant, but for every fifth by rank, turned round."""
    queries, documents = TEXTS[:40], [[TEXTS[(7 * number + place) % len(TEXTS)] for place in range(8)] for number in range(40)]
    logits = np.concatenate([reranker.logits(query, pool) for query, pool in zip(queries, documents, strict=True)])
    ranks = np.argsort(np.argsort(logits, kind="stable"))
    labels = 2 * ((ranks >= len(ranks) / 2) != (ranks % 5 == 0)).reshape(40, 8)
    return [
        {
            "qid": f"q{number}",
            "query": query,
            "candidates": [{"text": text, "label": label} for text, label in zip(pool, row, strict=True)],
        }
        for number, (query, pool, row) in enumerate(zip(queries, documents, labels.tolist(), strict=True))
    ]


@pytest.fixture
def data(file):
    """data(rows): the dataset of these pools."""

    def read(rows):
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        return read_dataset(file(content, "pools.jsonl"), every_query=True)

    return read


def test_a_calibration_is_better_on_held_out_queries_and_the_same_again(artifact, rows, data):
    result = calibrate(data(rows), artifact, precisions=[0.7, 0.99], recalls=[0.5])
    again = calibrate(data(rows), artifact, precisions=[0.7, 0.99], recalls=[0.5])
    assert (again.calibration, again.after, again.thresholds) == (result.calibration, result.after, result.thresholds)
    assert (result.queries, result.pairs, result.unjudged, result.pool_size) == (40, 320, 0, 8)
    assert result.after.brier.value < result.before.brier.value
    reached, unreached, recall = result.thresholds
    assert reached.precision.value == pytest.approx(0.7, abs=0.12)
    assert unreached.threshold is None
    assert unreached.best < 0.99
    assert recall.recall.value >= 0.4
    with Reranker.load(artifact, settings=Settings(calibration=result.calibration)) as calibrated:
        passing = calibrated.rerank(rows[0]["query"], [each["text"] for each in rows[0]["candidates"]], threshold=reached.threshold)
        assert all(each.probability >= reached.threshold for each in passing)


def test_the_calibration_of_the_settings_is_not_used_and_a_plan_does_not_change_the_fit(planned_artifact, rows, data):
    full = calibrate(data(rows), planned_artifact, method="isotonic")
    planned = Settings(plan="fast", calibration=full.calibration)
    assert calibrate(data(rows), planned_artifact, method="isotonic", settings=planned).calibration == full.calibration
    other = Settings(calibration={**full.calibration.table(), "artifact": "0"})
    assert calibrate(data(rows), planned_artifact, method="isotonic", settings=other).calibration == full.calibration


def test_queries_without_a_relevant_document_and_unjudged_candidates_count_as_not_relevant(artifact, rows, data):
    none = [{**row, "candidates": [{**each, "label": 0} for each in row["candidates"]]} for row in rows[:5]]
    unjudged = [{**row, "candidates": [*row["candidates"][:7], {"text": "more"}]} for row in rows[5:]]
    result = calibrate(data([*none, *unjudged]), artifact)
    assert (result.queries, result.pairs, result.unjudged) == (40, 320, 35)
    assert result.relevant == sum(each["label"] > 0 for row in rows[5:] for each in row["candidates"][:7])


def test_pools_of_one_candidate_and_duplicates_are_used(artifact, rows, data):
    single = [{**row, "candidates": row["candidates"][:1]} for row in rows[:20]]
    doubled = [{**row, "candidates": row["candidates"] * 2} for row in rows[20:]]
    assert calibrate(data([*single, *doubled]), artifact).pairs == 20 + 20 * 16


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (lambda rows: rows[:9], {}, "has 9 different queries to calibrate by; expected 10 or more, better 50"),
        (lambda rows: [{**row, "query": "the same"} for row in rows], {}, "has 1 different queries"),
        (lambda rows: rows, {"relevant_from": 3}, "are not relevant, as labels are 0, 2 and 3 or more is relevant; expected both"),
        (
            lambda rows: [{**row, "candidates": [{**each, "label": 1} for each in row["candidates"]]} for row in rows],
            {},
            "all 320 pairs of pools are relevant, as labels are 1 and 1 or more is relevant",
        ),
        (
            lambda rows: [
                {**row, "candidates": [{**each, "label": 2 - each["label"]} for each in row["candidates"]]} for row in rows
            ],
            {},
            "do not rise with relevance on pools",
        ),
        (
            lambda rows: [
                {**row, "query": chr(0x13000 + number), "candidates": [{"text": "", "label": number % 2}]}
                for number, row in enumerate(rows)
            ],
            {},
            "logits on pools are",
        ),
        (lambda rows: rows, {"precisions": [1.5]}, "precision is 1.5; expected a share above 0, and at most 1"),
        (lambda rows: rows, {"recalls": [0]}, "recall is 0; expected a share"),
        (lambda rows: rows, {"method": "beta"}, "method is 'beta'; expected 'auto', platt or isotonic"),
        (lambda rows: rows, {"relevant_from": 0}, "relevant_from is 0; expected 1 or more"),
    ],
    ids=["few", "one query", "grade", "one kind", "reversed", "equal", "precision", "recall", "method", "relevant from"],
)
def test_what_cannot_be_fitted_is_one_line(artifact, rows, data, change, options, said):
    with pytest.raises(InputError, match=said) as refused:
        calibrate(data(change(rows)), artifact, **options)
    assert "\n" not in str(refused.value)


def test_the_doctor_reports_probabilities_that_do_not_hold(artifact, reranker, rows, data):
    pools = data(rows).pools
    fitted = calibrate(data(rows), artifact, method="isotonic").calibration

    reading = {name: value for name, value in fitted.table().items() if name not in ("logits", "probabilities")}

    def report(**settings):
        with Reranker.load(artifact, settings=Settings(**settings)) as loaded:
            return {finding.name: finding for finding in diagnose(loaded, pools)}.get("uncalibrated")

    assert report(calibration=fitted) is None
    wrong = report(calibration={**reading, "method": "platt", "slope": 0.001, "intercept": 3.0})
    assert "run `resift calibrate` again, with pools like these" in wrong.advice
    assert (wrong.severity, wrong.value > 0.1) == ("warning", True)
    error = reliability_of_sigmoid(reranker, rows)
    plain = report()
    assert (plain is not None) == (error.low > 0.05)
    assert plain is None or (plain.severity, plain.value) == ("note", pytest.approx(error.value))


def reliability_of_sigmoid(reranker, rows):
    pools = [
        (row["query"], [each["text"] for each in row["candidates"]], [each["label"] > 0 for each in row["candidates"]])
        for row in rows
    ]
    sample = Sample.of((query, reranker.logits(query, texts), np.array(marks)) for query, texts, marks in pools)
    return reliability(sigmoid(sample.logits), sample).ece
