"""Reranker: the line from a query and its documents to a Ranking."""

from __future__ import annotations

import weakref
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from resift import machine
from resift.artifact import folder as artifacts
from resift.artifact.manifest import TOKENIZER
from resift.artifact.plans import Plans
from resift.encoding.tokenizer import PairTokenizer
from resift.errors import ArtifactError, InputError
from resift.inputs import check_count, deadline_after, read_candidates, read_pairs, read_pools, runs
from resift.ranking import Ranking
from resift.runtime import providers
from resift.runtime.sessions import Sessions
from resift.scheduling.outcome import scored_of
from resift.scheduling.pace import Pace
from resift.scheduling.scheduler import Scheduler
from resift.scheduling.submission import Submission
from resift.scheduling.workers import Workers
from resift.settings import Settings, resolve

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from resift.artifact.folder import Artifact
    from resift.artifact.manifest import Variant
    from resift.artifact.plans import ResolvedPlan
    from resift.inputs import Candidates
    from resift.plans import Plan
    from resift.ranking import Scored
    from resift.scheduling.call import Batch, Call
    from resift.scheduling.workers import Queued
    from resift.settings import Auto, Provider


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
        self._plans = Plans(manifest.graphs, artifact.plan(), self.settings.plan)
        for graph in self._plans.default_graphs():  # a call with a deadline has no time for it
            sessions.open(graph.name)
        self._sessions = sessions
        workers = policy.workers(self.resolved.threads)
        schedulers = partial(
            _scheduler,
            {graph.name: graph.operations for graph in manifest.graphs},
            self.resolved.token_budget,
            buckets=policy.buckets,
            limit=None if self.settings.waiting_tokens == "auto" else self.settings.waiting_tokens,
            delay=None if self.settings.waiting_seconds == "auto" else workers * self.settings.waiting_seconds,
            workers=workers,
        )
        self._workers = Workers(schedulers, sessions.run, workers)
        self._calls = Submission(
            self._tokenizer,
            sessions,
            self._workers,
            partial(scored_of, full=self.graph.name, activation=self.graph.activation, windowed=self.resolved.windows > 1),
            windows=self.resolved.windows,
            threads=self.resolved.threads,
        )
        self._close = weakref.finalize(self, self._calls.close)
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
        return self._plans.choose(plan, top_k=top_k)

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
        return self._calls.submit(self._calls.encode([read_candidates(query, documents)], *terms))

    async def aencode(  # noqa: PLR0913 - what `submit` takes
        self,
        query: str,
        documents: Sequence[str],
        *,
        document_tokens: int | None = None,
        plan: Plan | str | None = None,
        top_k: int | None = None,
        budget_ms: float | None = None,
    ) -> Call:
        """The first half of `submit`, for asyncio: tokenizes on a background thread; cancelling it stops that.

        `document_tokens` cuts each document to so many tokens; None: to what the model takes. What it returns is for
        `submit_encoded`, and can be looked at before. `plan`, `top_k`, `budget_ms`: as for `submit`; the time counts from this
        call. Raises TypeError for anything but strings, InputError for a `document_tokens` or any of these that cannot be used, and
        ClosedError after `close`.
        """
        check_count("document_tokens", document_tokens)
        terms = self._terms(plan, top_k, budget_ms)
        return await self._calls.aencode([read_candidates(query, documents)], *terms, document_tokens=document_tokens)

    def submit_encoded(self, encoded: Call) -> Future[Scored]:
        """The second half of `submit`: queues what `aencode` of this Reranker returned, once.

        Raises InputError for what was submitted before, and like `submit`.
        """
        return self._calls.submit(encoded)

    @property
    def queued(self) -> Queued:
        """The rows and tokens that wait to run, and the rows dropped so far. A snapshot; any thread may ask."""
        return self._workers.queued

    def observe(self, observer: Callable[[Batch, float], None]) -> None:
        """Calls `observer` with each batch that ran and its seconds, on a worker's thread; it must neither raise nor wait."""
        self._workers.observe = observer

    def logits(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """Logits float32[n] of `documents` for `query` by the full graph, in the caller's order. Raises like `submit`."""
        return self._score([read_candidates(query, documents)]).logits

    def score(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """Scores float32[n] of `documents` for `query`, in the caller's order, by the full graph. Raises like `submit`."""
        return self._score([read_candidates(query, documents)]).scores

    def score_pairs(self, pairs: Iterable[tuple[str, str]]) -> NDArray[np.float32]:
        """Scores float32[n] of (query, document) pairs, in the caller's order. Raises TypeError for anything but pairs of str."""
        return self._score(runs(read_pairs(pairs))).scores

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
        pool = read_candidates(query, documents)
        return Ranking.of(pool.documents, self._calls.wait([[pool]], *terms)[0], top_k=top_k)

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
        scored = self._calls.wait([[pool] for pool in work], *terms)
        return [Ranking.of(pool.documents, each, top_k=top_k) for pool, each in zip(work, scored, strict=True)]

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
        pool = read_candidates(query, documents)
        return Ranking.of(pool.documents, (await self._calls.await_all([[pool]], *terms))[0], top_k=top_k)

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
        scored = await self._calls.await_all([[pool] for pool in work], *terms)
        return [Ranking.of(pool.documents, each, top_k=top_k) for pool, each in zip(work, scored, strict=True)]

    async def ascore(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """`score` for asyncio."""
        return (await self._ascore([read_candidates(query, documents)])).scores

    async def ascore_pairs(self, pairs: Iterable[tuple[str, str]]) -> NDArray[np.float32]:
        """`score_pairs` for asyncio."""
        return (await self._ascore(runs(read_pairs(pairs)))).scores

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

    def _score(self, pools: list[Candidates]) -> Scored:
        return self._calls.wait([pools], self._plans.full)[0]

    async def _ascore(self, pools: list[Candidates]) -> Scored:
        return (await self._calls.await_all([pools], self._plans.full))[0]

    def _terms(self, plan: Plan | str | None, top_k: int | None, budget_ms: float | None) -> tuple[ResolvedPlan, float | None]:
        """What a call that begins now follows, and until when."""
        deadline = deadline_after(budget_ms)
        check_count("top_k", top_k)
        return self._plans.choose(plan, top_k=top_k, is_timed=deadline is not None), deadline

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


def _reload(kind: type[Reranker], folder: Path, links_into: Path | None, settings: Settings) -> Reranker:
    """Unpickles from the folder, so that another process runs the same revision, and the settings."""
    return kind(artifacts.Artifact.open(folder, links_into=links_into), settings=settings)


def _scheduler(operations: Mapping[str, int], token_budget: int, **limits: Any) -> Scheduler:
    return Scheduler(token_budget, pace=Pace(operations), **limits)
