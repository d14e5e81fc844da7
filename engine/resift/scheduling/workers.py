"""Workers: threads that run the scheduler's batches."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from resift.errors import ClosedError, InputError, OutOfMemoryError, OverloadedError
from resift.process import close_at_exit, renew_in_children, start_thread
from resift.scheduling.halves import Phase

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from resift.scheduling.call import Batch, Call
    from resift.scheduling.scheduler import Scheduler

log = logging.getLogger(__name__)

LONGEST_WAIT = 3600.0
"""Seconds; a budget may be longer than what threading can wait for."""


class Queued(NamedTuple):
    """What waits to run: rows, one for each pair or window."""

    rows: int
    tokens: int
    seconds: float
    """predicted time until they have run"""
    dropped: int
    """rows so far that did not run because their call was cancelled or failed before"""
    halved: int
    """batches so far that were halved because memory was too short for them"""


class Workers:
    """Threads that take batches from a scheduler; any number of threads may add calls to it at once.

    A batch runs on one thread, and at most `count` batches run at once, however many callers there are. Threads that shared a
    batch would wait for each other at every operator, of which 12 layers have some 260; so a call of one pair uses one thread.

    The threads start with the first call and hold no reference to the Reranker. They are daemons stopped by an exit handler:
    calls from threads that outlive the main thread still finish, and a program that never calls `close` still exits. A forked
    child starts its own.

    One more thread ends calls at their deadlines, when the others may be busy. It starts with the first call that has one.

    An error in the scheduler's own code fails the calls, and the threads go on.

    No thread starts while the lock is held: to start one is to wait for it, and with gevent that lets other calls of the same
    thread run, which a lock made before `monkey.patch_all` does not keep out.

    Only these threads touch the scheduler. Callers put calls and cancellations into queues, one atomic step each, because
    KeyboardInterrupt can strike the main thread anywhere.
    """

    def __init__(self, scheduler: Callable[[], Scheduler], run: Callable[[Batch], Any], count: int) -> None:
        """`scheduler` makes an empty Scheduler; `run` does what a batch asks for, see `Runner`."""
        self._make_scheduler = scheduler
        self._run = run
        self.observe: Callable[[Batch, float], None] | None = None
        """called on a worker's thread with each batch that a graph ran and its seconds; what it raises is logged"""
        self._count = count
        self._closed = False
        self.begin_anew()
        renew_in_children(self)
        close_at_exit(self)

    def begin_anew(self) -> None:
        """Resets to no calls and no threads: at the start, and in a forked child, which has none of the parent's threads."""
        # Reentrant, because the garbage collector may close a forgotten Reranker in any thread at any point. Entered directly,
        # because an interrupt within Condition.__enter__, which is Python code, would leave it locked (bpo-29988).
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._new_deadline = threading.Condition(self._lock)
        self._new: deque[tuple[Call, float]] = deque()
        self._cancelled: deque[Future[Any]] = deque()
        self._calls: dict[Future[Any], Call] = {}
        self._scheduler = self._make_scheduler()
        self._threads: list[threading.Thread] = []
        self._watch: threading.Thread | None = None
        self._idle = 0

    def add(self, call: Call) -> None:
        """Hands a call to the scheduler; cancelling its future drops the rows that have not started. Without rows it ends at once.

        Raises ClosedError after `close`, and InputError for a call that was added before. The future raises OverloadedError if the
        scheduler does.
        """
        has_rows = bool(call.pending_rows)
        if has_rows and not self._closed:
            self._start_threads(has_deadline=call.deadline is not None)
        with self._lock:
            if self._closed:
                raise ClosedError
            if call.is_submitted:
                raise InputError("this call was submitted before; expected one that was not: encode its texts again")
            call.is_submitted = True
            if has_rows:
                call.future.add_done_callback(self._drop)
                self._new.append((call, time.monotonic()))
                self._changed.notify_all()
                if call.deadline is not None:
                    self._new_deadline.notify()
        if not has_rows:  # outside the lock, because callbacks of the future may wait
            call.resolve()

    @property
    def queued(self) -> Queued:
        """What waits now, as far as the scheduler has taken it in."""
        waiting = self._scheduler
        return Queued(
            waiting.waiting_rows,
            waiting.waiting_tokens,
            waiting.waiting_seconds / self._count,
            waiting.dropped_rows,
            waiting.halved_batches,
        )

    def close(self) -> None:
        """Fails every pending call with ClosedError. Running batches finish and their logits are dropped."""
        with self._lock:
            self._closed = True
            calls = [*self._calls.values(), *(call for call, _ in self._new)]
            self._calls.clear()
            self._new.clear()
            self._changed.notify_all()
            self._new_deadline.notify()
        for call in calls:
            call.error = ClosedError("this Reranker was closed before the call finished; load another")
            call.resolve()

    def join(self) -> None:
        """After `close`: waits until the threads have ended, which takes one batch at most."""
        for thread in (*self._threads, *([self._watch] if self._watch else [])):
            thread.join()

    def _start_threads(self, *, has_deadline: bool) -> None:
        """Starts the threads that do not run yet. Calls that come at once may start too many, of which the last ones end."""
        while (number := len(self._threads)) < self._count:
            start_thread(self._work, f"resift-{number}")
        if has_deadline and self._watch is None:
            start_thread(self._expire, "resift-deadlines")

    def _drop(self, future: Future[Any]) -> None:
        if future.cancelled():
            self._cancelled.append(future)

    def _work(self) -> None:
        with self._lock:
            if len(self._threads) == self._count:
                return
            self._threads.append(threading.current_thread())
        while self._guard(self._run_next):
            pass  # a call per batch: while it waits, a thread holds no reference to the last one

    def _run_next(self) -> bool:
        """Waits for a batch and runs it; False after `close`."""
        batch = self._next()
        if batch is None:
            return False
        failure = None
        try:
            results = self._run(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is passed on to the callers
            failure = error
        if failure is None:
            self._tell_observer(batch)
        with self._lock:
            now = time.monotonic()
            done = self._scheduler.failed(batch, failure) if failure is not None else self._scheduler.done(batch, results, now)
            # A batch that failed is tried in parts, and a step may have passed rows on.
            has_rows, token_budget = failure is not None or self._scheduler.waiting_rows, self._scheduler.token_budget
            ended = self._awaited(done)
            if has_rows:
                self._changed.notify_all()
        if isinstance(failure, OutOfMemoryError) and len(batch.rows) > 1:
            log.warning("batches have at most %d tokens from now on: %s", token_budget, failure)
        self._resolve(ended)
        return True

    def _next(self) -> Batch | None:
        """Waits for the next batch; None after `close`."""
        while True:
            with self._lock:
                if self._closed:
                    return None
                ended = self._take_in()
                batch = self._scheduler.next(time.monotonic(), self._idle + 1)
                if self._watch is not None:
                    ended += self._scheduler.expire(time.monotonic())
                ended = self._awaited(ended)
                if batch is None and not ended:
                    self._idle += 1
                    try:
                        self._changed.wait()
                    finally:
                        self._idle -= 1
            self._resolve(ended)
            if batch is not None:
                return batch

    def _expire(self) -> None:
        with self._lock:
            if self._watch is not None:
                return
            self._watch = threading.current_thread()
        while self._guard(self._expire_next):
            pass  # a call per deadline: while it waits, the thread holds no reference to the last one

    def _expire_next(self) -> bool:
        """Waits for the next deadline and ends the calls that have reached it; False after `close`."""
        with self._lock:
            if self._closed:
                return False
            ended = self._awaited(self._take_in() + self._scheduler.expire(time.monotonic()))
            if not ended:
                deadline = self._scheduler.deadline
                self._new_deadline.wait(None if deadline is None else min(max(0.0, deadline - time.monotonic()), LONGEST_WAIT))
        self._resolve(ended)
        return True

    def _take_in(self) -> list[Call]:
        """Passes new calls and cancellations on to the scheduler, and returns the calls that it refuses."""
        refused = []
        while self._new:
            call, submitted = self._new.popleft()
            self._calls[call.future] = call
            try:
                self._scheduler.add(call, submitted)
            except OverloadedError as error:
                call.error = error
                refused.append(call)
            except Exception as error:  # noqa: BLE001 - passed on to the caller
                call.error = error
                refused.append(call)
                self._scheduler.cancel(call)
        while self._cancelled:
            cancelled = self._calls.pop(self._cancelled.popleft(), None)
            if cancelled is not None:
                self._scheduler.cancel(cancelled)
        return refused

    def _awaited(self, ended: list[Call]) -> list[Call]:
        """Those of the calls that have ended whose futures were not cancelled; they are forgotten here."""
        return [call for call in ended if self._calls.pop(call.future, None)]

    def _resolve(self, ended: list[Call]) -> None:
        """Sets the results of calls, outside the lock, because callbacks of their futures may wait."""
        for call in ended:
            try:
                call.resolve()
            except Exception as error:  # noqa: BLE001 - passed on to the caller
                if not call.future.done():
                    call.future.set_exception(error)

    def _guard(self, step: Callable[[], bool]) -> bool:
        """Runs a thread's step. An unexpected error, which is a fault of resift, fails all calls; the thread goes on.

        The error may have left the queues half changed: a new scheduler takes the place of the old one.
        """
        try:
            return step()
        except Exception as error:  # noqa: BLE001 - passed on to the callers
            with self._lock:
                calls = self._awaited(list(self._calls.values()))
                for call in calls:
                    call.ended, call.error = True, call.error or error
                dropped = self._scheduler.dropped_rows + self._scheduler.waiting_rows
                self._scheduler = self._make_scheduler()
                self._scheduler.dropped_rows = dropped
            self._resolve(calls)
            return True

    def _tell_observer(self, batch: Batch) -> None:
        if self.observe is not None and batch.phase is not Phase.LOOKUP:
            try:
                self.observe(batch, time.monotonic() - batch.started_at)
            except Exception:
                log.exception("the observer of batches failed")
