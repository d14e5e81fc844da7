"""Windows alone: where they lie, what the tokenizer makes of them, and what the scheduler keeps, by a clock that is a number."""

from __future__ import annotations

import itertools
import sys
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resift import OverloadedError, Ranking
from resift.encoding import extent as extents
from resift.encoding.encodings import Encodings
from resift.encoding.tokenizer import PairTokenizer
from resift.encoding.windows import OVERLAP, best_rows, reach, spans
from resift.errors import LogitsError
from resift.scheduling.outcome import scored_of
from tests.support import children, tiny
from tests.support.columns import columns_of
from tests.support.steady_calls import answers, call, drain, scheduler

MAX_LENGTH = 24
KINDS = ["bert", "roberta", "xlm-roberta", "modernbert"]
QUERY = "tides rise"
WORDS = ["water", "the", "moon", "東京", "🌊", "1,000.5", "[SEP]", "</s>", "e\u0301", "\n"]
DOCUMENT = st.lists(st.sampled_from(WORDS), max_size=120).map(" ".join)


@pytest.mark.parametrize(
    ("tokens", "room", "expected"),
    [
        (0, 8, [(0, 0)]),
        (8, 8, [(0, 8)]),
        (9, 8, [(0, 8), (1, 9)]),  # moved back, so that it is full
        (14, 8, [(0, 8), (6, 14)]),
        (15, 8, [(0, 8), (6, 14), (7, 15)]),
        (3, 1, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_windows_of_eight_tokens_begin_six_apart(tokens, room, expected):
    assert spans(tokens, room) == expected


@given(tokens=st.integers(0, 3000), room=st.integers(1, 600))
def test_windows_are_full_overlap_read_every_token_and_end_with_the_document(tokens, room):
    found = spans(tokens, room)
    assert found[0][0] == 0
    assert found[-1][1] == tokens
    assert all(end - start == min(room, tokens) for start, end in found)
    shared = [before[1] - after[0] for before, after in itertools.pairwise(found)]
    assert set(shared[:-1]) <= {room // OVERLAP}
    assert all(room // OVERLAP <= tokens < room for tokens in shared[-1:])


@given(room=st.integers(1, 600), windows=st.integers(1, 64), more=st.integers(0, 3000))
def test_so_many_windows_reach_so_far_and_not_a_token_further(room, windows, more):
    most = reach(room, windows)
    assert len(spans(most, room)) == windows
    assert len(spans(most + 1, room)) == windows + 1
    assert len(spans(min(most, more), room)) <= windows
    assert reach(room, 1) == room


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(-3, 3)), min_size=1, max_size=40))
def test_the_best_of_each_document_is_the_first_of_its_largest(rows):
    documents, values = (np.array(column) for column in zip(*rows, strict=True))
    expected = [
        min((place for place in range(len(rows)) if documents[place] == one), key=lambda place: (-values[place], place))
        for one in sorted(set(documents.tolist()))
    ]
    assert best_rows(values.astype(np.float32), documents).tolist() == expected


@pytest.fixture(scope="module", params=KINDS)
def fast(request):
    return tiny.tokenizer(request.param)


@pytest.fixture(scope="module")
def ours(fast):
    return PairTokenizer(fast.backend_tokenizer.to_str().encode(), MAX_LENGTH)


def encoded(tokenizer, query, documents, windows, **more):
    return Encodings.join(list(tokenizer.parts(query, documents, windows=windows, **more)))


@settings(max_examples=100)
@given(
    query=st.sampled_from(["", QUERY, "tides " * 30]), documents=st.lists(DOCUMENT, min_size=1, max_size=4), most=st.integers(1, 9)
)
def test_a_window_is_the_whole_query_with_a_slice_of_the_documents_own_tokens(fast, ours, query, documents, most):
    found, around = encoded(ours, query, documents, most), ours.overhead(query)
    room, plain = MAX_LENGTH - around, ours.encode(query, documents)
    frame = ours.encode(query, [""]).row(0)[0].tolist()
    head = around - ours._template.suffix.shape[1]
    assert found.query_tokens_cut == plain.query_tokens_cut
    for number, document in enumerate(documents):
        tokens = fast([document], add_special_tokens=False)["input_ids"][0]
        read = tokens[: reach(room, most)]
        rows = range(found.row_offsets[number], found.row_offsets[number + 1])
        assert len(rows) == len(spans(len(read), room)) <= most
        for row, (start, end) in zip(rows, spans(len(read), room), strict=True):
            ids, segment_ids = (column.tolist() for column in found.row(row))
            assert found.window_starts[row] == start
            assert len(ids) == found.lengths[row] == around + end - start
            assert ids[:head] + ids[head + end - start :] == frame
            assert ids[head : head + end - start] == read[start:end]
            assert len(segment_ids) == len(ids)
        first = found.row_offsets[number]
        assert [column.tolist() for column in found.row(first)] == [column.tolist() for column in plain.row(number)]
        assert found.tokens_cut[number] == len(tokens) - len(read)
        assert found.pair_lengths[number] == around + len(read)


def test_one_window_is_the_pair_as_it_was(ours):
    documents = ["water " * 200, "", "short"]
    windowed, whole = encoded(ours, QUERY, documents, 1), ours.encode(QUERY, documents)
    for field in fields(Encodings):
        assert np.array_equal(getattr(windowed, field.name), getattr(whole, field.name))


def test_a_limit_of_the_documents_tokens_is_for_all_its_windows(ours):
    room = MAX_LENGTH - ours.overhead(QUERY)
    whole = encoded(ours, QUERY, ["water " * 200], 8)
    for tokens in (1, room, room + 1, 2 * room):
        found = encoded(ours, QUERY, ["water " * 200], 8, document_tokens=tokens)
        assert found.pair_lengths.tolist() == [ours.overhead(QUERY) + tokens]
        assert len(found) == len(spans(tokens, room))
        assert found.tokens_cut[0] == whole.tokens_cut[0] + whole.pair_lengths[0] - found.pair_lengths[0]


@pytest.fixture
def sizes(monkeypatch):
    """Characters of the texts that are encoded."""
    seen, encode = [], PairTokenizer._encode_whole
    monkeypatch.setattr(PairTokenizer, "_encode_whole", lambda self, texts: seen.extend(map(len, texts)) or encode(self, texts))
    return seen


def test_of_a_very_long_text_as_much_is_encoded_as_its_windows_read(sizes):
    longer = PairTokenizer(tiny.backend("bert").to_str().encode(), 4096)
    text = "the water " * 5_000_000  # 50 MB
    room = 4096 - longer.overhead(QUERY)
    tokens = (longer.encode("", ["the water"]).lengths[0] - 3) / 10
    limits = {}
    for windows in (1, 8, 16, 64):
        sizes.clear()
        found = encoded(longer, QUERY, [text], windows)
        most = reach(room, windows)
        limits[windows] = next(limit for limit in (100_000, 200_000, 400_000, 800_000) if limit * tokens > most + 10)
        assert (len(found), found.tokens_cut_at_least.tolist()) == (windows, [True])
        assert found.pair_lengths[0] == longer.overhead(QUERY) + most
        assert limits[windows] - 20 <= max(sizes) <= limits[windows]
    assert (limits[1], limits[64]) == (100_000, 800_000)
    part = text[:150_000]  # which 64 windows read to its end
    ends = [encoded(longer, QUERY, [part], windows) for windows in (1, 64)]
    assert [found.tokens_cut_at_least.tolist() for found in ends] == [[True], [False]]
    assert ends[1].tokens_cut.tolist() == [0]


def test_a_text_with_few_tokens_is_encoded_to_a_bound(sizes):
    ours = PairTokenizer(tiny.backend("bert").to_str().encode(), MAX_LENGTH)
    room = MAX_LENGTH - ours.overhead(QUERY)
    for windows in (1, 5):
        sizes.clear()
        found = encoded(ours, QUERY, [" " * 50_000_000], windows)
        assert (found.lengths.tolist(), found.tokens_cut_at_least.tolist()) == ([ours.overhead(QUERY)], [True])
        assert max(sizes) == extents.LONG_TEXT_LIMITS[-1] + extents.CHARACTERS_PER_WINDOW_TOKEN * (reach(room, windows) - room)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/status")
@pytest.mark.parametrize("unit", ["the tides rise ", "a", "東京", " ", "QUJDREVG+0/"])
def test_a_text_of_50_megabytes_in_64_windows_takes_little_memory(unit):
    script = f"""
from resift.artifact.folder import Artifact
from resift.artifact.manifest import TOKENIZER
from resift.encoding.tokenizer import PairTokenizer
ours = PairTokenizer(Artifact.find(None).read(TOKENIZER), 512)
[found] = ours.parts("tides", [{unit!r} * (50_000_000 // len({unit!r}.encode()) + 1)], windows=64)
assert 1 <= len(found) <= 64
[peak] = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(peak // 1024)
"""
    done = children.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 600


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.integers(1, 9), st.data())
def test_a_step_keeps_documents_by_their_best_window_and_all_their_windows(windows, keep, data):
    queue = scheduler(token_budget=data.draw(st.integers(1, 40)))
    one = call(*[5] * sum(windows), keep=keep, windows=tuple(windows))
    values = np.array(data.draw(st.lists(st.integers(-3, 3), min_size=sum(windows), max_size=sum(windows))), np.float32)
    queue.add(one, 0.0)
    while batch := queue.next(0.0, 1):
        queue.done(batch, np.array([[values[row]] for _, row in batch.rows], np.float32), 0.0)
    ends = np.cumsum(windows)
    best = [values[end - count : end].max() for end, count in zip(ends, windows, strict=True)]
    kept = sorted(range(len(windows)), key=lambda document: (-best[document], document))[:keep]
    assert one.ended
    assert one.steps_done.tolist() == [1 + (document in kept) for document, count in enumerate(windows) for _ in range(count)]
    found = scored_of(one, windowed=True)
    assert found.logits.tolist() == best
    assert found.windows.tolist() == windows
    assert found.window.tolist() == [int(values[end - count : end].argmax()) for end, count in zip(ends, windows, strict=True)]


def ranked(one):
    """(document, logit, score, scored_by, windows, window) of a call that has ended, best first."""
    ranking = Ranking.of(["text"] * len(one.order), scored_of(one, windowed=True))
    return [(each.index, each.logit, each.score, each.scored_by, each.windows, each.window) for each in ranking]


def ended(queue, one):
    """Plays the queue on one worker that takes as long as predicted, until the call has ended.

    The first look finds every row worse than the one before, the full graph better, by 10 more.
    """
    now = 0.0
    queue.add(one, now)
    while not one.ended:
        batch = queue.next(now, 1)
        queue.expire(now)
        if batch is not None:
            now += batch.tokens / (10 if batch.graph == "first-look" else 1)
            queue.done(batch, 10 + answers(batch) if batch.graph == "full" else -answers(batch), now)
    return ranked(one)


def test_a_document_without_time_for_all_its_windows_ranks_below_those_read_in_full_by_the_best_it_had():
    # Of the second document's three windows there is time for two; nothing of the third is read.
    one = call(*[8] * 5, windows=(1, 3, 1), deadline=26.0)
    assert ended(scheduler(), one) == [(0, 10.0, 10.0, "full", 1, 0), (1, 12.0, None, "full", 2, 1), (2, None, None, None, 0, 0)]


def test_without_time_for_all_its_windows_in_full_a_document_keeps_what_the_first_look_said():
    one = call(*[10] * 4, windows=(2, 2), keep=2, deadline=36.0)
    assert ended(scheduler(token_budget=10), one) == [(0, 11.0, 11.0, "full", 2, 1), (1, -2.0, None, "first-look", 2, 0)]
    assert one.steps_done.tolist() == [2, 2, 2, 1]
    assert np.isnan(scored_of(one).outputs[:, 0]).tolist() == [False, True]


def test_only_a_document_whose_windows_were_all_looked_at_is_passed_on():
    one = call(*[10] * 6, windows=(2, 3, 1), keep=2, deadline=100.0)
    one.logits["first-look"] = np.array([[1], [2], [9], [9], [np.nan], [3]], np.float32)
    one.steps_done[:] = [1, 1, 1, 1, 0, 1]
    assert one.survivors().tolist() == [5, 0, 1]
    some = call(*[10] * 4, windows=(4,), keep=1, deadline=2.5)
    assert ended(scheduler(token_budget=10), some) == [(0, 0.0, None, "first-look", 2, 0)]


def test_a_document_read_in_part_ranks_above_those_that_nothing_read_and_below_the_others():
    logits, read = np.array([np.nan, 2, 3, 1], np.float32), np.array([0, 0, 0, 1], np.int8)
    ranking = Ranking.of(["text"] * 4, columns_of(logits, scores=np.array([np.nan] * 3 + [1]), stages_done=read))
    assert [(each.index, each.scored_by) for each in ranking] == [(3, "full"), (2, "full"), (1, "full"), (0, None)]
    assert [each.score for each in ranking] == [1, None, None, None]


def test_every_window_waits_counts_and_is_dropped():
    queue, one, other = scheduler(limit=60), call(*[8] * 6, windows=(6,)), call(8, 8, windows=(2,))
    queue.add(one, 0.0)
    assert (queue.waiting_rows, queue.waiting_tokens) == (6, 48)
    with pytest.raises(OverloadedError, match="48 tokens are waiting and this call has 16"):
        queue.add(other, 0.0)
    queue.next(0.0, 1)
    queue.cancel(one)
    assert (queue.waiting_rows, queue.waiting_tokens, queue.dropped_rows, drain(queue)) == (0, 0, 4, [])


def test_what_is_predicted_for_a_plan_counts_all_windows_of_the_documents_it_keeps():
    queue, one = scheduler(), call(*[8] * 6, windows=(5, 1), keep=1)
    queue.add(one, 0.0)
    assert one.due == 4 * (48 / 10 + 24)


def test_a_logit_that_is_none_names_the_callers_document():
    queue, one = scheduler(token_budget=100), call(*[8] * 4, windows=(1, 3))
    queue.add(one, 0.0)
    queue.done(queue.next(0.0, 1), np.array([[1], [2], [np.nan], [3]], np.float32), 0.0)
    one.order = np.array([0, 0, 1, 1])
    with pytest.raises(LogitsError, match="for document 2"):
        scored_of(one)


def test_equal_pairs_share_their_windows():
    queue, one = scheduler(token_budget=100), call(*[8] * 4, windows=(1, 3))
    queue.add(one, 0.0)
    assert [len(batch.rows) for batch in drain(queue)] == [4]
    one.order = np.array([1, 0, 1])
    found = scored_of(one, windowed=True)
    assert (found.logits.tolist(), found.windows.tolist(), found.window.tolist()) == ([3, 0, 3], [3, 1, 3], [2, 0, 2])
    assert scored_of(one).windows is None
