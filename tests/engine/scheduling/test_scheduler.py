"""The scheduler alone, with a clock that is a number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resift.artifact.resolved_plans import Step
from resift.artifact.signature import Frozen
from resift.errors import LogitsError, OutOfMemoryError, OverloadedError
from resift.scheduling.buckets import Bucket, Buckets
from resift.scheduling.call import Batch
from resift.scheduling.pace import Pace
from resift.scheduling.scheduler import PATIENCE, Scheduler
from tests.support.steady_calls import answers, call, drain, scheduler

BUDGETS = st.integers(1, 300)
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)
CALLS = st.lists(LENGTHS, min_size=1, max_size=6)


def shapes(batches, *calls) -> list:
    """(bucket, [(number of the call, row)]) of each batch."""
    return [(batch.bucket.width, [(calls.index(one), row) for one, row in batch.rows]) for batch in batches]


@given(CALLS, BUDGETS, st.integers(1, 5))
def test_every_row_runs_once_in_a_batch_of_its_length_within_the_budget(lengths, budget, idle):
    queue, calls = scheduler(budget), [call(*each) for each in lengths]
    for one in calls:
        queue.add(one, 0.0)
    batches = drain(queue, idle)
    ran = [(calls.index(one), row) for batch in batches for one, row in batch.rows]
    assert sorted(ran) == [(number, row) for number, each in enumerate(lengths) for row in range(len(each))]
    for batch in batches:
        assert {int(one.encodings.lengths[row]) for one, row in batch.rows} == {batch.bucket.width}
        assert len(batch.rows) == 1 or batch.tokens <= budget
    for one in calls:
        assert one.ended
        assert one.steps_done.all()
        assert one.logits["full"].tolist() == [[row] for row in range(len(one.steps_done))]
    assert (queue.waiting_rows, queue.waiting_tokens) == (0, 0)


@given(LENGTHS, BUDGETS)
def test_one_call_on_one_worker_has_no_more_batches_than_the_budget_forces_and_the_longest_first(lengths, budget):
    queue = scheduler(budget)
    queue.add(call(*lengths), 0.0)
    batches = drain(queue)
    assert [batch.bucket.width for batch in batches] == sorted((batch.bucket.width for batch in batches), reverse=True)
    expected = 0
    for width, count in zip(*np.unique(lengths, return_counts=True), strict=True):
        expected += -(-int(count) // max(1, budget // int(width)))
    assert len(batches) == expected


def test_rows_of_equal_length_keep_the_callers_order():
    queue, one = scheduler(11), call(5, 5, 9, 5, 5, 5)
    queue.add(one, 0.0)
    assert shapes(drain(queue), one) == [(9, [(0, 2)]), (5, [(0, 0), (0, 1)]), (5, [(0, 3), (0, 4)]), (5, [(0, 5)])]


def test_a_batch_stacks_the_ids_and_segment_ids_of_its_rows_and_a_mask():
    queue = scheduler()
    queue.add(call(2, 3, 2), 0.0)
    queue.next(0.0, 1)
    inputs = queue.next(0.0, 1).stack()
    assert {name: (str(value.dtype), value.tolist()) for name, value in inputs.items()} == {
        "input_ids": ("int64", [[0, 0], [2, 2]]),
        "token_type_ids": ("int64", [[1000, 1000], [1002, 1002]]),
        "attention_mask": ("int64", [[1, 1], [1, 1]]),
        "updated_tokens": ("int64", [2]),
    }


def test_shorter_rows_of_a_batch_are_padded_with_zeros_at_their_ends():
    one = call(2, 3)
    inputs = Batch("full", Bucket(4, 4), [(one, 1), (one, 0)], 0.0).stack()
    assert {name: value.tolist() for name, value in inputs.items()} == {
        "input_ids": [[1, 1, 1, 0], [0, 0, 0, 0]],
        "token_type_ids": [[1001, 1001, 1001, 0], [1000, 1000, 0, 0]],
        "attention_mask": [[1, 1, 1, 0], [1, 1, 0, 0]],
        "updated_tokens": [4],
    }


def test_a_batch_is_filled_up_with_rows_of_other_calls_of_the_same_graph():
    queue, first, second, other = scheduler(20), call(5, 7), call(5, 5, 7), call(5, graph="first-look")
    for one in (first, second, other):
        queue.add(one, 0.0)
    batches = drain(queue)
    ran = {
        (batch.graph, batch.bucket.width): [([first, second, other].index(one), row) for one, row in batch.rows]
        for batch in batches
    }
    assert ran == {("full", 7): [(0, 1), (1, 2)], ("full", 5): [(0, 0), (1, 0), (1, 1)], ("first-look", 5): [(2, 0)]}


def test_one_call_spreads_over_the_idle_workers():
    queue = scheduler(1000)
    queue.add(call(5, 5, 5, 5, 5), 0.0)
    assert [len(queue.next(0.0, idle).rows) for idle in (3, 2, 1)] == [2, 2, 1]


def test_a_short_call_overtakes_a_long_one():
    queue, long, short = scheduler(16), call(*[8] * 3000), call(8, 8, 8)
    queue.add(long, 0.0)
    before = queue.next(0.0, 1)
    queue.add(short, 5.0)
    queue.done(before, answers(before), 16.0)
    then = [queue.next(16.0, 1), queue.next(16.0, 1)]
    assert shapes(then, long, short) == [(8, [(1, 0), (1, 1)]), (8, [(1, 2), (0, 2)])]


def test_a_long_call_is_not_overtaken_for_ever():
    queue, long = scheduler(8), call(*[8] * 10)
    queue.add(long, 0.0)
    overtaking, now = 0, 0.0
    while not long.ended:
        queue.add(call(8), now)
        batch = queue.next(now, 1)
        overtaking += batch.rows[0][0] is not long
        now += 8.0
        queue.done(batch, answers(batch), now)
        assert now < 1000
    assert overtaking == PATIENCE * (10 - 1)  # until the newest, due PATIENCE x 8 after it came, is due after PATIENCE x 80
    assert now == (overtaking + 10) * 8.0


def test_equal_calls_are_answered_in_the_order_they_came():
    queue, calls = scheduler(8), [call(8) for _ in range(5)]
    for number, one in enumerate(calls):
        queue.add(one, number * 0.001)
    assert [calls.index(batch.rows[0][0]) for batch in drain(queue, now=1.0)] == [0, 1, 2, 3, 4]


def test_a_deadline_makes_a_call_due():
    queue, first, urgent = scheduler(8), call(8), call(*[8] * 5, deadline=9.0)
    queue.add(first, 0.0)
    queue.add(urgent, 0.0)
    assert queue.next(0.0, 1).rows[0][0] is urgent


def test_a_call_is_due_by_the_pace_that_was_seen():
    queue = Scheduler(8)
    one = call(8)
    queue.add(one, 0.0)
    queue.done(queue.next(0.0, 1), np.zeros((1, 1), np.float32), 4.0)
    late = call(8, 8)
    queue.add(late, 10.0)
    assert late.due == pytest.approx(10.0 + PATIENCE * 2 * 4.0)


def test_what_failed_together_is_tried_again_apart_and_fails_alone():
    queue, good, bad = scheduler(16), call(8), call(8, 4)
    queue.add(good, 0.0)
    queue.add(bad, 0.0)
    together = queue.next(0.0, 1)
    assert len(together.rows) == 2
    assert queue.failed(together, RuntimeError("both")) == []
    assert not good.ended
    again = [queue.next(1.0, 1), queue.next(1.0, 1)]
    assert shapes(again, good, bad) == [(8, [(0, 0)]), (8, [(1, 0)])]
    assert queue.done(again[0], answers(again[0]), 2.0) == [good]
    assert queue.failed(again[1], RuntimeError("mine")) == [bad]
    assert (good.error, str(bad.error)) == (None, "mine")
    assert queue.next(2.0, 1) is None  # the row of 4 tokens went with its call
    assert (queue.waiting_rows, queue.waiting_tokens) == (0, 0)


def test_a_batch_of_one_call_is_not_tried_again():
    queue, bad = scheduler(), call(8, 8)
    queue.add(bad, 0.0)
    assert queue.failed(queue.next(0.0, 1), RuntimeError("mine")) == [bad]
    assert queue.next(0.0, 1) is None


def test_a_cancelled_call_is_not_tried_again():
    queue, gone, other = scheduler(), call(8), call(8)
    queue.add(gone, 0.0)
    queue.add(other, 0.0)
    batch = queue.next(0.0, 1)
    queue.failed(batch, RuntimeError())
    queue.cancel(gone)
    assert shapes(drain(queue), gone, other) == [(8, [(1, 0)])]


def test_cancelling_drops_the_rows_that_have_not_begun_and_ignores_the_others():
    queue, gone, other = scheduler(8), call(8, 8, 4), call(8)
    queue.add(gone, 0.0)
    batch = queue.next(0.0, 1)
    queue.cancel(gone)
    assert (queue.waiting_rows, queue.waiting_tokens) == (0, 0)
    queue.add(other, 0.0)
    assert queue.done(batch, answers(batch), 1.0) == []
    assert gone.logits == {}
    assert shapes(drain(queue), gone, other) == [(8, [(1, 0)])]


def test_nothing_of_a_cancelled_call_is_kept():
    queue = scheduler(8)
    keeps = call(9)
    queue.add(keeps, 0.0)
    for _ in range(50):
        one = call(8, 7)
        queue.add(one, 1.0)
        queue.cancel(one)
    assert [entry[2] for entry in queue._calls] == [keeps]
    assert [entry[2] for entries in queue._queues._heaps.values() for entry in entries] == [keeps]


def test_an_expired_call_ends_with_what_was_read():
    queue, late = scheduler(8), call(8, 8, 4, deadline=30.0)
    queue.add(late, 0.0)
    first, second = queue.next(0.0, 2), queue.next(0.0, 1)
    queue.done(first, answers(first), 1.0)
    assert (queue.deadline, queue.expire(29.9)) == (30.0, [])
    assert queue.expire(30.0) == [late]
    assert late.steps_done.tolist() == [True, False, False]
    assert np.isnan(late.logits["full"][1:]).all()
    assert queue.done(second, answers(second), 2.0) == []  # it came too late
    assert late.steps_done.tolist() == [True, False, False]
    assert queue.next(2.0, 1) is None
    assert (queue.deadline, queue.expire(31.0)) == (None, [])


def test_a_limit_refuses_what_would_wait_beyond_it():
    queue = scheduler(8, limit=20)
    queue.add(call(*[8] * 100), 0.0)  # nothing waits: a call of any size is taken
    with pytest.raises(OverloadedError, match="800 tokens are waiting and this call has 8; expected at most 20"):
        queue.add(call(8), 0.0)
    drain(queue)
    queue.add(call(8, 8), 0.0)
    queue.add(call(4), 0.0)
    with pytest.raises(OverloadedError):
        queue.add(call(1), 0.0)


HOW = Frozen(layers=2, whole_up_to=32, multiple=8)


def test_rows_of_a_frozen_graph_share_a_batch_only_if_as_many_of_their_tokens_are_updated():
    queue = Scheduler(1000, buckets=Buckets({"full": HOW}))
    for one in (call(40, 40, 40, 30, query_tokens=(5, 8, 9, 9)), call(40, 30, query_tokens=(3, 20)), call(40, graph="first-look")):
        queue.add(one, 0.0)
    ran = [(batch.graph, batch.bucket, len(batch.rows), batch.stack()["updated_tokens"].tolist()) for batch in drain(queue)]
    assert sorted(ran) == [
        ("first-look", Bucket(40, 40), 1, [40]),
        ("full", Bucket(30, 30), 2, [30]),
        ("full", Bucket(40, 8), 3, [8]),
        ("full", Bucket(40, 16), 1, [16]),
    ]


def masked(*graphs, **policy):
    """Buckets where those graphs alone are masked."""
    return Buckets({"frozen": HOW}, is_masked=(graphs or ("full",)).__contains__, **policy)


def test_lengths_are_rounded_up_in_masked_graphs_alone():
    buckets, rows = masked(step=16, fill=0.25, max_length=60), np.arange(3)
    one = call(3, 33, 60, query_tokens=(1, 1, 1)).encodings
    assert buckets.of("full", one, rows) == [Bucket(16, 16), Bucket(48, 48), Bucket(60, 60)]
    assert buckets.of("first-look", one, rows) == [Bucket(3, 3), Bucket(33, 33), Bucket(60, 60)]
    assert buckets.of("frozen", one, rows) == [Bucket(3, 3), Bucket(33, 8), Bucket(60, 8)]
    assert [buckets.narrowest(graph, 50) for graph in ("full", "first-look", "frozen")] == [13, 50, 50]


def test_a_batch_holds_both_numbers_of_updated_tokens_in_no_graph_even_beside_a_masked_one():
    queue = Scheduler(10_000, buckets=masked(step=16, fill=0.25))
    for graph in ("full", "frozen"):
        queue.add(call(40, 40, 33, graph=graph, query_tokens=(1, 9, 1)), 0.0)
    assert [(batch.graph, batch.bucket, len(batch.rows)) for batch in drain(queue)] == [
        ("full", Bucket(48, 48), 3),
        ("frozen", Bucket(40, 8), 1),
        ("frozen", Bucket(40, 16), 1),
        ("frozen", Bucket(33, 8), 1),
    ]


def test_widths_are_the_providers():
    queue, one = Scheduler(32, buckets=masked(step=8)), call(3, 8, 9)
    queue.add(one, 0.0)
    batch = queue.next(0.0, 1)
    assert (batch.bucket.width, [row for _, row in batch.rows]) == (16, [2])
    batch = queue.next(0.0, 1)
    assert (batch.bucket.width, [row for _, row in batch.rows]) == (8, [1, 0])


def test_rows_of_narrower_buckets_join_a_batch_down_to_the_narrowest():
    queue, one, two = Scheduler(160, buckets=masked(step=8, fill=0.5)), call(30, 17, 16, 9, 8, 3), call(20, 31)
    queue.add(one, 0.0)
    queue.add(two, 0.0)
    batches = drain(queue)
    assert shapes(batches, one, two) == [
        (32, [(1, 1), (0, 0), (1, 0), (0, 1), (0, 2)]),  # five rows of 32 tokens are the budget; the shorter call is due first
        (16, [(0, 3), (0, 4), (0, 5)]),
    ]
    assert (queue.waiting_rows, queue.waiting_tokens) == (0, 0)
    assert one.ended
    assert two.ended


def test_a_batch_is_as_wide_as_the_widest_row_that_may_share_it_if_it_has_room_for_all():
    half = masked(fill=0.5)
    queue, one, two, three = Scheduler(90, buckets=half), call(16), call(30, 20), call(70)
    for each in (one, two, three):  # in the order in which they are due
        queue.add(each, 0.0)
    assert shapes(drain(queue), one, two, three) == [(30, [(1, 0), (1, 1), (0, 0)]), (70, [(2, 0)])]
    queue, one, two = Scheduler(89, buckets=half), call(16), call(30, 20)
    for each in (one, two):
        queue.add(each, 0.0)
    assert shapes(drain(queue), one, two) == [(16, [(0, 0)]), (30, [(1, 0), (1, 1)])]


def test_where_padding_is_allowed_the_rows_of_a_call_with_a_deadline_go_in_its_order():
    queue = Scheduler(1000, buckets=masked(fill=0.5))
    one = call(5, 30, 7, deadline=9.0)
    queue.add(one, 0.0)
    assert shapes(drain(queue), one) == [(30, [(0, 0), (0, 1), (0, 2)])]


@given(CALLS, BUDGETS, st.integers(1, 3))
def test_batches_halve_until_they_fit_and_every_row_runs_once(lengths, budget, idle):
    memory = 60  # tokens
    queue, calls = scheduler(budget), [call(*each) for each in lengths]
    for one in calls:
        queue.add(one, 0.0)
    while batch := queue.next(0.0, idle):
        if batch.tokens <= memory:
            queue.done(batch, answers(batch), 0.0)
        else:
            assert not queue.failed(batch, OutOfMemoryError("short")), "40 tokens fit"
            assert queue.token_budget <= batch.tokens // 2
    assert all(one.ended and one.steps_done.all() for one in calls)
    assert queue.waiting_rows == 0


def test_a_half_whose_first_call_ended_still_runs_for_the_others():
    queue, one, two = scheduler(64), call(4, 4), call(4, 4)
    queue.add(one, 0.0)
    queue.add(two, 0.0)
    queue.failed(queue.next(0.0, 1), OutOfMemoryError("short"))
    queue.cancel(one)
    drain(queue)
    assert two.ended
    assert two.steps_done.all()
    assert queue.halved_batches == 1


def test_a_row_too_large_for_the_memory_ends_its_call():
    queue, one = scheduler(64), call(40)
    queue.add(one, 0.0)
    error = OutOfMemoryError("short")
    assert queue.failed(queue.next(0.0, 1), error) == [one]
    assert (one.error, queue.halved_batches, queue.token_budget) == (error, 0, 64)


def test_a_call_is_refused_by_the_work_that_is_due_before_it():
    queue = scheduler(delay=30)
    queue.add(call(20), now=0)  # due at 80
    queue.add(call(10), now=0)  # due at 40, before any other
    queue.add(call(10, 10), now=50)  # due at 130, after 30 tokens
    with pytest.raises(OverloadedError, match=r"50\.0 s of one worker's time are due before this call; expected at most 30\.0 s"):
        queue.add(call(10), now=91)  # due at 131
    assert queue.waiting_tokens == 50


def test_a_short_call_is_let_in_past_any_number_of_long_ones():
    queue = scheduler(delay=30)
    queue.add(call(*[40] * 20), now=0)
    queue.add(call(5), now=1)
    assert queue.waiting_tokens == 805


def test_a_call_may_wait_as_long_as_it_runs_itself():
    queue = scheduler(delay=30)
    queue.add(call(*[40] * 3), now=0)
    queue.add(call(*[40] * 3), now=0)
    with pytest.raises(OverloadedError, match=r"240\.0 s .* at most 120\.0 s"):
        queue.add(call(*[40] * 3), now=0)


def test_rows_that_ran_or_were_dropped_refuse_no_one():
    queue = scheduler(delay=30)
    first, second = call(20), call(20)
    queue.add(first, now=0)
    queue.add(second, now=0)
    queue.cancel(first)
    assert (queue.dropped_rows, queue.waiting_tokens) == (1, 20)
    drain(queue)
    queue.add(call(10), now=500)
    assert (queue.dropped_rows, queue.waiting_tokens) == (1, 10)


def test_a_call_knows_when_its_first_row_began():
    queue = scheduler(token_budget=1)
    waiting = call(3, 2)
    queue.add(waiting, now=1)
    assert (waiting.queued_at, waiting.started_at) == (1, None)
    queue.next(4, 1)
    queue.next(9, 1)
    assert (waiting.queued_at, waiting.started_at) == (1, 4)


def looked(batch, *logits) -> np.ndarray:
    """The first look's answers: `logits` by row of its call."""
    return np.array([[logits[row]] for _, row in batch.rows], np.float32)


def test_the_best_of_a_step_are_read_by_the_next():
    queue, one = scheduler(100), call(5, 5, 5, 5, keep=2)
    queue.add(one, 0.0)
    first = queue.next(0.0, 1)
    assert (first.graph, len(first.rows), queue.next(0.0, 1)) == ("first-look", 4, None)
    assert queue.done(first, looked(first, 0.5, 3.0, -1.0, 2.0), 1.0) == []
    second = queue.next(1.0, 1)
    assert (second.graph, [row for _, row in second.rows]) == ("full", [1, 3])
    assert queue.done(second, answers(second), 2.0) == [one]
    assert one.steps_done.tolist() == [1, 2, 1, 2]
    assert one.logits["first-look"].ravel().tolist() == [0.5, 3.0, -1.0, 2.0]
    assert one.logits["full"][[1, 3]].tolist() == [[1.0], [3.0]]
    assert np.isnan(one.logits["full"][[0, 2]]).all()
    assert (queue.waiting_rows, queue.waiting_tokens, queue.next(2.0, 1)) == (0, 0, None)


def test_a_step_ends_with_its_last_row_and_not_before():
    queue, one = scheduler(10), call(5, 5, 7, keep=1)
    queue.add(one, 0.0)
    batches = [queue.next(0.0, 1), queue.next(0.0, 1)]
    queue.done(batches[1], looked(batches[1], 1.0, 2.0, 0.0), 1.0)
    assert queue.next(1.0, 1) is None
    queue.done(batches[0], looked(batches[0], 1.0, 2.0, 0.0), 2.0)
    assert shapes([queue.next(2.0, 1)], one) == [(5, [(0, 1)])]


def test_of_equal_candidates_a_step_keeps_the_first_of_the_caller():
    queue, one = scheduler(100), call(3, 9, 5, 9, keep=2)
    queue.add(one, 0.0)
    while (batch := queue.next(0.0, 1)) and batch.graph == "first-look":
        queue.done(batch, looked(batch, 0.0, 1.0, 1.0, 1.0), 1.0)
    assert shapes([batch, queue.next(1.0, 1)], one) == [(9, [(0, 1)]), (5, [(0, 2)])]


def test_of_one_length_the_best_go_on_first():
    queue, one = scheduler(5), call(5, 5, 5, keep=2)
    queue.add(one, 0.0)
    for _ in range(3):
        batch = queue.next(0.0, 1)
        queue.done(batch, looked(batch, 1.0, 0.0, 2.0), 1.0)
    assert [queue.next(1.0, 1).rows[0][1] for _ in range(2)] == [2, 0]


def test_log_odds_decide_where_a_graph_has_two_labels():
    queue, one = scheduler(100), call(5, 5, keep=1)
    one.steps = (one.steps[0]._replace(rule="log-odds"), one.steps[1])
    queue.add(one, 0.0)
    queue.done(queue.next(0.0, 1), np.array([[5.0, 6.0], [0.0, 3.0]], np.float32), 1.0)
    assert queue.next(1.0, 1).rows == [(one, 1)]


def test_three_steps_narrow_down_to_the_last():
    queue, one = scheduler(100), call(*[4] * 6)
    one.steps = (Step("tiny", "logit", 4), Step("first-look", "logit", 2), Step("full", "logit"))
    queue.add(one, 0.0)
    assert [(batch.graph, sorted(row for _, row in batch.rows)) for batch in drain(queue)] == [
        ("tiny", [0, 1, 2, 3, 4, 5]),
        ("first-look", [2, 3, 4, 5]),
        ("full", [4, 5]),
    ]
    assert one.steps_done.tolist() == [1, 1, 2, 2, 3, 3]


@given(LENGTHS, BUDGETS, st.integers(1, 5), st.integers(1, 60), st.randoms(use_true_random=False))
def test_whatever_the_batches_a_step_keeps_the_same(lengths, budget, idle, keep, random):
    values = [random.choice((0.0, 1.0, 2.0)) for _ in lengths]
    queue, one = scheduler(budget), call(*lengths, keep=min(keep, len(lengths)))
    other = call(*lengths)
    queue.add(one, 0.0)
    queue.add(other, 0.0)
    while batch := queue.next(0.0, idle):
        queue.done(batch, looked(batch, *values), 0.0)
    expected = sorted(range(len(lengths)), key=lambda row: (-values[row], row))[: min(keep, len(lengths))]
    assert np.flatnonzero(one.steps_done == 2).tolist() == sorted(expected)
    assert one.ended
    assert other.steps_done.tolist() == [1] * len(lengths)
    assert (queue.waiting_rows, queue.waiting_tokens, queue._calls, queue._queues._heaps) == (0, 0, [], {})


def test_calls_in_different_steps_share_batches_of_a_graph():
    queue, planned, plain = scheduler(100), call(5, 5, 5, keep=1), call(5, 5)
    queue.add(planned, 0.0)
    first = queue.next(0.0, 1)
    queue.add(plain, 0.0)
    queue.done(first, looked(first, 0.0, 1.0, 0.0), 1.0)
    assert shapes([queue.next(1.0, 1)], planned, plain) == [(5, [(0, 1), (1, 0), (1, 1)])]


def test_a_call_keeps_its_place_from_step_to_step():
    queue, planned = scheduler(8), call(8, 8, keep=1)
    queue.add(planned, 0.0)
    batches = [queue.next(0.0, 1), queue.next(0.0, 1)]
    later = call(8)
    queue.add(later, 100.0)  # is due after the planned one, although that is in its second step
    for batch in batches:
        queue.done(batch, answers(batch), 100.0)
    assert queue.next(100.0, 1).rows[0][0] is planned


def test_a_plan_makes_a_call_cheaper_and_so_due_sooner():
    queue, planned, plain = scheduler(), call(*[10] * 10, keep=2), call(*[10] * 10)
    queue.add(planned, 0.0)
    queue.add(plain, 0.0)
    assert (planned.due, plain.due) == (PATIENCE * (10 + 20), PATIENCE * 100)


def test_what_a_call_has_yet_to_read_after_its_step_is_due_before_others():
    queue = scheduler(delay=30)
    queue.add(call(*[10] * 10, keep=4), now=0)  # 10 s for the first look, 40 s for the full graph
    with pytest.raises(OverloadedError, match=r"50\.0 s of one worker's time are due before this call"):
        queue.add(call(10), now=200)


def test_waiting_work_is_counted_by_graph():
    queue = scheduler()
    queue.add(call(10, 10, keep=1), 0.0)
    queue.add(call(10), 0.0)
    assert (queue.waiting_tokens, queue.waiting_seconds) == (30, 2.0 + 10.0)


def test_logits_that_are_not_finite_end_their_call_after_the_step():
    queue, bad, good = scheduler(100), call(5, 5, keep=1), call(5, 5, keep=1)
    queue.add(bad, 0.0)
    queue.add(good, 0.0)
    batch = queue.next(0.0, 1)
    assert queue.done(batch, np.array([[0.0], [np.nan], [0.0], [1.0]], np.float32), 1.0) == [bad]
    assert isinstance(bad.error, LogitsError)
    assert "for document 1;" in str(bad.error)
    assert shapes(drain(queue), bad, good) == [(5, [(1, 1)])]


def test_a_call_that_fails_in_a_later_step_ends():
    queue, one, other = scheduler(100), call(5, 9, keep=2), call(5)
    queue.add(one, 0.0)
    for _ in range(2):
        batch = queue.next(0.0, 1)
        queue.done(batch, answers(batch), 1.0)
    queue.add(other, 1.0)
    fives, nine = queue.next(1.0, 1), queue.next(1.0, 1)
    assert (nine.bucket.width, len(fives.rows)) == (9, 2)
    assert queue.failed(fives, RuntimeError("both")) == []
    alone = [queue.next(2.0, 1), queue.next(2.0, 1)]
    mine = next(batch for batch in alone if batch.rows[0][0] is one)
    assert mine.graph == "full"
    assert queue.failed(mine, RuntimeError("mine")) == [one]
    assert queue.done(nine, answers(nine), 3.0) == []
    assert (other.error, str(one.error)) == (None, "mine")


def test_a_retried_batch_ends_a_step():
    queue, one, other = scheduler(100), call(5, 5, keep=1), call(5, 5, keep=1)
    for each in (one, other):
        queue.add(each, 0.0)
    queue.failed(queue.next(0.0, 1), RuntimeError("both"))
    assert {batch.graph for batch in drain(queue)} == {"first-look", "full"}
    assert [each.steps_done.tolist() for each in (one, other)] == [[1, 2], [1, 2]]


@pytest.mark.parametrize("step", [0, 1])
def test_cancelling_in_any_step_leaves_nothing(step):
    queue, gone, other = scheduler(8), call(8, 8, 8, keep=2), call(8)
    queue.add(gone, 0.0)
    batches = [queue.next(0.0, 1) for _ in range(3 if step else 1)]
    if step:
        for batch in batches:
            queue.done(batch, answers(batch), 1.0)
        batches = [queue.next(1.0, 1)]
    queue.cancel(gone)
    assert (queue.waiting_rows, queue.waiting_tokens, queue.dropped_rows) == (0, 0, 1 if step else 2)
    assert queue.done(batches[-1], answers(batches[-1]), 2.0) == []
    queue.add(other, 2.0)
    assert shapes(drain(queue), gone, other) == [(8, [(1, 0)])]


def test_an_expired_call_ends_with_what_each_step_read():
    queue, late = scheduler(8), call(8, 8, 8, keep=2, deadline=30.0)
    queue.add(late, 0.0)
    for _ in range(3):
        batch = queue.next(0.0, 1)
        queue.done(batch, answers(batch), 1.0)
    batch = queue.next(1.0, 1)
    queue.done(batch, answers(batch), 2.0)
    assert queue.expire(30.0) == [late]
    assert late.steps_done.tolist() == [1, 1, 2]
    assert (queue.waiting_rows, queue.waiting_tokens, queue.next(3.0, 1)) == (0, 0, None)


def test_pace_is_learned_for_each_graph_and_guessed_by_operations():
    pace = Pace({"full": 100, "first-look": 20})
    pace.observe("full", 10, 5.0)
    assert (pace.predict("full", 4), pace.predict("first-look", 4)) == (2.0, pytest.approx(0.4))
    pace.observe("first-look", 10, 2.0)
    assert (pace.predict("full", 4), pace.predict("first-look", 4)) == (2.0, pytest.approx(0.8))
