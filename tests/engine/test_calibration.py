"""Calibrations as they are read, refused and applied; thresholds on the probabilities of a ranking."""

from __future__ import annotations

import asyncio
import json
import pickle
from dataclasses import asdict, replace

import numpy as np
import pytest

from resift import InputError, Ranking, Reranker, Settings
from resift.calibration import ScoreCalibration
from resift.scoring import logit_identity
from tests.support import tiny
from tests.support.columns import columns_of

TEXTS = tiny.texts()
QUERY, DOCUMENTS = TEXTS[0], TEXTS[1:13]
READING = {"model": "m", "artifact": "f" * 64, "max_length": 512, "truncation": "only_second", "windows": 1}
PLATT = ScoreCalibration(method="platt", slope=0.5, intercept=-1.0, **READING)
ISOTONIC = ScoreCalibration(method="isotonic", logits=[-2.0, 0.0, 4.0], probabilities=[0.1, 0.1, 0.9], **READING)


def calibration_of(reranker, **more):
    """One whose middle, 0.5, is the middle of the documents' logits."""
    middle = float(np.median(reranker.logits(QUERY, DOCUMENTS)))
    return ScoreCalibration(
        **{"method": "platt", "slope": 1.0, "intercept": -middle, **logit_identity(reranker.artifact, reranker.resolved), **more}
    )


@pytest.fixture(scope="module")
def calibrated(artifact, reranker):
    with Reranker.load(artifact, settings=Settings(calibration=calibration_of(reranker))) as loaded:
        yield loaded


# The map


def test_platt_is_the_sigmoid_of_a_line():
    assert PLATT.apply(np.array([2.0, 4.0, 0.0])) == pytest.approx([0.5, 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))])


def test_isotonic_is_a_line_through_its_points_and_level_beyond():
    assert ISOTONIC.apply(np.array([-9.0, -1.0, 1.0, 2.0, 4.0, 99.0])) == pytest.approx([0.1, 0.1, 0.3, 0.5, 0.9, 0.9])


@pytest.mark.parametrize("calibration", [PLATT, replace(PLATT, slope=1e300), ISOTONIC], ids=["platt", "steep", "isotonic"])
def test_any_logit_has_a_probability_without_a_warning_and_nan_has_none(calibration, recwarn):
    largest = float(np.finfo(np.float32).max)
    found = calibration.apply(np.array([-largest, largest, np.nan, 0.0], np.float32))
    assert found.dtype == np.float64
    assert np.isnan(found).tolist() == [False, False, True, False]
    assert 0 <= found[0] <= found[3] <= found[1] <= 1
    assert calibration.apply(np.zeros(0, np.float32)).shape == (0,)
    assert not recwarn.list


@pytest.mark.parametrize("calibration", [PLATT, ISOTONIC], ids=["platt", "isotonic"])
def test_a_table_gives_the_same_calibration_and_figures_in_it_are_for_the_reader(calibration):
    assert ScoreCalibration.of({**calibration.table(), "measured": {"ece": [1]}}) == calibration
    assert ScoreCalibration.of(asdict(calibration)) == calibration, "as adapters serialize settings"
    assert hash(Settings(calibration=calibration)) == hash(Settings(calibration=asdict(calibration)))
    assert pickle.loads(pickle.dumps(Settings(calibration=calibration))).calibration == calibration


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "beta"}, "method is 'beta'; expected platt or isotonic"),
        ({"slope": 0}, "slope is 0.0; expected a number above 0"),
        ({"slope": -1.5}, "slope is -1.5"),
        ({"slope": float("nan")}, "slope is or has nan; expected a finite number"),
        ({"slope": 10**400}, "slope is or has inf"),
        ({"slope": True}, "slope is or has bool"),
        ({"slope": None}, "slope is or has NoneType"),
        ({"logits": [1], "probabilities": [0.5]}, "its method is platt"),
        ({"artifact": 5}, "artifact is int; expected a str"),
        ({"windows": "1"}, "windows is str; expected an int"),
        ({"colour": 1}, "colour is not known"),
        ({"method": "isotonic"}, "its method is isotonic"),
    ],
)
def test_what_is_no_calibration_is_refused(change, said, file):
    with pytest.raises((InputError, TypeError), match=said):
        ScoreCalibration.of({**PLATT.table(), **change})


@pytest.mark.parametrize(
    ("logits", "probabilities", "said"),
    [
        ([], [], "0 logits and 0 probabilities"),
        ([1, 2], [0.5], "2 logits and 1 probabilities"),
        ([1, 1], [0.1, 0.5], "logits do not increase"),
        ([1, 2], [0.5, 0.1], "probabilities decrease or leave 0 to 1"),
        ([1, 2], [0.5, 1.1], "decrease or leave 0 to 1"),
        ([1, 2], [-0.1, 0.5], "decrease or leave 0 to 1"),
        ([1, float("inf")], [0.1, 0.5], "logits is or has inf"),
        ("12", [0.1, 0.5], "logits is str; expected a list"),
    ],
)
def test_points_that_are_no_monotone_map_are_refused(logits, probabilities, said):
    with pytest.raises((InputError, TypeError), match=said):
        ScoreCalibration.of({**ISOTONIC.table(), "logits": logits, "probabilities": probabilities})


@pytest.mark.parametrize("name", ["method", "model", "artifact", "max_length", "truncation", "windows"])
def test_a_table_that_leaves_something_out_is_refused(name):
    table = PLATT.table()
    del table[name]
    with pytest.raises(InputError, match=f"calibration.{name} is missing"):
        ScoreCalibration.of(table)


def test_a_settings_file_holds_it_beside_the_settings(file):
    rows = "\n".join(f"{name} = {json.dumps(value)}" for name, value in ISOTONIC.table().items())
    content = (
        f"[settings]\nthreads = 2\n[calibration]\n{rows}\n[calibration.measured]\nece = [0.1, 0.2]\n[retrieval]\ncandidates = 3\n"
    )
    assert Settings.read(file(content.encode(), "settings.toml")) == Settings(threads=2, calibration=ISOTONIC)
    for bad, said in ((b"[settings]\n[calibration]\nmethod = 'platt'", "is missing"), (b"calibration = 3\n[settings]", "is int")):
        path = file(bad, "bad.toml")
        with pytest.raises(InputError, match=said) as refused:
            Settings.read(path)
        assert str(path) in str(refused.value)


# The model that it is for


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"artifact": "0" * 64, "model": "other/model"}, "is for the artifact 000000000000… of other/model, but this is"),
        ({"max_length": 16}, "is for max_length 16, but this runs with"),
        ({"truncation": "longest_first"}, "is for truncation longest_first, but this runs with only_second"),
        ({"windows": 8}, "is for windows 8, but this runs with 1"),
    ],
)
def test_the_logits_of_another_model_or_reading_are_refused(artifact, reranker, change, said):
    with pytest.raises(InputError, match=said) as refused:
        Reranker.load(artifact, settings=Settings(calibration=calibration_of(reranker, **change)))
    assert "\n" not in str(refused.value)


# Probabilities and thresholds


def test_probabilities_are_those_of_the_logits_and_do_not_change_the_ranking(reranker, calibrated):
    before, after = reranker.rerank(QUERY, DOCUMENTS), calibrated.rerank(QUERY, DOCUMENTS)
    assert [(each.index, each.logit, each.score) for each in after] == [(each.index, each.logit, each.score) for each in before]
    logits = np.array([each.logit for each in after], np.float32)
    assert [each.probability for each in after] == calibrated.settings.calibration.apply(logits).tolist()
    assert (after.calibrated, after.without_score) == (True, 0)


def test_without_a_calibration_nothing_is_a_probability(reranker):
    ranking = reranker.rerank(QUERY, DOCUMENTS)
    assert {each.probability for each in ranking} == {None}
    assert not ranking.calibrated
    assert reranker.submit(QUERY, DOCUMENTS).result().probabilities is None


def test_a_threshold_leaves_the_documents_of_at_least_that_probability(calibrated):
    every = calibrated.rerank(QUERY, DOCUMENTS)
    edge = every[4].probability
    passing = tuple(each for each in every if each.probability >= edge)
    assert calibrated.rerank(QUERY, DOCUMENTS, threshold=edge).results == passing
    assert every[4] in passing, "a probability equal to the threshold passes"
    assert calibrated.rerank(QUERY, DOCUMENTS, threshold=edge, top_k=2).results == every[:2]
    assert calibrated.rerank(QUERY, DOCUMENTS, threshold=0).results == every.results
    assert len(calibrated.rerank(QUERY, DOCUMENTS, threshold=1)) == 0
    assert calibrated.rerank_many([QUERY] * 2, [DOCUMENTS] * 2, threshold=edge)[1].results == passing

    async def both():
        one = await calibrated.arerank(QUERY, DOCUMENTS, threshold=edge)
        return [one, *await calibrated.arerank_many([QUERY], [DOCUMENTS], threshold=edge)]

    assert [ranking.results for ranking in asyncio.run(both())] == [passing] * 2


def test_the_same_threshold_keeps_its_meaning_with_another_model(artifact_of, calibrated):
    """The median document of each model has the probability 0.5 by its own calibration, whatever its logit is."""
    other = artifact_of("bert", labels=2)
    with Reranker.load(other) as plain:
        settings = Settings(calibration=calibration_of(plain))
    with Reranker.load(other, settings=settings) as second:
        assert [len(each.rerank(QUERY, DOCUMENTS, threshold=0.5)) for each in (calibrated, second)] == [6, 6]


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_threshold_is_from_0_to_1(calibrated, threshold):
    with pytest.raises(InputError, match="expected a probability, from 0 to 1"):
        calibrated.rerank(QUERY, DOCUMENTS, threshold=threshold)


@pytest.mark.parametrize("threshold", ["0.5", True, [0.5]])
def test_a_threshold_is_a_number(calibrated, threshold):
    with pytest.raises(TypeError, match="expected a number from 0 to 1"):
        calibrated.rerank(QUERY, DOCUMENTS, threshold=threshold)


def test_a_threshold_without_a_calibration_is_refused_and_says_how_to_get_one(reranker):
    for call in (
        lambda: reranker.rerank(QUERY, DOCUMENTS, threshold=0.5),
        lambda: reranker.rerank_many([QUERY], [DOCUMENTS], threshold=0.5),
        lambda: asyncio.run(reranker.arerank(QUERY, DOCUMENTS, threshold=0.5)),
        lambda: Ranking.of(["a"], columns_of([1.0]), threshold=0.5),
    ):
        with pytest.raises(InputError, match="the settings have no calibration: write one with `resift calibrate"):
            call()


def test_documents_without_a_full_score_have_no_probability_never_pass_and_are_counted():
    columns = columns_of(
        [9.0, -3.0, 8.0, np.nan],
        scores=np.array([np.nan, -3.0, np.nan, np.nan], np.float32),
        probabilities=np.array([np.nan, 0.2, np.nan, np.nan]),
        graphs=("first-look", "full"),
        stages_done=np.array([1, 2, 1, 0], np.int8),
    )
    ranking = Ranking.of(list("abcd"), columns)
    assert [(each.index, each.probability) for each in ranking] == [(1, 0.2), (0, None), (2, None), (3, None)]
    assert ranking.without_score == 3
    passing = Ranking.of(list("abcd"), columns, threshold=0)
    assert [each.index for each in passing] == [1]
    assert passing.without_score == 3


def test_a_plan_gives_probabilities_to_what_the_full_graph_scored(planned, planned_artifact):
    settings = Settings(calibration=calibration_of(planned))
    with Reranker.load(planned_artifact, settings=settings) as reranker:
        ranking = reranker.rerank(QUERY, DOCUMENTS, plan="first-look:3,full")
        assert [each.probability is not None for each in ranking] == [True] * 3 + [False] * 9
        assert ranking.without_score == 9
        assert len(reranker.rerank(QUERY, DOCUMENTS, plan="first-look:3,full", threshold=0)) == 3
        assert {each.probability for each in reranker.rerank(QUERY, DOCUMENTS, plan="first-look")} == {None}, (
            "another model's logits"
        )
