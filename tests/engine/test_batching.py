from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from resift.batching import plan_batches

LENGTHS = st.lists(st.integers(1, 40), max_size=120).map(lambda values: np.array(values, np.int32))
BUDGETS = st.integers(1, 300)


@settings(deadline=None)
@given(LENGTHS, BUDGETS)
def test_every_row_is_in_exactly_one_batch(lengths, budget):
    rows = [row for batch in plan_batches(lengths, budget) for row in batch.rows.tolist()]
    assert sorted(rows) == list(range(len(lengths)))


@settings(deadline=None)
@given(LENGTHS, BUDGETS)
def test_all_rows_of_a_batch_have_its_width(lengths, budget):
    for batch in plan_batches(lengths, budget):
        assert type(batch.width) is int
        assert lengths[batch.rows].tolist() == [batch.width] * len(batch.rows)


@settings(deadline=None)
@given(LENGTHS, BUDGETS)
def test_a_batch_keeps_the_budget_or_holds_one_row(lengths, budget):
    for batch in plan_batches(lengths, budget):
        assert len(batch.rows) == 1 or len(batch.rows) * batch.width <= budget


@settings(deadline=None)
@given(LENGTHS, BUDGETS)
def test_batches_come_longest_first(lengths, budget):
    widths = [batch.width for batch in plan_batches(lengths, budget)]
    assert widths == sorted(widths, reverse=True)


@settings(deadline=None)
@given(LENGTHS, BUDGETS)
def test_there_are_no_more_batches_than_the_budget_forces(lengths, budget):
    expected = 0
    for width, count in zip(*np.unique(lengths, return_counts=True), strict=True):
        rows = max(1, budget // int(width))
        expected += -(-int(count) // rows)
    assert len(plan_batches(lengths, budget)) == expected


def test_no_pairs_make_no_batches():
    assert plan_batches(np.array([], np.int32), 4096) == []


def test_equal_lengths_are_split_at_the_budget_in_the_callers_order():
    batches = plan_batches(np.array([5, 5, 9, 5, 5, 5], np.int32), 11)
    assert [(batch.width, batch.rows.tolist()) for batch in batches] == [(9, [2]), (5, [0, 1]), (5, [3, 4]), (5, [5])]


def test_a_row_above_the_budget_runs_alone():
    batches = plan_batches(np.array([100, 100], np.int32), 10)
    assert [batch.rows.tolist() for batch in batches] == [[0], [1]]
