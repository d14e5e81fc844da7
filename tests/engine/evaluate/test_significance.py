"""Intervals and p-values of paired differences, on cases whose answers are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from resift.evaluate import significance
from resift.evaluate.significance import bootstrap_interval, randomization_test


def column(*values):
    return np.array(values, np.float64)[:, None]


def test_the_exact_test_counts_all_sign_assignments():
    # Of the 8 means of +-1 +-2 +-4 (/ 3), those at least as far from 0 as 5 / 3: +-7 and +-5.
    assert randomization_test(column(-1, 2, 4)).tolist() == [4 / 8]
    assert randomization_test(column(1, 2, 4)).tolist() == [2 / 8]


def test_the_exact_test_equals_an_enumeration():
    differences = np.random.default_rng(3).normal(0.3, 1, 10)
    reached = [abs(differences @ signs) >= abs(differences.sum()) - 1e-12 for signs in itertools.product((1, -1), repeat=10)]
    assert randomization_test(differences[:, None])[0] == pytest.approx(np.mean(reached))


def test_the_random_test_approximates_the_exact_one(monkeypatch):
    differences = np.random.default_rng(4).normal(0.3, 1, (13, 5))
    exact = randomization_test(differences)
    monkeypatch.setattr(significance, "EXACT_LIMIT", 0)
    random = randomization_test(differences)
    assert random == pytest.approx(exact, abs=0.02)  # 4 standard errors of a share of 10,000
    assert (random != exact).all()
    assert 0.01 < exact.min() < exact.max() < 0.99


def test_a_sure_difference_has_the_least_p_value_that_the_draws_allow():
    assert randomization_test(np.ones((200, 1))).tolist() == [1 / 10_001]


def test_equal_systems_do_not_differ():
    differences = np.zeros((50, 2))
    assert randomization_test(differences).tolist() == [1, 1]
    assert bootstrap_interval(differences).tolist() == [[0, 0], [0, 0]]


def test_differences_of_zero_change_no_p_value():
    few = column(-1, 2, 4)
    assert randomization_test(np.concatenate([few, np.zeros((500, 1))])).tolist() == randomization_test(few).tolist()


def test_the_test_is_two_sided():
    differences = np.random.default_rng(5).normal(0.2, 1, (60, 3))
    assert randomization_test(-differences).tolist() == randomization_test(differences).tolist()


def test_the_interval_of_many_queries_is_the_normal_one():
    differences = np.random.default_rng(6).normal(0.1, 2, (4000, 2))
    low, high = bootstrap_interval(differences)
    error = 1.96 * differences.std(axis=0) / np.sqrt(4000)
    assert low == pytest.approx(differences.mean(axis=0) - error, abs=0.004)
    assert high == pytest.approx(differences.mean(axis=0) + error, abs=0.004)


def test_the_interval_of_two_queries():
    # A quarter of the resamples has the smaller difference twice, a quarter the larger one.
    assert bootstrap_interval(column(0, 1))[:, 0].tolist() == [0, 1]


def test_one_query_tells_nothing():
    assert bootstrap_interval(column(0.5)).tolist() == [[0.5], [0.5]]
    assert randomization_test(column(0.5)).tolist() == [1]


def test_what_is_drawn_at_once_changes_nothing(monkeypatch):
    differences = np.random.default_rng(7).normal(0.1, 1, (40, 2))
    whole = bootstrap_interval(differences), randomization_test(differences)
    monkeypatch.setattr(significance, "CHUNK_NUMBERS", 4000)
    parts = bootstrap_interval(differences), randomization_test(differences)
    assert parts[0] == pytest.approx(whole[0], abs=1e-12)
    assert parts[1].tolist() == whole[1].tolist()
