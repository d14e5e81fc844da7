"""Calls that share the workers: waiting, cancelling, failing, closing."""

from __future__ import annotations

import asyncio
import gc
import linecache
import os
import signal
import sys
import threading
import time
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from resift import ClosedError, InferenceError, LogitsError, Ranking, Reranker, Settings
from resift.runtime.session import Session
from resift.scheduling.scheduler import Scheduler
from resift.scheduling.submission import Submission
from resift.scheduling.workers import Workers
from tests.support import steady_calls, tiny

QUERY, DOCUMENTS = "how do tides work", tiny.texts()[1:40:2]
BAD = "the one document that fails"


def until(condition) -> None:
    """Waits for what another thread is about to do."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_the_future_answers_with_the_columns_that_rerank_ranks(reranker):
    scored = reranker.submit(QUERY, DOCUMENTS).result()
    assert scored.logits.tolist() == reranker.logits(QUERY, DOCUMENTS).tolist()
    assert (scored.logits.dtype, scored.tokens_cut.dtype, scored.tokens_cut_at_least.dtype) == (np.float32, np.int32, np.bool_)
    assert Ranking.of(DOCUMENTS, scored, top_k=3) == reranker.rerank(QUERY, DOCUMENTS, top_k=3)


def test_a_failure_to_submit_cancels_what_was_submitted_before_it(one_at_a_time, gate, monkeypatch):
    opened, begun, rows = gate
    first = one_at_a_time.submit("a", ["b"])
    assert begun.wait(60)
    inner, asked = Submission.encode, []

    def failing(self, pools, *terms, **limits):
        asked.append(pools)
        if len(asked) == 3:
            raise MemoryError
        return inner(self, pools, *terms, **limits)

    monkeypatch.setattr(Submission, "encode", failing)
    with pytest.raises(MemoryError):
        one_at_a_time.rerank_many([QUERY] * 4, [DOCUMENTS[:5]] * 4)
    opened.set()
    first.result()
    monkeypatch.undo()
    one_at_a_time.logits("bread", ["rises"])
    assert rows == [1]


def test_a_cancelled_future_drops_its_rows_and_says_so(one_at_a_time, gate):
    opened, begun, rows = gate
    waiting = one_at_a_time.submit(QUERY, DOCUMENTS)
    assert begun.wait(60)
    assert waiting.cancel()
    opened.set()
    with pytest.raises(CancelledError):
        waiting.result()
    one_at_a_time.score(QUERY, DOCUMENTS[:1])
    assert len(rows) == 2


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_wait_drops_its_rows(one_at_a_time, gate):
    opened, begun, rows = gate

    def interrupt():
        assert begun.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        one_at_a_time.rerank(QUERY, DOCUMENTS)
    thread.join()
    opened.set()
    one_at_a_time.score(QUERY, DOCUMENTS[:1])
    assert len(rows) == 2


def test_an_interrupt_at_any_line_of_a_call_leaves_the_engine_in_order(one_at_a_time):
    expected = one_at_a_time.logits(QUERY, ["the moon"]).tolist()
    engine = str(Path(sys.modules["resift"].__file__).parent)
    left = 0

    def interrupt(frame, event, _):
        nonlocal left
        if not frame.f_code.co_filename.startswith(engine):
            return None
        # A with statement is traced again on its way out, at a point where the interpreter looks for no signals.
        is_with = linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with ")
        if event == "line" and not is_with:
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return interrupt

    def ask_and_interrupt_at(line: int) -> bool:
        nonlocal left
        left = line
        sys.settrace(interrupt)
        try:
            one_at_a_time.rerank_many([QUERY, "bread"], [["the moon"], ["yeast", "the moon"]])
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        return False

    interrupted = 0
    while ask_and_interrupt_at(interrupted + 1):
        interrupted += 1
        assert one_at_a_time.logits(QUERY, ["the moon"]).tolist() == expected
    assert interrupted > 100
    assert len(one_at_a_time._workers._threads) == 1
    until(lambda: one_at_a_time._workers._idle == 1)
    assert one_at_a_time._workers._scheduler.waiting_rows == 0


def test_calls_that_wait_together_share_batches(one_at_a_time, gate):
    opened, begun, rows = gate
    first = one_at_a_time.submit("a", ["b"])
    assert begun.wait(60)
    others = [one_at_a_time.submit(QUERY, ["the moon"]) for _ in range(3)]
    opened.set()
    assert len({float(other.result().logits[0]) for other in others}) == 1
    first.result()
    assert rows == [1, 3]


def test_a_short_call_overtakes_a_long_one(one_at_a_time, gate, monkeypatch):
    opened, begun, _ = gate
    encodings = one_at_a_time.tokenizer.encode("bread", DOCUMENTS[:3])
    own = [encodings.row(number)[0].tolist() for number in range(3)]
    batches, held = [], Session.run
    monkeypatch.setattr(Session, "run", lambda self, batch: batches.append(batch["input_ids"].tolist()) or held(self, batch))
    long = one_at_a_time.submit(QUERY, [f"{text} {number}" for number in range(40) for text in DOCUMENTS])
    assert begun.wait(60)
    short = one_at_a_time.submit("bread", DOCUMENTS[:3])
    opened.set()
    short.result(60)
    assert len(long.result(300).logits) == 800
    places = [place for place, batch in enumerate(batches) if any(row in own for row in batch)]
    assert places == list(range(1, 1 + len(places)))  # behind the batch that ran, ahead of all others
    assert len(places) <= 3 < len(batches)


def test_a_failed_batch_fails_the_call_it_belongs_to_alone(one_at_a_time, monkeypatch, gate):
    opened, begun, _ = gate
    bad = one_at_a_time.tokenizer.encode(QUERY, [BAD]).ids.tolist()
    held = Session.run

    def failing(self, batch):
        if bad in batch["input_ids"].tolist():
            raise InferenceError("not this one")
        return held(self, batch)

    monkeypatch.setattr(Session, "run", failing)
    first = one_at_a_time.submit("a", ["b"])
    assert begun.wait(60)
    fails, works = one_at_a_time.submit(QUERY, [BAD]), one_at_a_time.submit(QUERY, [BAD[::-1], BAD.replace("one", "two")])
    opened.set()
    with pytest.raises(InferenceError, match="not this one"):
        fails.result()
    assert len(works.result().logits) == 2
    first.result()


def test_logits_that_are_not_finite_fail_their_call_alone_and_name_the_callers_place(one_at_a_time, monkeypatch):
    bad = one_at_a_time.tokenizer.encode(QUERY, [BAD]).ids.tolist()
    run = Session.run

    def spoiling(self, batch):
        logits = run(self, batch)
        logits[[row == bad for row in batch["input_ids"].tolist()]] = np.nan
        return logits

    monkeypatch.setattr(Session, "run", spoiling)
    with pytest.raises(LogitsError, match="for document 4;"):
        one_at_a_time.rerank(QUERY, [*DOCUMENTS[:2], DOCUMENTS[0], DOCUMENTS[5], BAD])
    assert len(one_at_a_time.rerank(QUERY, DOCUMENTS)) == len(DOCUMENTS)


def test_closing_ends_the_calls_that_wait(artifact, gate):
    _opened, begun, _ = gate
    loaded = Reranker.load(artifact, settings=Settings(threads=1))
    waiting = loaded.submit(QUERY, DOCUMENTS)
    assert begun.wait(60)
    loaded.close()
    with pytest.raises(ClosedError, match="closed before the call finished"):
        waiting.result(60)
    with pytest.raises(ClosedError):
        loaded.submit(QUERY, DOCUMENTS)
    with pytest.raises(ClosedError):
        asyncio.run(loaded.ascore(QUERY, DOCUMENTS))
    loaded.close()


def test_a_forgotten_reranker_leaves_no_threads_and_no_graph(artifact):
    loaded = Reranker.load(artifact, settings=Settings(threads=2))
    loaded.score(QUERY, DOCUMENTS)
    threads = [thread for thread in loaded._workers._threads if thread.is_alive()]
    assert threads
    gone = weakref.ref(loaded)
    del loaded
    gc.collect()
    assert gone() is None
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_a_forgotten_reranker_still_answers_what_was_submitted(artifact):
    assert len(Reranker.load(artifact).submit(QUERY, DOCUMENTS).result(60).logits) == len(DOCUMENTS)


def test_eight_threads_get_what_one_gets(reranker):
    jobs = [(f"{QUERY} {number}", DOCUMENTS[number % 5 :]) for number in range(60)]
    expected = [reranker.logits(*job).tolist() for job in jobs]
    with ThreadPoolExecutor(8) as callers:
        assert [logits.tolist() for logits in callers.map(lambda job: reranker.logits(*job), jobs)] == expected


def test_a_worker_that_waits_is_woken_for_the_rows_of_a_next_step():
    both = threading.Barrier(2)

    def run(batch):
        ids = batch.stack()["input_ids"]
        row = ids[0, 0]
        if batch.graph == "full":
            both.wait(60)  # the rows of the last step run side by side
        elif row == 1:
            until(lambda: len(core._changed._waiters) == 1)  # the first step ends while the other worker waits
        return ids[:, :1].astype(np.float32)

    core = Workers(lambda: Scheduler(100), run, 2)
    first = steady_calls.call(5, graph="first-look")
    core.add(first)
    first.future.result(60)
    until(lambda: len(core._changed._waiters) == 2)
    one = steady_calls.call(5, 5, keep=2)
    core.add(one)
    try:
        assert one.future.result(120).logits["full"].tolist() == [[0], [1]]
    finally:
        core.close()
        core.join()


def test_a_thread_too_many_ends_and_the_others_go_on():
    """Calls that come at once may start more threads than there may be."""
    core = Workers(lambda: Scheduler(100), lambda batch: batch.stack()["input_ids"][:, :1].astype(np.float32), 2)
    for work, deadline in ((core._work, None), (core._expire, time.monotonic() + 1000)):
        one = steady_calls.call(5, deadline=deadline)
        core.add(one)
        one.future.result(60)
        until(lambda: len(core._threads) == 2)
        late = [threading.Thread(target=work, daemon=True) for _ in range(3)]
        for thread in late:
            thread.start()
        for thread in late:
            thread.join(60)
            assert not thread.is_alive()
    assert all(thread.is_alive() for thread in (*core._threads, core._watch))
    core.close()
    core.join()
