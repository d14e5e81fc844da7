"""Submission: the one way a call starts. Its texts are encoded, its graphs are loaded, its rows are queued."""

from __future__ import annotations

from concurrent.futures import CancelledError
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from resift.artifact.resolved_plans import Step
from resift.encoding.encodings import Encodings
from resift.errors import InputError
from resift.scheduling.background import Background
from resift.scheduling.buckets import Buckets
from resift.scheduling.call import Call, CallFuture
from resift.scheduling.deadline import Deadline
from resift.scheduling.outcome import scored_of
from resift.scheduling.pace import Pace
from resift.scheduling.runner import Runner
from resift.scheduling.scheduler import Scheduler
from resift.scheduling.split_graphs import SplitGraphs
from resift.scheduling.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from resift.artifact.manifest import Manifest
    from resift.artifact.resolved_plans import ResolvedPlan
    from resift.encoding.tokenizer import PairTokenizer
    from resift.inputs import Candidates
    from resift.ranking import Scored
    from resift.runtime.sessions import Sessions
    from resift.settings import ResolvedSettings


class Submission:
    """Encodes calls and hands them to the workers. Any number of threads may use it at once."""

    def __init__(self, manifest: Manifest, tokenizer: PairTokenizer, sessions: Sessions, settings: ResolvedSettings) -> None:
        """Makes the workers that run the graphs of an artifact with that manifest."""
        policy, full = sessions.policy, manifest.full
        count = policy.workers(settings.threads)
        delay = None if settings.waiting_seconds is None else count * settings.waiting_seconds
        self.split_graphs = SplitGraphs(manifest.graphs, sessions, settings)
        operations = {**{graph.name: graph.operations for graph in manifest.graphs}, **self.split_graphs.operations()}
        buckets = Buckets(
            {graph.name: graph.frozen for graph in manifest.graphs if graph.frozen is not None},
            is_masked=sessions.is_masked,
            step=policy.step,
            fill=policy.fill,
            max_length=manifest.pair.max_length,
        )

        def scheduler() -> Scheduler:
            return Scheduler(
                settings.token_budget,
                buckets=buckets,
                limit=settings.waiting_tokens,
                delay=delay,
                pace=Pace(operations, self.split_graphs.splits),
                workers=count,
            )

        self.workers = Workers(scheduler, Runner(sessions, self.split_graphs.states), count)
        self._tokenizer = tokenizer
        self._sessions = sessions
        self._outcome = partial(
            scored_of, full=full.name, scale=settings.scores, windowed=settings.windows > 1, calibration=settings.calibration
        )
        self._windows = settings.windows
        self._full = (Step(full.name, full.relevance),)
        self._background = Background(settings.threads)

    def encode(
        self,
        pools: Iterable[Candidates],
        plan: ResolvedPlan,
        deadline: float | None = None,
        *,
        document_tokens: int | None = None,
        check: Callable[[], None] | None = None,
    ) -> Call:
        """A call for the documents of all `pools`, each pool's with its query. `check` may raise between two parts.

        `deadline`: by time.monotonic. `document_tokens`: most tokens of a document; None: what the model takes. Raises
        ArtifactError if the tokenizer fails on a text, and like `Sessions.open`. If the plan has a split graph whose slot is too
        short for a query, the full graph alone scores the call.
        """
        numbers: dict[tuple[str, str], int] = {}  # of the distinct pairs
        order: list[int] = []
        parts = []
        encode = partial(self._tokenizer.parts, document_tokens=document_tokens, windows=self._windows)
        for query, documents, _, instruction in pools:
            start = len(numbers)
            new: list[str] = []
            for document in documents:
                number = numbers.setdefault((query, document), len(numbers))
                order.append(number)
                if number == start + len(new):
                    new.append(document)
            for part in encode(query, new, prompt=instruction):
                if check is not None:
                    check()
                parts.append(part)
        encodings, steps = Encodings.join(parts), plan.steps(len(numbers))
        split_documents = self.split_graphs.documents(steps, encodings)
        if split_documents is None:
            steps = self._full
        for step in steps:
            self._sessions.open(step.graph)
        return Call(
            encodings,
            np.array(order, np.int64),
            steps,
            self._outcome,
            None if deadline is None else Deadline(deadline),
            split_documents or {},
        )

    async def aencode(
        self, pools: Iterable[Candidates], plan: ResolvedPlan, deadline: float | None = None, *, document_tokens: int | None = None
    ) -> Call:
        """`encode` on a background thread; cancelling it stops that."""
        import asyncio  # takes longer than the rest of resift to import

        encoded: CallFuture[Call] = CallFuture()
        encode = partial(self.encode, pools, plan, deadline, document_tokens=document_tokens, check=partial(_check, encoded))
        self._background.run(partial(_fulfil, encoded, encode))
        try:
            return await asyncio.wrap_future(encoded)
        finally:
            encoded.cancel()

    def submit(self, call: Call) -> Future[Scored]:
        """Queues the rows of a call; a call without rows ends at once. Raises like `Workers.add`."""
        try:
            self.workers.add(call)
        except InputError:  # it was submitted before, and goes on
            raise
        except BaseException:
            call.future.cancel()
            raise
        return call.future

    def wait(self, work: Iterable[Sequence[Candidates]], plan: ResolvedPlan, deadline: float | None = None) -> list[Scored]:
        """Encodes and submits a call of each of `work`, and waits for all; the failure of one, or an interruption, cancels all."""
        submitted = []
        try:
            for pools in work:
                call = self.encode(pools, plan, deadline)
                submitted.append(call.future)
                self.submit(call)
            return [future.result() for future in submitted]
        finally:
            for future in submitted:
                future.cancel()

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

    def prepare(self, texts: Sequence[str]) -> list[tuple[bytes, NDArray[np.uint8]]]:
        """The digest and the states of each document; see `SplitGraphs.states_call`. Raises like `Workers.add`."""
        call = self.split_graphs.states_call(self._encode_documents(texts))
        try:
            self.submit(call)
            states: list[tuple[bytes, NDArray[np.uint8]]] = call.future.result()
        finally:
            call.future.cancel()
        return states

    def document_digests(self, texts: Sequence[str]) -> list[bytes]:
        """The digest of each document, as `prepare` gives it. Raises like `SplitGraphs.first_documents`."""
        return self.split_graphs.first_documents(self._encode_documents(texts))[1].digests

    def _encode_documents(self, texts: Sequence[str]) -> Encodings:
        """Each of the documents, its first window alone, next to an empty query."""
        return Encodings.join(list(self._tokenizer.parts("", texts, prompt="")))

    def close(self) -> None:
        """Fails all calls that have not ended, and frees the graphs."""
        self.workers.close()
        self._background.close()
        self._sessions.close()
        self.split_graphs.close()

    async def _ascore(self, pools: Sequence[Candidates], plan: ResolvedPlan, deadline: float | None) -> Scored:
        import asyncio

        future = self.submit(await self.aencode(pools, plan, deadline))
        try:
            return await asyncio.wrap_future(future)
        finally:
            future.cancel()


def _check(encoded: CallFuture[Call]) -> None:
    if encoded.cancelled():
        raise CancelledError


def _fulfil(encoded: CallFuture[Call], encode: Callable[[], Call]) -> None:
    try:
        call = encode()
    except Exception as error:  # noqa: BLE001 - passed on to the waiting caller
        if encoded.set_running_or_notify_cancel():
            encoded.set_exception(error)
    else:
        if encoded.set_running_or_notify_cancel():
            encoded.set_result(call)
