from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from resift.artifact.manifest import RELEVANCE
from resift.errors import LogitsError
from resift.scoring import activate, relevance

FLOATS = st.floats(-50, 50, width=32)
FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)


def rows(labels, elements=FLOATS):
    return st.integers(0, 20).flatmap(lambda n: arrays(np.float32, (n, labels), elements=elements))


@given(rows(1, FINITE))
def test_one_label_is_its_own_relevance(logits):
    found = relevance(logits, "logit")
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert found.tolist() == logits[:, 0].tolist()


@given(rows(2))
def test_sigmoid_of_two_labels_relevance_is_the_softmax_of_the_second(logits):
    exact = logits.astype(np.float64)
    powers = np.exp(exact - exact.max(axis=1, keepdims=True))
    softmax = powers[:, 1] / powers.sum(axis=1)
    found = activate(relevance(logits, "log-odds"), "sigmoid")
    assert found.shape == (len(logits),)
    np.testing.assert_allclose(found, softmax, rtol=0, atol=2e-6)


@given(st.lists(FINITE, min_size=2).map(sorted))
def test_sigmoid_never_falls_and_stays_within_0_and_1(values):
    scores = activate(np.array(values, np.float32), "sigmoid")
    assert scores.dtype == np.float32
    assert (np.diff(scores) >= 0).all()
    assert scores.min() >= 0
    assert scores.max() <= 1


def test_sigmoid_of_the_largest_floats_is_0_and_1():
    largest = np.finfo(np.float32).max
    with np.errstate(all="raise"):
        assert activate(np.array([-largest, -1e4, 0, 1e4, largest], np.float32), "sigmoid").tolist() == [0, 0, 0.5, 1, 1]


def test_sigmoid_has_the_known_values():
    scores = activate(np.array([-15, -2, 1, 4], np.float32), "sigmoid")
    np.testing.assert_allclose(scores, [3.05902227e-7, 0.11920292, 0.73105858, 0.98201379], rtol=1e-6)


def test_identity_keeps_logits_as_they_are():
    logits = np.array([-7.25, 0, 123.5], np.float32)
    assert activate(logits, "identity").tolist() == [-7.25, 0, 123.5]


@pytest.mark.parametrize(("labels", "rule"), RELEVANCE.items())
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_raise_an_error_naming_the_pair(value, labels, rule):
    logits = np.zeros((5, labels), np.float32)
    logits[3:, labels - 1] = value
    with pytest.raises(LogitsError, match=rf"{value}\D* for document 3;"):
        relevance(logits, rule)


def test_no_pairs_have_no_relevance():
    assert relevance(np.empty((0, 2), np.float32), "log-odds").shape == (0,)
