"""Submission: the one way a call starts. Its texts are encoded, its graphs are loaded, its rows are queued."""

from __future__ import annotations

from concurrent.futures import CancelledError
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from resift.encoding.encodings import Encodings
from resift.errors import InputError
from resift.scheduling.background import Background
from resift.scheduling.call import Answer, Call
from resift.scheduling.deadline import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future

    from resift.artifact.plans import ResolvedPlan
    from resift.encoding.tokenizer import PairTokenizer
    from resift.inputs import Candidates
    from resift.ranking import Scored
    from resift.runtime.sessions import Sessions
    from resift.scheduling.workers import Workers


class Submission:
    """Encodes calls and hands them to the workers. Any number of threads may use it at once."""

    def __init__(  # noqa: PLR0913 - what a call goes through, in order
        self,
        tokenizer: PairTokenizer,
        sessions: Sessions,
        workers: Workers,
        outcome: Callable[[Call], Scored],
        *,
        windows: int,
        threads: int,
    ) -> None:
        """`outcome`: of a call that has ended. `windows`: most that a document is read in. `threads`: that encode for asyncio."""
        self._tokenizer = tokenizer
        self._sessions = sessions
        self._workers = workers
        self._outcome = outcome
        self._windows = windows
        self._background = Background(threads)

    def encode(
        self,
        pools: Iterable[Candidates],
        plan: ResolvedPlan,
        deadline: float | None = None,
        *,
        document_tokens: int | None = None,
        check: Callable[[], None] | None = None,
    ) -> Call:
        """A call of each query with its documents, one after the other. `check` may raise between two parts.

        `deadline`: by time.monotonic. `document_tokens`: tokens kept of a document; None: what the model takes. Raises
        ArtifactError if the tokenizer fails on a text, and like `Sessions.open`.
        """
        numbers: dict[tuple[str, str], int] = {}
        order: list[int] = []
        parts = []
        for query, documents in pools:
            known = len(numbers)
            new: list[str] = []
            for document in documents:
                number = numbers.setdefault((query, document), len(numbers))
                order.append(number)
                if number == known + len(new):
                    new.append(document)
            for part in self._tokenizer.parts(query, new, document_tokens=document_tokens, windows=self._windows):
                if check is not None:
                    check()
                parts.append(part)
        steps = plan.steps(len(numbers))
        for step in steps:
            self._sessions.open(step.graph)
        until = None if deadline is None else Deadline(deadline)
        return Call(Encodings.join(parts), np.array(order, np.int64), steps, self._outcome, until)

    async def aencode(
        self, pools: Iterable[Candidates], plan: ResolvedPlan, deadline: float | None = None, *, document_tokens: int | None = None
    ) -> Call:
        """`encode` on a background thread; cancelling it stops that."""
        import asyncio  # takes longer than the rest of resift to import

        encoded: Answer[Call] = Answer()
        encode = partial(self.encode, pools, plan, deadline, document_tokens=document_tokens, check=partial(_check, encoded))
        self._background.run(partial(_fulfil, encoded, encode))
        try:
            return await asyncio.wrap_future(encoded)
        finally:
            encoded.cancel()

    def submit(self, call: Call) -> Future[Scored]:
        """Queues the rows of a call, once; a call without any has ended. Raises like `Workers.add`."""
        try:
            self._workers.add(call)
        except InputError:  # it goes on as it was submitted before
            raise
        except BaseException:
            call.answer.cancel()
            raise
        return call.answer

    def wait(self, work: Iterable[Sequence[Candidates]], plan: ResolvedPlan, deadline: float | None = None) -> list[Scored]:
        """Encodes and submits a call of each of `work`, and waits for all; the failure of one, or an interruption, cancels all."""
        submitted = []
        try:
            for pools in work:
                call = self.encode(pools, plan, deadline)
                submitted.append(call.answer)
                self.submit(call)
            return [answer.result() for answer in submitted]
        finally:
            for answer in submitted:
                answer.cancel()

    async def await_all(
        self, work: Iterable[Sequence[Candidates]], plan: ResolvedPlan, deadline: float | None = None
    ) -> list[Scored]:
        """`wait` for asyncio."""
        import asyncio

        tasks = [asyncio.ensure_future(self._ascore(pools, plan, deadline)) for pools in work]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def close(self) -> None:
        """Fails all calls that have not ended, and frees the graphs."""
        self._workers.close()
        self._background.close()
        self._sessions.close()

    async def _ascore(self, pools: Sequence[Candidates], plan: ResolvedPlan, deadline: float | None) -> Scored:
        import asyncio

        answer = self.submit(await self.aencode(pools, plan, deadline))
        try:
            return await asyncio.wrap_future(answer)
        finally:
            answer.cancel()


def _check(encoded: Answer[Call]) -> None:
    if encoded.cancelled():
        raise CancelledError


def _fulfil(encoded: Answer[Call], encode: Callable[[], Call]) -> None:
    try:
        call = encode()
    except Exception as error:  # noqa: BLE001 - passed on to the waiting caller
        if encoded.set_running_or_notify_cancel():
            encoded.set_exception(error)
    else:
        if encoded.set_running_or_notify_cancel():
            encoded.set_result(call)
