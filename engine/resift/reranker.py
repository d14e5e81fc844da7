"""Reranker: the line from a query and its documents to a Ranking."""

from __future__ import annotations

import weakref
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from resift import machine
from resift.artifact import folder as artifacts
from resift.artifact.manifest import TOKENIZER
from resift.artifact.steps import ResolvedPlan, Terms, resolve_plan
from resift.encoding.tokenizer import PairTokenizer
from resift.errors import ArtifactError, InputError
from resift.inputs import check_count, deadline_after, pool_pairs, read_pairs, read_pools
from resift.plans import BUILT_IN, Plan, as_plan
from resift.ranking import Ranking, Scored
from resift.runtime import providers
from resift.runtime.sessions import Sessions
from resift.scheduling.background import Background
from resift.scheduling.call import Call
from resift.scheduling.encoded import Encoded
from resift.scheduling.outcome import scored_of
from resift.scheduling.pace import Pace
from resift.scheduling.scheduler import Scheduler
from resift.scheduling.workers import Answer, Queued, Workers
from resift.scoring import activate
from resift.settings import Settings, resolve

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from numpy.typing import NDArray

    from resift.artifact.folder import Artifact
    from resift.artifact.manifest import Variant
    from resift.inputs import Pair
    from resift.scheduling.call import Batch
    from resift.settings import Auto, Provider

Result = TypeVar("Result")


class Reranker:
    """Scores and ranks documents for queries with one artifact.

        with Reranker.load() as reranker:
            ranking = reranker.rerank("how do tides work", ["The moon's gravity ...", "Bread rises ..."], top_k=1)
        ranking[0].index, ranking[0].score

    One Reranker serves any number of threads at once. It pickles as its source and settings, and a forked child reopens the
    graph at its first call. A pair's logit does not depend on the pairs scored with it.

    Documents are read once, by position: a list, a tuple, an array or a pandas Series of str; results give positions in it.
    """

    def __init__(self, artifact: Artifact, *, settings: Settings | None = None) -> None:
        """Use `load`, which finds and opens the artifact first."""
        manifest = artifact.manifest
        self.artifact = artifact
        self.settings = settings or Settings()
        """what was asked for"""
        self.graph = manifest.full
        sessions = Sessions(artifact, self.settings)
        self.provider, policy = sessions.provider, sessions.policy
        self.variant = sessions.variant(self.graph.name)
        self.precision = self.variant.precision
        self.resolved = resolve(
            self.settings, cores=machine.usable_cores(), token_budget=policy.token_budget, max_length=manifest.pair.max_length
        )
        """what this process runs with"""
        self._tokenizer = self.pair_tokenizer()
        self._check_tokenizer()
        providers.check_version(manifest.onnxruntime[0])
        sessions.open(self.graph.name)
        self._sessions = sessions
        self._full = resolve_plan(BUILT_IN["full"], manifest.graphs)
        self._own = artifact.plan()
        self._check_plan()
        workers = policy.workers(self.resolved.threads)
        self._workers = Workers(
            partial(
                _scheduler,
                {graph.name: graph.operations for graph in manifest.graphs},
                self.resolved.token_budget,
                bucket=policy.bucket,
                limit=None if self.settings.waiting_tokens == "auto" else self.settings.waiting_tokens,
                delay=None if self.settings.waiting_seconds == "auto" else workers * self.settings.waiting_seconds,
                workers=workers,
            ),
            partial(_run, sessions),
            workers,
        )
        self._encoders = Background(self.resolved.threads)
        self._close = weakref.finalize(self, _close, self._workers, self._encoders, sessions)
        self._close.atexit = False

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str] | None = None,
        *,
        provider: Provider | Auto | None = None,
        plan: Plan | str | None = None,
        settings: Settings | None = None,
    ) -> Self:
        """Opens, checks and loads an artifact.

        `source`: None for the embedded default model, the name of an embedded model, a folder that `resift export` wrote, or a
        hub id, org/name or org/name@revision, which is downloaded once.
        `provider`, `plan`: short for Settings(provider=..., plan=...). Raises ArtifactError, ProviderError or InputError.
        """
        given = settings or Settings()
        asked = replace(given, provider=given.provider if provider is None else provider, plan=given.plan if plan is None else plan)
        for name in ("provider", "plan"):
            this, other = getattr(asked, name), getattr(given, name)
            if other not in ("auto", this):
                raise InputError(f"{name} is {this!r} but Settings.{name} is {other!r}; give only one of them")
        return cls(artifacts.Artifact.find(source), settings=asked)

    def plan_for(self, plan: Plan | str | None = None, *, top_k: int | None = None) -> ResolvedPlan:
        """What a call follows that is given `plan` and `top_k`; as text (`str`), it names the artifact's graphs.

        `plan`: a Plan, a built-in name, stages such as "first-look:15,full", "auto", or None for that of the Settings. With "auto"
        it is the artifact's own plan if the call asks for the best `top_k` alone, of which every one is then read in full, and
        otherwise the full graph alone. Raises TypeError for another type, and InputError for a plan that this artifact has no
        graphs for.
        """
        asked = self.settings.plan if plan is None else plan
        if asked != "auto":
            return resolve_plan(as_plan(asked, "plan"), self.artifact.manifest.graphs)
        return self._full if self._own is None or top_k is None else replace(self._own, least=top_k)

    def variant_of(self, graph: str) -> Variant:
        """The variant of the artifact's graph of that name that runs here. Raises ProviderError if none can."""
        return self._sessions.variant(graph)

    def submit(
        self,
        query: str,
        documents: Sequence[str],
        *,
        plan: Plan | str | None = None,
        top_k: int | None = None,
        budget_ms: float | None = None,
    ) -> Future[Scored]:
        """Tokenizes in the calling thread, queues the pairs and returns a Future of columns in the caller's order.

        All other methods submit and wait. Pending calls share batches, and shorter calls overtake longer ones. Cancelling the
        Future drops the pairs that have not started. Its callbacks run on a worker: they must not wait for this Reranker.
        `plan`: as for `plan_for`; `top_k`: results that will be looked at (None: all), which lets the artifact's own plan serve the
        call. A graph of another plan than the usual one is loaded at its first use.

        `budget_ms`: milliseconds from now after which the Future is done with what was read by then, of each pair `Scored.read`
        says by which graphs. Pairs are read in the caller's order, best first, then in that of the plan's last stage. With the plan
        "auto" no pair is left out while there is time, and stages that put them in order run only if there seems to be too little
        for all; before any batch has run, only much time seems enough. All texts are tokenized, however long that takes.

        Raises TypeError for anything but strings, InputError for a plan, a `top_k` or a `budget_ms` that cannot be used and
        ClosedError after `close`; the Future raises InferenceError, LogitsError, or ClosedError if `close` came first.
        """
        terms = self._terms(plan, top_k, budget_ms)
        return self._submit(pool_pairs(query, documents), terms)

    async def aencode(  # noqa: PLR0913 - what `submit` takes
        self,
        query: str,
        documents: Sequence[str],
        *,
        document_tokens: int | None = None,
        plan: Plan | str | None = None,
        top_k: int | None = None,
        budget_ms: float | None = None,
    ) -> Encoded:
        """The first half of `submit`, for asyncio: tokenizes on a background thread; cancelling it stops that.

        `document_tokens` cuts each document to so many tokens; None: to what the model takes. What it returns is for
        `submit_encoded`, and can be looked at before. `plan`, `top_k`, `budget_ms`: as for `submit`; the time counts from this
        call. Raises TypeError for anything but strings, InputError for a `document_tokens` or any of these that cannot be used, and
        ClosedError after `close`.
        """
        check_count("document_tokens", document_tokens)
        encode = partial(self._encode, terms=self._terms(plan, top_k, budget_ms), document_tokens=document_tokens)
        encoded: Encoded = (await self._aside([pool_pairs(query, documents)], encode))[0]
        return encoded

    def submit_encoded(self, encoded: Encoded) -> Future[Scored]:
        """The second half of `submit`: queues pairs that `aencode` of this Reranker encoded. Raises like `submit`."""
        answer: Answer[Scored] = Answer()
        self._queue(answer, encoded)
        return answer

    @property
    def queued(self) -> Queued:
        """The rows and tokens that wait to run, and the rows dropped so far. A snapshot; any thread may ask."""
        return self._workers.queued

    def observe(self, observer: Callable[[Batch, float], None]) -> None:
        """Calls `observer` with each batch that ran and its seconds, on a worker's thread; it must neither raise nor wait."""
        self._workers.observe = observer

    def logits(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """Logits float32[n] of `documents` for `query` by the full graph, in the caller's order. Raises like `submit`."""
        return self._read_in_full(pool_pairs(query, documents)).logits

    def score(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """Scores float32[n] of `documents` for `query`, in the caller's order, by the full graph. Raises like `submit`."""
        return self.scores(self._read_in_full(pool_pairs(query, documents)))

    def score_pairs(self, pairs: Iterable[tuple[str, str]]) -> NDArray[np.float32]:
        """Scores float32[n] of (query, document) pairs, in the caller's order. Raises TypeError for anything but pairs of str."""
        return self.scores(self._read_in_full(read_pairs(pairs)))

    def rank(self, documents: Sequence[str], scored: Scored, *, top_k: int | None = None) -> Ranking:
        """The Ranking of `documents` by what `submit` returned for them, best first, cut to the best `top_k` (None: all)."""
        check_count("top_k", top_k)
        return Ranking.from_logits(
            documents,
            scored.logits,
            self.scores(scored),
            scored.tokens_cut,
            at_least=scored.tokens_cut_at_least,
            query_tokens_cut=scored.query_tokens_cut,
            top_k=top_k,
            graphs=scored.graphs,
            read=scored.read,
            windows=scored.windows,
            window=scored.window,
        )

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_k: int | None = None,
        plan: Plan | str | None = None,
        budget_ms: float | None = None,
    ) -> Ranking:
        """Ranks `documents` for `query`, best first, and keeps the best `top_k` (None: all).

        `plan`: how the pool is worked through, as for `plan_for`; None: that of the Settings. `budget_ms`: milliseconds after which
        it returns with what was read by then, as for `submit`; documents that the full graph did not read have no score and follow
        in the order of the stage before, and those that no graph read in the order given. Raises InputError for a `top_k` below 1,
        a plan that this artifact has no graphs for or a `budget_ms` out of range, and otherwise like `submit`.
        """
        terms = self._terms(plan, top_k, budget_ms)
        pairs = pool_pairs(query, documents)
        return self.rank(_documents(pairs), _wait([self._submit(pairs, terms)])[0], top_k=top_k)

    def rerank_many(
        self,
        queries: Sequence[str],
        pools: Sequence[Sequence[str]],
        *,
        top_k: int | None = None,
        plan: Plan | str | None = None,
        budget_ms: float | None = None,
    ) -> list[Ranking]:
        """One Ranking for each query and its pool, all pairs batched together. `budget_ms` is for all of them together.

        Raises like `rerank`.
        """
        terms = self._terms(plan, top_k, budget_ms)
        work = read_pools(queries, pools)
        scored = _wait(self._submit(pairs, terms) for pairs in work)
        return [self.rank(_documents(pairs), each, top_k=top_k) for pairs, each in zip(work, scored, strict=True)]

    async def arerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_k: int | None = None,
        plan: Plan | str | None = None,
        budget_ms: float | None = None,
    ) -> Ranking:
        """`rerank` for asyncio, without blocking the event loop; cancelling it drops the pairs that have not started."""
        terms = self._terms(plan, top_k, budget_ms)
        pairs = pool_pairs(query, documents)
        scored = await self._awaited([pairs], terms)
        return self.rank(_documents(pairs), scored[0], top_k=top_k)

    async def arerank_many(
        self,
        queries: Sequence[str],
        pools: Sequence[Sequence[str]],
        *,
        top_k: int | None = None,
        plan: Plan | str | None = None,
        budget_ms: float | None = None,
    ) -> list[Ranking]:
        """`rerank_many` for asyncio."""
        terms = self._terms(plan, top_k, budget_ms)
        work = read_pools(queries, pools)
        scored = await self._awaited(work, terms)
        return [self.rank(_documents(pairs), each, top_k=top_k) for pairs, each in zip(work, scored, strict=True)]

    async def ascore(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """`score` for asyncio."""
        return self.scores((await self._awaited([pool_pairs(query, documents)], Terms(self._full)))[0])

    async def ascore_pairs(self, pairs: Iterable[tuple[str, str]]) -> NDArray[np.float32]:
        """`score_pairs` for asyncio."""
        return self.scores((await self._awaited([read_pairs(pairs)], Terms(self._full)))[0])

    def close(self) -> None:
        """Frees the graphs. Pending and later calls raise ClosedError."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        return _reload, (type(self), self.artifact.folder, self.artifact.links_into, self.settings)

    def pair_tokenizer(self) -> PairTokenizer:
        """A tokenizer of pairs as this Reranker reads them; `parts` is told of windows."""
        pair = self.artifact.manifest.pair
        return PairTokenizer(
            self.artifact.read(TOKENIZER), self.resolved.max_length, prompt=pair.prompt, truncation=self.resolved.truncation
        )

    def _read_in_full(self, pairs: list[Pair]) -> Scored:
        return _wait([self._submit(pairs, Terms(self._full))])[0]

    def _terms(self, plan: Plan | str | None, top_k: int | None, budget_ms: float | None) -> Terms:
        """The terms of a call that begins now."""
        deadline = deadline_after(budget_ms)
        check_count("top_k", top_k)
        resolved = self.plan_for(plan, top_k=top_k)
        asked = self.settings.plan if plan is None else plan
        if deadline is not None and asked == "auto" and self._own is not None:
            resolved = replace(self._own, keeps_all=True)
        return Terms(resolved, deadline)

    def _submit(self, pairs: list[Pair], terms: Terms) -> Answer[Scored]:
        answer: Answer[Scored] = Answer()
        try:
            self._begin(answer, pairs, terms=terms)
        except BaseException:
            answer.cancel()
            raise
        return answer

    async def _awaited(self, work: list[list[Pair]], terms: Terms) -> list[Scored]:
        """Submits from a background thread, as tokenization takes time, and waits without blocking the event loop."""
        return await self._aside(work, partial(self._begin, terms=terms))

    async def _aside(self, work: list[list[Pair]], begin: Callable[[Answer[Result], list[Pair]], None]) -> list[Result]:
        """Begins the work on a background thread and waits for its answers without blocking the event loop."""
        import asyncio  # takes longer than the rest of resift to import

        answers: list[Answer[Result]] = [Answer() for _ in work]
        for answer, pairs in zip(answers, work, strict=True):
            self._encoders.run(partial(_begin_aside, partial(begin, answer, pairs), answer))
        try:
            return await asyncio.gather(*map(asyncio.wrap_future, answers))
        finally:
            for answer in answers:
                answer.cancel()

    def _begin(self, answer: Answer[Scored], pairs: list[Pair], *, terms: Terms) -> None:
        """Encodes and queues the distinct pairs; stops between two parts if the answer is cancelled."""
        encoded = self._encoded(pairs, terms, answer.cancelled)
        if encoded is not None:
            self._queue(answer, encoded)

    def _encode(self, answer: Answer[Encoded], pairs: list[Pair], *, terms: Terms, document_tokens: int | None) -> None:
        encoded = self._encoded(pairs, terms, answer.cancelled, document_tokens=document_tokens)
        if encoded is not None and answer.set_running_or_notify_cancel():
            answer.set_result(encoded)

    def _encoded(
        self, pairs: list[Pair], terms: Terms, cancelled: Callable[[], bool], *, document_tokens: int | None = None
    ) -> Encoded | None:
        """Encodes the distinct pairs, and loads the graphs that will read them; None if `cancelled`."""
        self._workers.check_open()
        encoded = Encoded.encode(
            self._tokenizer, pairs, terms, cancelled, document_tokens=document_tokens, windows=self.resolved.windows
        )
        if encoded is not None:
            for step in encoded.steps:
                if step.graph != self.graph.name:  # which `load` has loaded
                    self._sessions.open(step.graph)
        return encoded

    def _queue(self, answer: Answer[Scored], encoded: Encoded) -> None:
        if encoded.rows is None:
            none = np.empty(0, np.int32)
            outputs = np.empty((0, self.graph.signature.labels), np.float32)
            answer.set_result(Scored(outputs[:, 0], none, np.empty(0, np.bool_), lengths=none, outputs=outputs))
            return
        outcome = partial(scored_of, encoded.places, windowed=self.resolved.windows > 1)
        self._workers.add(Call(encoded.steps, encoded.rows, outcome, answer, encoded.deadline))

    def scores(self, scored: Scored) -> NDArray[np.float32]:
        """Scores float32[n] of what `submit` returned; NaN where the full graph did not read the pair."""
        scores = activate(scored.logits, self.graph.activation)
        in_full = scored.in_full(self.graph.name)
        return scores if in_full.all() else np.where(in_full, scores, np.float32(np.nan))

    def _check_plan(self) -> None:
        """Loads the graphs that calls without a plan read with: a deadline has no time for it.

        Raises InputError or ProviderError for a plan that cannot run.
        """
        usual = self._own if self._own and self.settings.plan == "auto" else self.plan_for()
        for graph in usual.graphs:
            self._sessions.open(graph.name)

    def _check_tokenizer(self) -> None:
        pair = self.artifact.manifest.pair
        found = self._tokenizer.template()
        if found != pair.template:
            raise ArtifactError(
                f"tokenizer.json joins a pair as {found}, but the model was trained on {pair.template}; export the artifact again"
            )
        if self._tokenizer.vocabulary > pair.vocabulary:
            raise ArtifactError(
                f"tokenizer.json has {self._tokenizer.vocabulary} tokens, but the model has {pair.vocabulary}: "
                "it belongs to another model; export the artifact again"
            )


def _begin_aside(begin: Callable[[], None], answer: Answer[Any]) -> None:
    try:
        begin()
    except Exception as error:  # noqa: BLE001 - passed on to the waiting caller
        if answer.set_running_or_notify_cancel():
            answer.set_exception(error)


def _reload(kind: type[Reranker], folder: Path, links_into: Path | None, settings: Settings) -> Reranker:
    """Unpickles from the folder, so that another process runs the same revision, and the settings."""
    return kind(artifacts.Artifact.open(folder, links_into=links_into), settings=settings)


def _scheduler(operations: Mapping[str, int], token_budget: int, **limits: Any) -> Scheduler:
    return Scheduler(token_budget, pace=Pace(operations), **limits)


def _run(sessions: Sessions, batch: Batch) -> NDArray[np.float32]:
    return sessions.run(batch.graph, batch.stack())


def _close(workers: Workers, encoders: Background, sessions: Sessions) -> None:
    workers.close()
    encoders.close()
    sessions.close()


def _wait(answers: Iterable[Future[Scored]]) -> list[Scored]:
    """Submits and waits for all; an interruption, or the failure of one, cancels the others."""
    submitted = []
    try:
        for answer in answers:
            submitted.append(answer)  # noqa: PERF402 - what was submitted before a failure has to be known
        return [answer.result() for answer in submitted]
    finally:
        for answer in submitted:
            answer.cancel()


def _documents(pairs: list[Pair]) -> list[str]:
    return [document for _, document in pairs]
