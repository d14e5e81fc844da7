"""Deadlines: what a call has read when its time is up, by a clock that is a number and in the engine."""

from __future__ import annotations

import asyncio
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resift import InputError, Ranking, Reranker, inputs
from resift.scheduling import workers
from resift.scheduling.deadline import SLACK, SLACK_OF_A_GUESS
from resift.scheduling.pace import FIRST_GUESS
from resift.scheduling.scheduler import Scheduler
from tests.support import tiny
from tests.support.steady_calls import answers, call, drain, scheduler

QUERY, DOCUMENTS = "how do tides work", tiny.texts()[1:40:3]
SOON, LATE = 50.0, 1e9
"""Milliseconds within which no held batch ends, and after which every batch has."""


def played(queue, calls, lateness=1.0):
    """Runs the queue on one worker that takes `lateness` times a second a token, until all calls have ended: (call, time)."""
    now, ended = 0.0, []
    for one in calls:
        queue.add(one, now)
    while len(ended) < len(calls):
        batch = queue.next(now, 1)
        ended += [(one, now) for one in queue.expire(now)]
        if batch is None:
            break
        end = now + lateness * batch.tokens / (10 if batch.graph == "first-look" else 1)
        while (deadline := queue.deadline) is not None and deadline < end:
            ended += [(one, deadline) for one in queue.expire(deadline)]
        now = end
        ended += [(one, now) for one in queue.done(batch, answers(batch), now)]
        ended += [(one, now) for one in queue.expire(now)]
    return ended


def test_rows_are_read_in_the_order_given_and_none_that_would_be_late_is_begun():
    queue, one = scheduler(), call(2, 8, 4, 1, 9, 1, deadline=9.0)
    [(_, ended)] = played(queue, [one])
    # 2 and then 8 would be 10 s: the 4 and the 1 that fit are read. The last 1 fits, too, but is 4 places behind the 8.
    assert one.steps_done.tolist() == [1, 0, 1, 1, 0, 0]
    assert ended == 7.0
    assert (queue.waiting_rows, queue.waiting_tokens, queue.dropped_rows) == (0, 0, 3)


def test_a_batch_takes_no_row_before_a_better_one_of_another_length():
    queue, one = scheduler(100), call(5, 5, 3, 5, 3, deadline=1000.0)
    queue.add(one, 0.0)
    batches = drain(queue)
    assert [[row for _, row in batch.rows] for batch in batches] == [[0, 1], [2], [3], [4]]


def test_a_batch_takes_no_more_rows_than_there_is_time_for():
    queue, one = scheduler(100), call(*[5] * 10, deadline=16.0)
    queue.add(one, 0.0)
    assert queue.next(0.0, 1).rows == [(one, 0), (one, 1), (one, 2)]


def test_with_time_enough_a_deadline_changes_nothing():
    queue, one = scheduler(), call(3, 5, 5, 2, deadline=1000.0)
    played(queue, [one])
    assert (one.steps_done.tolist(), one.pending_rows) == ([1, 1, 1, 1], 0)
    assert queue.deadline is None


def test_the_full_graph_reads_what_the_first_look_ranked_best_for_as_long_as_there_is_time():
    queue, one = scheduler(token_budget=10), call(*[10] * 5, keep=5, deadline=26.0)
    played(queue, [one])
    assert one.steps_done.tolist() == [1, 1, 1, 2, 2]  # answers() ranks the last row best; 5 x 1 s, and 2 x 10 s


@pytest.mark.parametrize(("deadline", "keep", "waiting", "workers", "steps"), [
    pytest.param(50.0 * SLACK, 5, (), 1, 1, id="time enough"),
    pytest.param(49.9 * SLACK, 5, (), 1, 2, id="not enough"),
    pytest.param(54.0 * SLACK, 5, (5,), 1, 2, id="not enough after what waits"),
    pytest.param(55.0 * SLACK, 5, (5,), 1, 1, id="enough after what waits"),
    pytest.param(25.0 * SLACK, 5, (), 2, 1, id="enough for two workers"),
    pytest.param(24.9 * SLACK, 5, (), 2, 2, id="not enough for two workers"),
    pytest.param(10.0 * SLACK, 5, (), 8, 1, id="enough for a worker to each row"),
    pytest.param(9.9 * SLACK, 5, (), 8, 2, id="more workers than rows"),
    pytest.param(60.0, 5, (), 1, 2, id="a fifth more than predicted is not enough"),
    pytest.param(75.0, 5, (), 1, 1, id="half more is"),
    pytest.param(1000.0, 4, (), 1, 2, id="a step that drops some"),
])  # fmt: skip
def test_a_step_that_only_says_in_which_order_is_left_out_if_there_is_time_for_all(deadline, keep, waiting, workers, steps):
    queue, one = scheduler(workers=workers), call(*[10] * 5, keep=keep, deadline=deadline)
    if waiting:
        queue.add(call(*waiting), 0.0)
    queue.add(one, 0.0)
    assert len(one.steps) == steps
    assert one.steps[-1].graph == "full"


@pytest.mark.parametrize(("times", "has_run", "steps"), [(SLACK, False, 2), (SLACK_OF_A_GUESS, False, 1), (SLACK, True, 1)])
def test_before_a_batch_has_run_only_a_long_time_is_taken_to_be_enough(times, has_run, steps):
    queue, one = Scheduler(100), call(*[10] * 5, keep=5, deadline=times * 50 * FIRST_GUESS)
    queue.pace.observe("first-look", 10, 10 * FIRST_GUESS)
    if has_run:
        queue.pace.observe("full", 10, 10 * FIRST_GUESS)
    queue.add(one, 0.0)
    assert len(one.steps) == steps


def test_a_step_without_time_for_all_passes_on_what_it_read():
    queue, one = scheduler(token_budget=10), call(*[10] * 4, keep=4, deadline=2.5)
    played(queue, [one])
    assert one.steps_done.tolist() == [1, 1, 0, 0]


def test_a_call_that_has_no_time_for_any_row_ends_at_once():
    queue, one = scheduler(), call(8, 8, keep=1, deadline=0.5)
    assert played(queue, [one]) == [(one, 0.0)]
    assert (one.steps_done.tolist(), one.logits) == ([0, 0], {})


def test_rows_that_run_are_waited_for_when_the_others_are_given_up():
    queue, one = scheduler(8), call(8, 8, 8, deadline=10.0)
    queue.add(one, 0.0)
    first = queue.next(0.0, 2)
    assert queue.next(5.0, 1) is None
    assert (queue.expire(5.0), one.ended, one.pending_rows) == ([], False, 1)
    assert queue.done(first, answers(first), 8.0) == [one]
    assert (queue.expire(20.0), one.steps_done.tolist()) == ([], [1, 0, 0])


def test_slower_than_predicted_ends_at_the_deadline_all_the_same():
    queue, one = scheduler(8), call(8, 8, deadline=19.0)
    assert played(queue, [one], lateness=1.5) == [(one, 12.0)]  # the second would take 8 s more, it is thought
    assert one.steps_done.tolist() == [1, 0]
    queue, one = scheduler(8), call(8, deadline=10.0)
    assert played(queue, [one], lateness=3.0) == [(one, 10.0)]


def test_others_are_not_hurt_by_a_call_that_is_given_up():
    queue, hasty, other = scheduler(8), call(8, 8, deadline=1.0), call(8, 8)
    played(queue, [hasty, other])
    assert other.steps_done.tolist() == [1, 1]
    assert hasty.steps_done.tolist() in ([0, 0], [1, 0])  # its row may share a batch
    assert drain(queue) == []


@given(
    st.lists(
        st.tuples(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.none() | st.floats(0.01, 120), st.booleans()),
        min_size=1,
        max_size=6,
    ),
    st.floats(0.2, 4),
    st.integers(1, 60),
)
def test_every_call_ends_and_none_after_its_deadline(calls, lateness, budget):
    queue = scheduler(budget)
    made = [call(*lengths, deadline=deadline, keep=len(lengths) if looks else None) for lengths, deadline, looks in calls]
    ended = dict(played(queue, made, lateness))
    assert len(ended) == len(made)
    for one, at in ended.items():
        assert one.ended
        assert one.error is None
        assert one.deadline is None or at <= one.deadline.at
        assert one.deadline is not None or (one.steps_done == len(one.steps)).all()
    assert (queue.waiting_rows, queue.waiting_tokens, queue.next(0.0, 1), queue.deadline) == (0, 0, None, None)


class Clock:
    """The engine's clock, which a test puts forward."""

    ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def pass_deadlines(self, reranker) -> None:
        """Lets every deadline pass, and wakes the thread that waits for the next one."""
        workers = reranker._workers
        with workers._lock:
            self.ahead += LATE / 1000
            workers._new_deadline.notify()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (inputs, workers):
        monkeypatch.setattr(module, "time", clock)
    return clock


def unread(ranking):
    return [result.index for result in ranking if result.scored_by is None]


def test_what_was_not_read_in_time_follows_in_the_order_given_and_says_so(one_at_a_time, gate):
    opened, begun, _ = gate
    blocking = one_at_a_time.submit("a", ["b"])
    assert begun.wait(60)
    ranking = one_at_a_time.rerank(QUERY, DOCUMENTS, budget_ms=SOON)
    assert unread(ranking) == [result.index for result in ranking] == list(range(len(DOCUMENTS)))
    assert {(result.score, result.logit) for result in ranking} == {(None, None)}
    assert all(result.document == DOCUMENTS[result.index] for result in ranking)
    assert len(one_at_a_time.rerank(QUERY, DOCUMENTS, budget_ms=SOON, top_k=3)) == 3
    opened.set()
    blocking.result()
    assert one_at_a_time.queued.rows == 0


def test_a_deadline_ends_a_call_while_its_own_batch_runs(one_at_a_time, gate, clock):
    opened, begun, _ = gate
    answer = one_at_a_time.submit(QUERY, DOCUMENTS, budget_ms=LATE)
    assert begun.wait(60)
    clock.pass_deadlines(one_at_a_time)
    scored = answer.result()  # the batch is still held
    assert (np.isnan(scored.logits).all(), scored.stages_done.tolist()) == (True, [0] * len(DOCUMENTS))
    opened.set()
    assert one_at_a_time.rerank(QUERY, DOCUMENTS) == one_at_a_time.rerank(QUERY, DOCUMENTS, budget_ms=LATE**2)  # it ran for LATE


def test_with_time_enough_results_are_equal_to_the_bit(reranker):
    expected = reranker.rerank(QUERY, DOCUMENTS)
    for budget in (LATE, 1.7e308, 10**9, np.int64(10**9), np.float32(1e9), Fraction(10**9)):
        assert reranker.rerank(QUERY, DOCUMENTS, budget_ms=budget) == expected
    assert reranker.rerank_many([QUERY] * 2, [DOCUMENTS] * 2, budget_ms=LATE) == [expected] * 2
    assert reranker.rerank(QUERY, [], budget_ms=1).results == ()
    assert reranker.rerank(QUERY, [DOCUMENTS[0]] * 3, budget_ms=LATE) == reranker.rerank(QUERY, [DOCUMENTS[0]] * 3)

    async def asked():
        encoded = await reranker.aencode(QUERY, DOCUMENTS, budget_ms=LATE)
        scored = await asyncio.wrap_future(reranker.submit_encoded(encoded))
        many = await reranker.arerank_many([QUERY], [DOCUMENTS], budget_ms=LATE)
        return [await reranker.arerank(QUERY, DOCUMENTS, budget_ms=LATE), Ranking.of(DOCUMENTS, scored), *many]

    assert asyncio.run(asked()) == [expected] * 3


def test_pools_of_one_call_share_its_budget(one_at_a_time, gate):
    opened, begun, _ = gate
    blocking = one_at_a_time.submit("a", ["b"])
    assert begun.wait(60)
    rankings = one_at_a_time.rerank_many([QUERY] * 3, [DOCUMENTS] * 3, budget_ms=SOON)
    assert [len(unread(ranking)) for ranking in rankings] == [len(DOCUMENTS)] * 3
    opened.set()
    blocking.result()


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf"), 10**400, -(10**400), Fraction(10**400)])
def test_a_budget_out_of_range_is_refused(reranker, budget):
    with pytest.raises(InputError, match=r"budget_ms is .*; expected a number of milliseconds above 0"):
        reranker.rerank(QUERY, DOCUMENTS, budget_ms=budget)


@pytest.mark.parametrize("budget", ["80", True, [80], 1j])
def test_a_budget_that_is_no_number_is_refused(reranker, budget):
    with pytest.raises(TypeError, match=r"budget_ms is .*; expected a number of milliseconds"):
        reranker.submit(QUERY, DOCUMENTS, budget_ms=budget)


def test_closing_ends_the_thread_that_watches_deadlines(artifact):
    loaded = Reranker.load(artifact)
    loaded.rerank(QUERY, DOCUMENTS, budget_ms=LATE)
    watch = loaded._workers._watch
    assert watch.is_alive()
    loaded.close()
    watch.join(60)
    assert not watch.is_alive()
    assert "resift-deadlines" not in {thread.name for thread in threading.enumerate() if thread is watch}
