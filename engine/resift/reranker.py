"""Reranker: the line from a query and its documents to a Ranking."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Self

from resift import machine
from resift.artifact.folder import Artifact
from resift.artifact.resolved_plans import Plans
from resift.encoding.artifact_tokenizer import open_tokenizer
from resift.inputs import check_count, deadline_after, read_candidates, read_pairs, read_pools, runs
from resift.ranking import Ranking
from resift.runtime import providers
from resift.runtime.self_test import check_provider
from resift.runtime.sessions import Sessions
from resift.scheduling.submission import Submission
from resift.settings import Settings, resolve

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from resift.artifact.manifest import Variant
    from resift.artifact.resolved_plans import ResolvedPlan
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
        self._sessions = sessions = Sessions(artifact, self.settings)
        self.provider = sessions.provider
        self.variant = sessions.variant(self.graph.name)
        self.precision = self.variant.precision
        self.resolved = resolve(
            self.settings,
            cores=machine.usable_cores(),
            token_budget=sessions.policy.token_budget,
            max_length=manifest.pair.max_length,
        )
        """what this process runs with"""
        self.tokenizer = open_tokenizer(artifact, self.resolved)
        providers.check_version(manifest.onnxruntime[0])
        sessions.open(self.graph.name)
        self._plans = Plans(manifest.graphs, artifact.plan(), self.settings.plan)
        for graph in self._plans.default_graphs():  # a call with a deadline has no time for it
            sessions.open(graph.name)
        self._calls = Submission(manifest, self.tokenizer, sessions, self.resolved)
        self._workers = self._calls.workers
        self._close = weakref.finalize(self, self._calls.close)
        self._close.atexit = False
        if self.provider not in providers.SUPPORTED:
            check_provider(sessions, artifact, [self.graph, *self._plans.default_graphs()], self.submit)

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
        merged = (settings or Settings()).with_arguments(provider=provider, plan=plan)
        return cls(Artifact.find(source), settings=merged)

    def plan_for(self, plan: Plan | str | None = None, *, top_k: int | None = None) -> ResolvedPlan:
        """The plan that a call with `plan` and `top_k` follows, with the graphs of this artifact; `str()` names them.

        `plan`: a Plan, a built-in name, stages such as "first-look:15,full", "auto", or None for that of the Settings. With "auto"
        a call that asks for the best `top_k` only follows the artifact's own plan, in which the full graph scores at least those
        `top_k`; any other call follows a plan of the full graph alone. Raises TypeError for another type, and InputError for a
        plan whose graphs this artifact does not have.
        """
        return self._plans.choose(plan, top_k=top_k)

    def variant_of(self, graph: str) -> Variant:
        """The variant of the artifact's graph of that name that runs here. Raises ProviderError if none can."""
        return self._sessions.variant(graph)

    @property
    def nodes(self) -> dict[str, int] | None:
        """Number of the full graph's nodes on each execution provider, by onnxruntime's names; None before onnxruntime 1.24."""
        return self._sessions.nodes(self.graph.name)

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
        `plan`: as for `plan_for`. `top_k`: number of results that the caller needs (None: all); with it the call may follow the
        artifact's own plan. A graph that calls with the plan "auto" do not need is loaded at its first use.

        `budget_ms`: milliseconds from now after which the Future is done with what has been scored by then; `Scored.stages_done`
        says by which graphs. Pairs are scored best first: in the caller's order, then in that of the plan's last stage. With the
        plan "auto" no pair is left out while there is time, and stages that find an order run only if there seems to be too little
        for all; before any batch has run, only a long time seems enough. All texts are tokenized, however long that takes.

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

        `document_tokens`: most tokens of a document; None: what the model takes. The result is for `submit_encoded`; its numbers of
        tokens can be looked at before. `plan`, `top_k`, `budget_ms`: as for `submit`; the time counts from this call. Raises
        TypeError for anything but strings, InputError for an argument that cannot be used, and ClosedError after `close`.
        """
        check_count("document_tokens", document_tokens)
        terms = self._terms(plan, top_k, budget_ms)
        return await self._calls.aencode([read_candidates(query, documents)], *terms, document_tokens=document_tokens)

    def submit_encoded(self, encoded: Call) -> Future[Scored]:
        """The second half of `submit`: queues what `aencode` of this Reranker returned, once.

        Raises InputError if it was submitted before, and like `submit`.
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

        `plan`: the cascade of graphs that scores the pool, as for `plan_for`; None: that of the Settings. `budget_ms`: milliseconds
        after which it returns with what has been scored by then, as for `submit`. Documents that the full graph did not score have
        no score; they follow in the order of the stage before, then those that no graph scored, in the caller's order. Raises
        InputError for a `top_k` below 1, a plan whose graphs this artifact does not have or a `budget_ms` out of range, and
        otherwise like `submit`.
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

    def _score(self, pools: list[Candidates]) -> Scored:
        return self._calls.wait([pools], self._plans.full)[0]

    async def _ascore(self, pools: list[Candidates]) -> Scored:
        return (await self._calls.await_all([pools], self._plans.full))[0]

    def _terms(self, plan: Plan | str | None, top_k: int | None, budget_ms: float | None) -> tuple[ResolvedPlan, float | None]:
        """The plan of a call that begins now, and its deadline by time.monotonic."""
        deadline = None if budget_ms is None else deadline_after(budget_ms)
        check_count("top_k", top_k)
        return self._plans.choose(plan, top_k=top_k, is_timed=deadline is not None), deadline


def _reload(kind: type[Reranker], folder: Path, links_into: Path | None, settings: Settings) -> Reranker:
    """Unpickles from the folder, so that another process runs the same revision, and the settings."""
    return kind(Artifact.open(folder, links_into=links_into), settings=settings)
