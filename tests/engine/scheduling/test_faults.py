"""An unexpected error anywhere in the scheduling core: no call is lost, no thread ends, and the next calls are as before."""

from __future__ import annotations

import inspect
import threading
import time
from concurrent.futures import wait

import numpy as np
import pytest

from resift.errors import InferenceError
from resift.scheduling import buckets, costs, deadline, halves, outcome, overload, pace, queues, retries, scheduler, workers
from resift.scheduling import call as calls
from resift.scheduling.scheduler import Scheduler
from resift.scheduling.workers import Workers
from tests.support import steady_calls

GUARD = {"_guard", "_resolve", "_work", "_expire"}
"""The guard itself, and the loops around it."""
BAD_ROW = 3
CALLS = 12
"""The most calls of one function at which it is made to fail."""


class Fault(Exception):  # noqa: N818 - no error of the library
    """An error that nothing expects."""


def functions():
    """Class or module, name and attribute of every function of the core."""
    for module in (scheduler, buckets, queues, retries, deadline, pace, costs, overload, halves, outcome, calls, workers):
        owners = [module, *(kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__)]
        for owner in owners:
            for name, member in vars(owner).items():
                function = member.fget if isinstance(member, property) else member
                is_own = inspect.isfunction(function) and function.__module__ == module.__name__
                if is_own and not name.startswith("__") and name not in GUARD:
                    yield pytest.param(owner, name, id=f"{module.__name__.rpartition('.')[2]}-{name}")


def run(batch):
    if batch.phase is not None:
        return steady_calls.split_answers(batch)
    ids = batch.stack()["input_ids"]
    if batch.graph == "full" and ids.shape[1] == 7 and (ids[:, 0] == BAD_ROW).any():
        raise InferenceError("the row that fails")
    return ids[:, :1].astype(np.float32)


def every_kind():
    """Calls of every kind: short, in two steps, split, with windows, with deadlines, one that fails, one to be cancelled."""
    now = time.monotonic()
    return [
        steady_calls.call(5, 6, 7),
        steady_calls.call(9, 9, 8, 8, keep=2),
        steady_calls.call(4, 4, 4, 5, windows=(3, 1)),
        steady_calls.call(6, 6, keep=1, deadline=now + 1000),
        steady_calls.call(6, 8, 9, deadline=now + 0.02),
        steady_calls.split_call(1, 102, 1, keep=1),
        steady_calls.split_call(3, 104, deadline=now + 1000),
        steady_calls.call(7, 7, 7, 7, 7),
        steady_calls.call(9, 9, 9),
    ]


def submit(core, made):
    for each in made:
        each.outcome = outcome.scored_of
        try:
            core.add(each)
        except Fault:  # in the caller's own thread: it knows
            each.future.cancel()
    made[-1].future.cancel()


def counted(monkeypatch, owner, name, fails_at):
    """Replaces a function by itself, which raises at one of its calls; returns how often it was called."""
    member, count, lock = vars(owner)[name], [0], threading.Lock()
    function = member.fget if isinstance(member, property) else member

    def replaced(*arguments, **more):
        with lock:
            count[0] += 1
            number = count[0]
        if number == fails_at:
            raise Fault(f"{name}, call {number}")
        return function(*arguments, **more)

    monkeypatch.setattr(owner, name, property(replaced) if isinstance(member, property) else replaced)
    return count


@pytest.fixture
def core(monkeypatch):
    made = Workers(
        lambda: Scheduler(
            16, pace=pace.Pace({"full": 4, "first-look": 1}, {"first-look": steady_calls.SPLIT}), delay=1e9, workers=2
        ),
        run,
        2,
    )
    made.observe = lambda batch, seconds: None
    yield made
    monkeypatch.undo()
    made.close()
    made.join()


@pytest.mark.parametrize(("owner", "name"), [*functions()])
def test_a_fault_loses_no_call_and_no_thread(core, monkeypatch, owner, name):
    for number in range(1, CALLS + 1):
        with monkeypatch.context() as patch:
            count = counted(patch, owner, name, number)
            made = every_kind()
            submit(core, made)
            assert not wait([each.future for each in made if not each.future.cancelled()], timeout=60).not_done
        after = steady_calls.call(5, 6)
        core.add(after)
        assert after.future.result(120) is after
        assert all(thread.is_alive() for thread in (*core._threads, core._watch) if thread)
        assert (core._scheduler.waiting_rows, core._calls) == (0, {})
        if count[0] < number:
            break


def test_an_observer_that_fails_is_logged_and_costs_no_call(core, caplog):
    def fails(batch, seconds):
        raise Fault("the observer")

    core.observe = fails
    one = steady_calls.call(5, 6)
    core.add(one)
    assert one.future.result(60) is one
    assert "the observer of batches failed" in caplog.text


def test_a_deadline_thread_that_could_not_start_is_started_by_the_next_call(core, monkeypatch):
    start = threading.Thread.start

    def fails(thread):
        if thread.name == "resift-deadlines":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fails)
        with pytest.raises(InferenceError, match="no thread can be started: raise the limit of processes"):
            core.add(steady_calls.call(5, deadline=time.monotonic() + 1000))
    assert (core._watch, len(core._new)) == (None, 0)
    one = steady_calls.call(5, deadline=time.monotonic() + 1000)
    core.add(one)
    assert one.future.result(60) is one
    assert core._watch.is_alive()
