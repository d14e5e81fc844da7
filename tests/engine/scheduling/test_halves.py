"""A split graph in the scheduler alone: lookup, document half and query half, by a clock that is a number."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resift.errors import InferenceError, OutOfMemoryError, OverloadedError
from resift.scheduling.buckets import Bucket
from resift.scheduling.halves import Phase, queue_name, stack_documents, stack_queries
from resift.scheduling.outcome import scored_of
from resift.scheduling.pace import Pace
from resift.scheduling.retries import parts_of
from resift.scheduling.scheduler import Scheduler
from resift.states.document_states import StatesCounts
from tests.support.steady_calls import SPLIT, call, known_of, split_answers, split_call, states_of

CONTENTS = st.lists(st.integers(0, 9).map(lambda number: number * 100 + number), min_size=1, max_size=12)
"""Documents of lengths from 5 to 14, equal ones among them."""


class PhasedPace(Pace):
    """A second a token in each phase, whatever happens; a lookup takes none."""

    def __init__(self):
        super().__init__(splits={"first-look": SPLIT})

    def observe(self, graph, tokens, seconds):
        pass

    def predict(self, graph, tokens):
        return 0.0 if graph == queue_name("first-look", Phase.LOOKUP) else float(tokens)


def scheduler(token_budget=16, **more) -> Scheduler:
    return Scheduler(token_budget, pace=PhasedPace(), **more)


def drain(queue, known=None, idle=1, now=0.0) -> list:
    batches = []
    while batch := queue.next(now, idle):
        batches.append(batch)
        queue.done(batch, split_answers(batch, known), now)
    return batches


def rows(batches, phase, one) -> list[int]:
    return [row for batch in batches if batch.phase is phase for each, row in batch.rows if each is one]


def is_empty(queue) -> bool:
    waiting = [*queue._queues._heaps.values()]
    return (queue.waiting_rows, queue.waiting_tokens, any(waiting), queue.next(0.0, 1)) == (0, 0, False, None)


@given(st.lists(st.tuples(CONTENTS, st.sets(st.integers(0, 11))), min_size=1, max_size=4), st.integers(1, 60), st.integers(1, 3))
def test_every_document_is_looked_up_once_computed_if_new_and_read_by_every_row(cases, budget, idle):
    queue, calls, known = scheduler(budget), [split_call(*contents) for contents, _ in cases], {}
    for one, (contents, prepared) in zip(calls, cases, strict=True):
        known |= known_of(one, *(row for row in prepared if row < len(contents)))
        queue.add(one, 0.0)
    batches = drain(queue, known, idle)
    assert is_empty(queue)
    for one, (contents, _) in zip(calls, cases, strict=True):
        assert one.ended
        assert one.logits["first-look"][:, 0].tolist() == list(contents)
        digests = one.documents["first-look"].digests
        first = {digest: row for row, digest in reversed([*enumerate(digests)])}
        assert sorted(rows(batches, Phase.LOOKUP, one)) == sorted(first.values())
        new = [row for digest, row in first.items() if digest not in known]
        assert sorted(rows(batches, Phase.DOCUMENT, one)) == sorted(new)
        assert sorted(rows(batches, Phase.QUERY, one)) == [*range(len(contents))]
        assert one.states_counts == StatesCounts(0, len(first) - len(new), len(new))
        assert one.reading is None
    for batch in batches:
        assert len(batch.rows) == 1 or batch.tokens <= budget
        for one, row in batch.rows:
            length = 5 + int(one.encodings.row(row)[0][0]) // 100
            read = -(-length // 4) * 4
            expected = {
                Phase.LOOKUP: Bucket(1, 1),
                Phase.DOCUMENT: Bucket(length, length),
                Phase.QUERY: Bucket(3 + read // 4, 3, read),
            }
            assert batch.bucket == expected[batch.phase]


def test_phases_follow_each_other_for_a_call_and_not_for_others():
    queue, first, second = scheduler(100), split_call(1, 2), split_call(3, 4)
    queue.add(first, 0.0)
    lookup = queue.next(0.0, 1)
    queue.add(second, 0.0)
    queue.done(lookup, split_answers(lookup), 0.0)
    assert [(batch.phase, [(first, second).index(one) for one, _ in batch.rows]) for batch in drain(queue)] == [
        (Phase.DOCUMENT, [0, 0]),
        (Phase.QUERY, [0, 0]),
        (Phase.LOOKUP, [1, 1]),
        (Phase.DOCUMENT, [1, 1]),
        (Phase.QUERY, [1, 1]),
    ]


def test_rows_of_several_calls_share_batches_in_every_phase():
    queue, calls = scheduler(100), [split_call(number, number + 1) for number in (10, 20, 30)]
    for one in calls:
        queue.add(one, 0.0)
    assert [(batch.phase, len(batch.rows)) for batch in drain(queue)] == [
        (Phase.LOOKUP, 6),
        (Phase.DOCUMENT, 6),
        (Phase.QUERY, 6),
    ]


def test_two_calls_that_want_a_document_at_once_both_compute_it():
    queue, calls = scheduler(100), [split_call(7), split_call(7)]
    for one in calls:
        queue.add(one, 0.0)
    batches = drain(queue)
    assert Counter(batch.phase for batch in batches for _ in batch.rows)[Phase.DOCUMENT] == 2
    assert [one.logits["first-look"].tolist() for one in calls] == [[[7.0]], [[7.0]]]


def test_a_query_half_reads_each_query_once_and_states_with_zeros_behind_them():
    queue, one, same, other = scheduler(1000), split_call(1, 2), split_call(2, 4), split_call(3, 5)
    other.encodings.segment_ids[:] = 1
    for each in (one, same, other):
        queue.add(each, 0.0)
    [lookup, documents, query] = drain(queue)
    assert {name: value.tolist() for name, value in stack_documents(documents).items()} == {
        "input_ids": [[content] * 5 for content in (1, 2, 2, 4, 3, 5)],
        "token_type_ids": [[0] * 5] * 4 + [[1] * 5] * 2,
    }
    inputs = stack_queries(query)
    assert {name: str(value.dtype) for name, value in inputs.items()} == {
        "input_ids": "int64",
        "token_type_ids": "int64",
        "query_of": "int64",
        "states": "uint8",
        "document_tokens": "int64",
    }
    # A row's query has the ids of its document in these tests: that of the content 2 is there twice.
    assert inputs["input_ids"].tolist() == [[content] * 3 for content in (1, 2, 4, 3, 5)]
    assert inputs["token_type_ids"].tolist() == [[0] * 3] * 3 + [[1] * 3] * 2
    assert inputs["query_of"].tolist() == [0, 1, 1, 2, 3, 4]
    assert inputs["document_tokens"].tolist() == [5] * 6
    assert inputs["states"].shape == (6, 8, 2)
    assert inputs["states"][:, :, 1].tolist() == [[content] * 5 + [0] * 3 for content in (1, 2, 2, 4, 3, 5)]
    assert lookup.phase is Phase.LOOKUP


def test_a_document_beyond_the_limit_keeps_its_last_token_and_is_the_same_for_every_shorter_query():
    long = [split_call(1, length=30, query=query) for query in (2, 5)]
    for one in long:
        ids = one.encodings.ids
        ids[-1] = 9
        ids, _ = one.encodings.document(0, SPLIT.document_tokens)
        assert ids.tolist() == [1] * 19 + [9]
    whole, _ = long[0].encodings.document(0, 30)
    assert whole.tolist() == [1] * 29 + [9]
    queue = scheduler(100)
    queue.add(long[0], 0.0)
    assert [batch.bucket for batch in drain(queue)] == [Bucket(1, 1), Bucket(20, 20), Bucket(2 + 5, 2, 20)]


def test_states_of_another_length_than_the_documents_are_not_believed():
    queue, one = scheduler(100), split_call(1, 2)
    known = known_of(one, 0, 1)
    known = {digest: states[:-1] if number == 0 else states for number, (digest, states) in enumerate(known.items())}
    queue.add(one, 0.0)
    assert rows(drain(queue, known), Phase.DOCUMENT, one) == [0]
    assert one.logits["first-look"][:, 0].tolist() == [1, 2]


@pytest.mark.parametrize("windows", [(), (2, 1, 3)])
def test_a_split_first_look_passes_its_best_documents_on(windows):
    queue, one = scheduler(30), split_call(1, 6, 3, 4, 5, 2, keep=2, windows=windows)
    queue.add(one, 0.0)
    batches = drain(queue)
    expected = [3, 4, 5, 0, 1] if windows else [1, 4]  # of the three documents, those whose best windows are 6 and 5
    assert sorted(rows(batches, None, one)) == sorted(expected)
    assert all(batch.graph == "full" for batch in batches if batch.phase is None)
    scored = scored_of(one)
    assert scored.states == StatesCounts(0, 0, 6)
    assert scored.graphs == ("first-look", "full")
    assert one.reading is None


def test_a_split_stage_in_the_middle_reads_only_what_the_stage_before_passes_on():
    from resift.artifact.resolved_plans import Step

    queue, one = scheduler(30), split_call(1, 6, 3, 4, 5, 2)
    one.steps = (Step("glance", "logit", 4), Step("first-look", "logit", 2), Step("full", "logit"))
    queue.add(one, 0.0)
    batches = drain(queue, known_of(one, 1, 2))
    assert sorted(rows(batches, Phase.LOOKUP, one)) == [1, 2, 3, 4]
    assert sorted(rows(batches, Phase.DOCUMENT, one)) == [3, 4]
    assert sorted(row for batch in batches if batch.graph == "full" for _, row in batch.rows) == [1, 4]
    assert one.steps_done.tolist() == [1, 3, 2, 2, 3, 1]
    assert one.states_counts == StatesCounts(0, 2, 2)


FAILING = [Phase.LOOKUP, Phase.DOCUMENT, Phase.QUERY]


@pytest.mark.parametrize("phase", FAILING)
def test_a_batch_that_fails_in_any_phase_fails_only_the_call_it_belongs_to(phase):
    queue, bad, good = scheduler(100), split_call(1, 2), split_call(3, 4)
    for one in (bad, good):
        queue.add(one, 0.0)
    error = InferenceError("not this one")
    while batch := queue.next(0.0, 1):
        if batch.phase is phase and any(one is bad for one, _ in batch.rows):
            failed = queue.failed(batch, error)
            assert failed == ([bad] if len(batch.by_call()) == 1 else [])
        else:
            queue.done(batch, split_answers(batch), 0.0)
    assert (bad.error, bad.ended, bad.reading) == (error, True, None)
    assert (good.error, good.logits["first-look"][:, 0].tolist()) == (None, [3, 4])
    assert is_empty(queue)


@pytest.mark.parametrize("phase", FAILING[1:])
def test_a_batch_for_which_memory_is_too_short_is_halved_in_any_phase(phase):
    queue, one = scheduler(100), split_call(*range(8))
    queue.add(one, 0.0)
    sizes = []
    while batch := queue.next(0.0, 1):
        if batch.phase is phase and len(batch.rows) > 2:
            queue.failed(batch, OutOfMemoryError("short"))
        else:
            sizes += [len(batch.rows)] * (batch.phase is phase)
            queue.done(batch, split_answers(batch), 0.0)
    assert sizes == [2] * 4
    assert one.logits["first-look"][:, 0].tolist() == [*range(8)]
    assert queue.halved_batches == 3
    assert is_empty(queue)


def test_the_parts_of_a_failed_batch_read_the_states_of_their_own_rows():
    queue, one, other = scheduler(100), split_call(1, 2), split_call(3)
    for each in (one, other):
        queue.add(each, 0.0)
    for _ in range(2):
        batch = queue.next(0.0, 1)
        queue.done(batch, split_answers(batch), 0.0)
    query = queue.next(0.0, 1)
    assert [part.phase for part in parts_of(query, InferenceError("no"))] == [Phase.QUERY] * 2
    queue.failed(query, InferenceError("no"))
    queue.cancel(other)
    [part] = drain(queue)
    assert [states[0, 0] for states in part.states] == [1, 2]
    assert one.logits["first-look"][:, 0].tolist() == [1, 2]


@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("is_running", [False, True])
def test_a_call_that_is_cancelled_in_any_phase_lets_go_of_its_states_and_disturbs_no_other(after, is_running):
    queue, gone, stays = scheduler(1000), split_call(1, 2, keep=1), split_call(3, 4, keep=1)
    for one in (gone, stays):
        queue.add(one, 0.0)
    for _ in range(after):
        batch = queue.next(0.0, 1)
        queue.done(batch, split_answers(batch), 0.0)
    batch = queue.next(0.0, 1) if is_running else None
    queue.cancel(gone)
    assert gone.reading is None
    if batch is not None:
        if batch.phase is Phase.QUERY:  # it was taken before: what it reads is still there
            assert stack_queries(batch)["document_tokens"].tolist() == [5] * 4
        queue.done(batch, split_answers(batch), 0.0)
    drain(queue)
    assert is_empty(queue)
    assert stays.steps_done.tolist() == [1, 2]
    assert gone.ended


def test_states_are_held_only_from_the_lookup_to_the_end_of_the_step():
    queue, calls = scheduler(10), [split_call(*range(number * 20, number * 20 + 4), keep=1) for number in range(5)]
    for one in calls:
        queue.add(one, 0.0)
    held = []
    while batch := queue.next(0.0, 1):
        queue.done(batch, split_answers(batch), 0.0)
        held.append(sum(len(one.reading.states) for one in calls if one.reading is not None))
    # A lookup takes ten rows at once, so that the states of at most three calls are there before the first has been read.
    assert 4 <= max(held) <= 12
    assert held[-1] == 0


def played(queue, calls, known=None, lateness=1.0):
    """Runs the queue on one worker that takes `lateness` times what is predicted, until all calls have ended: (call, time)."""
    now, ended = 0.0, []
    for one in calls:
        queue.add(one, now)
    while len(ended) < len(calls):
        batch = queue.next(now, 1)
        ended += [(one, now) for one in queue.expire(now)]
        if batch is None:
            break
        end = now + lateness * (0 if batch.phase is Phase.LOOKUP else batch.tokens)
        while (deadline := queue.deadline) is not None and deadline < end:
            ended += [(one, deadline) for one in queue.expire(deadline)]
        now = end
        ended += [(one, now) for one in queue.done(batch, split_answers(batch, known), now)]
        ended += [(one, now) for one in queue.expire(now)]
    return ended


@pytest.mark.parametrize(
    ("deadline", "read"),
    [(9.9, 0), (10.0, 1), (19.9, 1), (20.0, 2), (49.9, 4), (50.0, 5), (1000.0, 6)],
)
def test_the_document_half_leaves_time_for_the_query_half(deadline, read):
    # Each document takes 5 s, and 5 s more to be read: 3 tokens of the query, and 8 states at a quarter.
    queue, one = scheduler(), split_call(*range(6), deadline=deadline)
    [(_, ended)] = played(queue, [one])
    assert one.steps_done.tolist() == [1] * read + [0] * (6 - read)
    assert ended == pytest.approx(10.0 * read)
    assert is_empty(queue)


def test_with_a_deadline_known_documents_count_only_for_what_reads_them():
    queue, one = scheduler(), split_call(*range(6), deadline=31.0)
    played(queue, [one], known_of(one, 3, 4, 5))
    # The first takes 10 s; three that are known take 15 s, and there is no time for another new one: 35 s.
    assert one.steps_done.tolist() == [1, 0, 0, 1, 1, 1]
    assert one.states_counts == StatesCounts(0, 3, 1)


def test_a_call_whose_time_is_up_while_documents_are_computed_ends_with_what_was_read():
    queue, one = scheduler(), split_call(*range(6), deadline=42.0)
    [(_, ended)] = played(queue, [one], lateness=3.0)
    assert ended <= 42.0
    assert one.ended
    assert one.reading is None
    assert is_empty(queue)


def test_a_deadline_after_a_split_look_gives_the_rest_of_the_time_to_the_full_graph_in_its_order():
    queue, one = scheduler(), split_call(1, 2, 3, keep=3, deadline=42.0)
    played(queue, [one])
    # 30 s for the look, whose best is the last; 8 s for one row of the full graph.
    assert one.steps_done.tolist() == [1, 1, 2]


def test_time_that_is_up_in_the_lookup_ends_a_call_without_a_row():
    queue, one = scheduler(), split_call(1, 2, deadline=4.0)
    assert played(queue, [one]) == [(one, 0.0)]
    assert (one.steps_done.tolist(), one.logits) == ([0, 0], {})
    assert is_empty(queue)


def test_what_waits_is_predicted_by_both_halves_and_the_share_of_new_documents():
    pace = Pace({"first-look": 8, "first-look/document": 4, "full": 16}, {"first-look": SPLIT})
    pace.observe("full", 10, 160.0)  # a second an operation
    # An eighth of the 80 tokens are the query's, of 4 operations each; the others have 1; all counted in tokens of a query.
    reading = 80 * 8 * SPLIT.prepared_operations / 4
    assert pace.predict("first-look/lookup", 80) == pace.predict_pairs("first-look", 80) == pytest.approx(80 * 4 + reading)
    for _ in range(200):
        pace.observe_lookup("first-look", 0, 10)
    assert pace.predict_pairs("first-look", 80) == pytest.approx(reading, rel=1e-6)
    for _ in range(200):
        pace.observe_lookup("first-look", 5, 10)
    assert pace.predict_pairs("first-look", 80) == pytest.approx(160 + reading, rel=1e-6)
    assert pace.predict_pairs("full", 10) == pace.predict("full", 10) == pytest.approx(160)


def test_each_half_has_a_pace_of_its_own_and_a_lookup_none():
    queue = Scheduler(1000, pace=Pace(splits={"first-look": SPLIT}))
    queue.add(split_call(1, 2), 0.0)
    now, taken = 0.0, {Phase.LOOKUP: 7.0, Phase.DOCUMENT: 20.0, Phase.QUERY: 3.0}
    while batch := queue.next(now, 1):
        now += taken[batch.phase]
        queue.done(batch, split_answers(batch), now)
    assert queue.pace.predict("first-look/document", 1) == pytest.approx(20 / 10)
    assert queue.pace.predict("first-look", 1) == pytest.approx(3 / 10)


def test_calls_that_wait_for_their_lookup_count_as_the_work_that_they_are():
    queue = Scheduler(1000, pace=PhasedPace(), delay=1.0)
    pace = Pace({"first-look": 4, "first-look/document": 4, "full": 4}, {"first-look": SPLIT})
    pace.observe("full", 1, 1.0)
    queue.pace = pace
    queue.add(split_call(*range(10)), 0.0)
    assert queue.waiting_seconds == pytest.approx(pace.predict_pairs("first-look", 80))
    with pytest.raises(OverloadedError, match="s of one worker's time are due before this call"):
        queue.add(call(1, graph="full"), 1e6)
    limited = Scheduler(1000, pace=PhasedPace(), limit=100)
    limited.add(split_call(*range(10)), 0.0)
    with pytest.raises(OverloadedError, match="80 tokens are waiting and this call has 80"):
        limited.add(split_call(*range(10)), 0.0)


def test_a_call_without_a_split_graph_is_as_it_was():
    queue, one, split = scheduler(1000), call(5, 5, 7), split_call(1, 2)
    for each in (one, split):
        queue.add(each, 0.0)
    plain = [batch for batch in drain(queue) if batch.phase is None]
    assert [(batch.queue, batch.bucket, len(batch.rows), batch.states) for batch in plain] == [
        ("full", Bucket(7, 7), 1, []),
        ("full", Bucket(5, 5), 2, []),
    ]
    assert (one.states_counts, one.documents, one.reading) == (None, {}, None)
    assert one.row_tokens is one.encodings.lengths


def test_longest_documents_are_computed_first():
    queue, one = scheduler(1), split_call(100, 300, 200)
    queue.add(one, 0.0)
    widths = [batch.bucket.width for batch in drain(queue) if batch.phase is Phase.DOCUMENT]
    assert all(before >= after for before, after in pairwise(widths))
    assert np.array_equal(states_of(one, 0)[:, 0], [100] * 6)
