"""The engine with its threads: waiting, cancelling, failing, forking, ending."""

from __future__ import annotations

import asyncio
import gc
import json
import linecache
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import tiny
from resift import ClosedError, InferenceError, LogitsError, Reranker, Settings
from resift.session import Session

QUERY, DOCUMENTS = "how do tides work", tiny.texts()[1:40:2]
BAD = "the one document that fails"
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
may_fork = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def gate(monkeypatch):
    """Holds every batch until it is opened; (opened, begun, rows of each batch that began)."""
    opened, begun, rows, run = threading.Event(), threading.Event(), [], Session.run

    def held(self, batch):
        rows.append(len(batch["input_ids"]))
        begun.set()
        assert opened.wait(60)
        return run(self, batch)

    monkeypatch.setattr(Session, "run", held)
    yield opened, begun, rows
    opened.set()


@pytest.fixture
def one_at_a_time(artifact):
    with Reranker.load(artifact, settings=Settings(threads=1)) as loaded:
        yield loaded


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
    assert reranker.rank(DOCUMENTS, scored, top_k=3) == reranker.rerank(QUERY, DOCUMENTS, top_k=3)


def test_asyncio_gets_the_answers_of_the_plain_calls(reranker):
    async def ask():
        return await asyncio.gather(
            reranker.arerank(QUERY, DOCUMENTS, top_k=2),
            reranker.arerank_many([QUERY, "bread"], [DOCUMENTS[:3], DOCUMENTS[3:5]]),
            reranker.ascore(QUERY, DOCUMENTS),
            reranker.ascore_pairs([(QUERY, DOCUMENTS[0])]),
            reranker.arerank(QUERY, []),
        )

    ranking, rankings, scores, pair, nothing = asyncio.run(ask())
    assert ranking == reranker.rerank(QUERY, DOCUMENTS, top_k=2)
    assert rankings == reranker.rerank_many([QUERY, "bread"], [DOCUMENTS[:3], DOCUMENTS[3:5]])
    assert scores.tolist() == reranker.score(QUERY, DOCUMENTS).tolist()
    assert pair.tolist() == scores[:1].tolist()
    assert len(nothing) == 0


def test_errors_reach_the_one_who_waits(reranker):
    with pytest.raises(TypeError, match=r"documents\[0\]"):
        asyncio.run(reranker.arerank(QUERY, [None]))


def test_the_loop_is_free_while_a_batch_runs(reranker, gate):
    opened, begun, _ = gate

    async def ask():
        waiting = asyncio.create_task(reranker.arerank(QUERY, DOCUMENTS))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        assert not waiting.done()  # the loop got here although a batch is held
        opened.set()
        return await waiting

    assert len(asyncio.run(ask())) == len(DOCUMENTS)


def test_waiting_calls_leave_the_loops_own_executor_alone(reranker, gate):
    opened, begun, _ = gate

    async def ask():
        waiting = [asyncio.create_task(reranker.arerank(f"{QUERY} {number}", DOCUMENTS[:2])) for number in range(200)]
        while not begun.is_set():
            await asyncio.sleep(0.001)
        # A name look-up runs in the default executor; it returns although no batch can.
        await asyncio.wait_for(asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80), 30)
        opened.set()
        return await asyncio.gather(*waiting)

    assert len(asyncio.run(ask())) == 200


def test_a_cancelled_wait_ends_at_once_and_drops_the_rows_that_have_not_begun(one_at_a_time, gate):
    opened, begun, rows = gate

    async def ask():
        waiting = asyncio.create_task(one_at_a_time.arerank(QUERY, DOCUMENTS))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting  # ends while the batch is still held
        opened.set()

    asyncio.run(ask())
    assert len(one_at_a_time.rerank("bread", DOCUMENTS[:1])) == 1
    assert rows == [rows[0], 1]


def test_a_cancelled_wait_stops_tokenization_between_two_parts(one_at_a_time, monkeypatch):
    tokenizer, yielded, go_on = one_at_a_time._tokenizer, threading.Event(), threading.Event()
    parts, counted = type(tokenizer).parts, []

    def slow(self, query, documents):
        for document in documents:
            yield from parts(self, query, [document])
            counted.append(document)
            yielded.set()
            assert go_on.wait(60)

    monkeypatch.setattr(type(tokenizer), "parts", slow)

    async def ask():
        waiting = asyncio.create_task(one_at_a_time.arerank(QUERY, DOCUMENTS))
        while not yielded.is_set():
            await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go_on.set()
        return await one_at_a_time.ascore("bread", DOCUMENTS[:1])

    assert len(asyncio.run(ask())) == 1
    assert counted == [DOCUMENTS[0]] * 2  # one of the cancelled call and the whole of the next


def test_a_failure_to_submit_cancels_what_was_submitted_before_it(one_at_a_time, gate, monkeypatch):
    opened, begun, rows = gate
    first = one_at_a_time.submit("a", ["b"])
    assert begun.wait(60)
    inner, asked = Reranker._submit, []

    def failing(self, pairs):
        asked.append(pairs)
        if len(asked) == 3:
            raise MemoryError
        return inner(self, pairs)

    monkeypatch.setattr(Reranker, "_submit", failing)
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
    encodings = one_at_a_time._tokenizer.encode("bread", DOCUMENTS[:3])
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
    bad = one_at_a_time._tokenizer.encode(QUERY, [BAD]).ids.tolist()
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
    bad = one_at_a_time._tokenizer.encode(QUERY, [BAD]).ids.tolist()
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


def python(code: str, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_thread_that_outlives_the_main_one_gets_its_answers(artifact):
    code = """
import asyncio, sys, threading
from resift import Reranker
reranker = Reranker.load(sys.argv[1])
def work():
    threading.main_thread().join()
    for number in range(20):
        assert len(reranker.rerank(f"tides {number}", ["the moon", "bread"])) == 2
    assert len(asyncio.run(reranker.arerank("tides", ["the moon", "bread"]))) == 2
    print("done", flush=True)
threading.Thread(target=work).start()
"""
    done = python(code, artifact)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


def test_a_program_that_forgets_to_close_ends_in_good_order_while_batches_run(artifact):
    code = """
import sys
from resift import Reranker
reranker = Reranker.load(sys.argv[1])
reranker.score("tides", ["the moon"])
futures = [reranker.submit(f"tides {number}", ["the moon " * 30] * 9) for number in range(50)]
print("end", flush=True)
"""
    done = python(code, artifact)
    assert (done.stdout, done.stderr, done.returncode) == ("end\n", "", 0)


def in_child(work) -> object:
    """What `work` answers in a forked child, which is killed if it hangs."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        signal.alarm(60)
        os.write(writing, json.dumps(work()).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return json.loads(answer)


@posix
@may_fork
def test_a_child_forked_while_batches_run_answers_and_refuses_the_parents_futures(reranker, gate):
    opened, begun, _ = gate
    waiting = reranker.submit(QUERY, DOCUMENTS)
    assert begun.wait(60)

    def work():
        opened.set()
        try:
            waiting.result(50)
        except ClosedError as error:
            said = str(error)
        return [said, reranker.logits(QUERY, DOCUMENTS).tolist(), asyncio.run(reranker.ascore(QUERY, DOCUMENTS)).tolist()]

    said, logits, scores = in_child(work)
    assert "submitted before the process was forked" in said
    opened.set()
    assert waiting.result().logits.tolist() == logits
    assert scores == reranker.score(QUERY, DOCUMENTS).tolist()


@posix
@may_fork
def test_a_future_that_was_done_before_a_fork_is_readable_in_the_child(reranker):
    done = reranker.submit(QUERY, DOCUMENTS)
    expected = done.result().logits.tolist()
    assert in_child(done.result().logits.tolist) == expected
