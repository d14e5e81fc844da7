"""Workers: threads that run what the scheduler says, and threads that tokenize for asyncio."""

from __future__ import annotations

import atexit
import os
import queue
import threading
import time
import weakref
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from resift.errors import ClosedError, OverloadedError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from resift.scheduler import Batch, Call, Scheduler

Result = TypeVar("Result")


CLOSED = "this Reranker is closed; load another"


class Answer(Future[Result]):
    """The Future of a call. In a process forked before it was done it raises ClosedError: nothing works on it there."""

    def __init__(self) -> None:
        super().__init__()
        self._process = os.getpid()

    def result(self, timeout: float | None = None) -> Result:
        """As Future.result; raises ClosedError in a forked child."""
        if self._process != os.getpid() and not self.done():
            raise ClosedError("this call was submitted before the process was forked; submit it again in the child")
        return super().result(timeout)


class Workers:
    """Threads that take batches from a scheduler; any number of threads may add calls to it at once.

    A batch runs on one thread and `count` batches run side by side, whoever asks for them: threads that share a batch wait for each
    other at every operator, of which 12 layers have some 260. So a call of one pair runs on one thread.

    The threads start with the first call and hold no reference to the Reranker. They are daemons that an exit handler stops: calls
    of threads that outlive the main one are answered, and a program that forgets `close` ends. After a fork the child begins anew.

    Only these threads touch the scheduler. Callers leave calls and cancellations in a queue, each by one atomic step, because
    KeyboardInterrupt can strike the main thread anywhere.
    """

    def __init__(self, scheduler: Callable[[], Scheduler], run: Callable[[Batch], NDArray[np.float32]], count: int) -> None:
        """`scheduler` makes an empty one, `run` answers logits float32[b, labels] for a batch."""
        self._make_scheduler = scheduler
        self._run = run
        self._count = count
        self._closed = False
        self.begin_anew()
        _live.add(self)

    def begin_anew(self) -> None:
        """Nothing waits, nothing runs: at the start, and in a forked child, which has none of the parent's threads."""
        # Reentrant, as the garbage collector may close a forgotten Reranker in any thread at any point; and entered by itself,
        # as an interrupt within Condition.__enter__, which is Python code, would leave it locked (bpo-29988).
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._new: deque[tuple[Call, float]] = deque()
        self._cancelled: deque[Future[Any]] = deque()
        self._calls: dict[Future[Any], Call] = {}
        self._scheduler = self._make_scheduler()
        self._threads: list[threading.Thread] = []
        self._idle = 0

    def check_open(self) -> None:
        """Raises ClosedError after `close`."""
        if self._closed:
            raise ClosedError(CLOSED)

    def add(self, call: Call) -> None:
        """Hands a call to the scheduler; cancelling its answer drops the rows that have not begun.

        Raises ClosedError after `close`. The answer raises OverloadedError where the scheduler does.
        """
        call.answer.add_done_callback(self._drop)
        with self._lock:
            self.check_open()
            self._new.append((call, time.monotonic()))
            while len(self._threads) < self._count:
                thread = threading.Thread(target=self._work, name=f"resift-{len(self._threads)}", daemon=True)
                thread.start()
                self._threads.append(thread)
            self._changed.notify_all()

    def close(self) -> None:
        """Ends every call that is not answered with ClosedError. Batches that run are finished and forgotten."""
        with self._lock:
            self._closed = True
            calls = [*self._calls.values(), *(call for call, _ in self._new)]
            self._calls.clear()
            self._new.clear()
            self._changed.notify_all()
        for call in calls:
            call.error = ClosedError("this Reranker was closed before it had answered; load another")
            _resolve(call)

    def join(self) -> None:
        """Waits until the threads of a closed set have ended, a batch at most."""
        for thread in self._threads:
            thread.join()

    def _drop(self, answer: Future[Any]) -> None:
        if answer.cancelled():
            self._cancelled.append(answer)

    def _work(self) -> None:
        while self._run_next():
            pass  # between two batches a thread refers to nothing of the last one

    def _run_next(self) -> bool:
        """Waits for a batch and runs it; False once the set is closed."""
        batch = self._next()
        if batch is None:
            return False
        failure = None
        try:
            logits = self._run(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers get it
            failure = error
        with self._lock:
            now = time.monotonic()
            ended = self._scheduler.done(batch, logits, now) if failure is None else self._scheduler.failed(batch, failure)
            ended = [call for call in ended if self._calls.pop(call.answer, None)]
            if failure is not None:
                self._changed.notify_all()  # what failed together is tried again apart
        for call in ended:
            _resolve(call)
        return True

    def _next(self) -> Batch | None:
        """Waits for the next batch; None once the set is closed."""
        while True:
            with self._lock:
                if self._closed:
                    return None
                refused = self._take_in()
                batch = self._scheduler.next(time.monotonic(), self._idle + 1)
                if batch is None and not refused:
                    self._idle += 1
                    try:
                        self._changed.wait()
                    finally:
                        self._idle -= 1
            for call in refused:
                _resolve(call)
            if batch is not None:
                return batch

    def _take_in(self) -> list[Call]:
        """Tells the scheduler what callers have done meanwhile, and returns the calls that it refuses."""
        refused = []
        while self._new:
            call, submitted = self._new.popleft()
            try:
                self._scheduler.add(call, submitted)
            except OverloadedError as error:
                call.error = error
                refused.append(call)
            else:
                self._calls[call.answer] = call
        while self._cancelled:
            gone = self._calls.pop(self._cancelled.popleft(), None)
            if gone is not None:
                self._scheduler.cancel(gone)
        return refused


def _resolve(call: Call) -> None:
    """Gives an ended call's outcome to whoever waits for it, if anybody does."""
    if not call.answer.set_running_or_notify_cancel():
        return
    if call.error is not None:
        call.answer.set_exception(call.error)
        return
    try:
        result = call.outcome(call)
    except Exception as error:  # noqa: BLE001 - it belongs to the caller
        call.answer.set_exception(error)
    else:
        call.answer.set_result(result)


class Background:
    """Runs functions on at most `count` daemon threads, which start as they are needed.

    A ThreadPoolExecutor would refuse work from threads that outlive the main one.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._closed = False
        self.begin_anew()
        _live.add(self)

    def begin_anew(self) -> None:
        """Without threads or work: at the start, and in a forked child."""
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def run(self, function: Callable[[], None]) -> None:
        """Runs `function`, which must not raise, as soon as a thread is free. Raises ClosedError after `close`."""
        with self._lock:
            if self._closed:
                raise ClosedError(CLOSED)
            self._work.put(function)
            if len(self._threads) < self._count:
                name = f"resift-encode-{len(self._threads)}"
                thread = threading.Thread(target=_run_all, args=(self._work,), name=name, daemon=True)
                thread.start()
                self._threads.append(thread)

    def close(self) -> None:
        """Lets the threads end once what was given to them is done."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in self._threads:
                    self._work.put(None)

    def join(self) -> None:
        """Waits until the threads have ended."""
        for thread in self._threads:
            thread.join()


def _run_all(work: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (function := work.get()) is not None:
        function()


_live: weakref.WeakSet[Workers | Background] = weakref.WeakSet()


def _begin_anew_after_fork() -> None:
    for each in list(_live):
        each.begin_anew()


def _stop_at_exit() -> None:
    """A daemon thread that is still in native code when the interpreter goes may take the process down with it."""
    living = list(_live)
    for each in living:
        each.close()
    for each in living:
        each.join()


atexit.register(_stop_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew_after_fork)
