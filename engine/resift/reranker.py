"""Reranker: the line from a query and its documents to a Ranking."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Self

from resift import machine
from resift.artifact.folder import Artifact
from resift.artifact.resolved_plans import Plans
from resift.asynchronous import AsyncMethods
from resift.encoding.artifact_tokenizer import open_tokenizer
from resift.inputs import read_pairs, read_pools, runs
from resift.ranking import rank
from resift.runtime import providers, self_test
from resift.runtime.sessions import Sessions
from resift.scheduling.submission import Submission
from resift.scoring import logit_identity
from resift.settings import Settings, resolve

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from resift.artifact.resolved_plans import ResolvedPlan
    from resift.artifact.variant import Variant
    from resift.documents import Document
    from resift.plans import Plan
    from resift.ranking import Ranking, Scored
    from resift.scheduling.call import Batch, Call
    from resift.scheduling.workers import Queued
    from resift.settings import Auto, Provider
    from resift.states.document_states import DocumentStates


class Reranker(AsyncMethods):
    """Scores and ranks documents for queries with one artifact.

    >>> with Reranker.load() as reranker:
    ...     ranking = reranker.rerank("what causes tides", ["Bread rises by yeast.", "The moon pulls the sea."], top_k=1)
    >>> ranking[0].index, ranking[0].document
    (1, 'The moon pulls the sea.')

    One Reranker serves any number of threads at once. It pickles as its source and settings, and a forked child reopens the
    graph at its first call. A pair's logit does not depend on the pairs scored with it.

    Documents are read once, by position: a list, a tuple, an array or a pandas Series of str, or of mappings of which
    `Settings.document_template` says what the model reads. Results give positions in it.
    """

    def __init__(self, artifact: Artifact, *, settings: Settings | None = None, rehearsed: Provider | None = None) -> None:
        """Use `load`, which finds and opens the artifact first. Raises TypeError for the name of one.

        `rehearsed`: a provider whose graphs and batches are run on the CPU, as `resift export` does to certify those for CUDA.
        """
        if not isinstance(artifact, Artifact):
            raise TypeError(f"artifact is {type(artifact).__name__}; expected an Artifact: use Reranker.load({artifact!r:.200})")
        manifest = artifact.manifest
        self.artifact = artifact
        self.settings = settings or Settings()
        """what was asked for"""
        self.graph = manifest.full
        self._rehearsed = rehearsed
        self._sessions = sessions = Sessions(artifact, self.settings, rehearsed)
        self.provider = sessions.provider
        self.variant = sessions.variant(self.graph.name)
        self.precision = self.variant.precision
        self.resolved = resolve(
            self.settings,
            cores=machine.usable_cores(),
            token_budget=sessions.policy.token_budget,
            max_length=manifest.pair.max_length,
            scores="logit" if self.graph.activation == "identity" else "sigmoid",
        )
        """what this process runs with"""
        if self.settings.calibration is not None:
            self.settings.calibration.check(**logit_identity(artifact, self.resolved))
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
        graphs = [self.graph, *self._plans.default_graphs()]
        self_test.check(sessions, artifact, graphs, self.submit, self.resolved.max_length)

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

        `source`: None for the embedded default model, the name of an embedded model or the hub id of its checkpoint, such as
        cross-encoder/ms-marco-MiniLM-L12-v2, a folder that `resift export` wrote, or the hub id of an artifact, org/name or
        org/name@revision, which is downloaded once.
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

    @property
    def is_packed(self) -> bool:
        """Whether the full graph computes no padding, as on CUDA with an artifact that was exported with --packed."""
        return self._sessions.is_packed(self.graph.name)

    def submit(  # noqa: PLR0913 - the options of a call, by name
        self,
        query: str,
        documents: Sequence[Document],
        *,
        plan: Plan | str | None = None,
        top_k: int | None = None,
        budget_ms: float | None = None,
        instruction: str | None = None,
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

        `instruction`: put before the query, and part of it, in place of the prompt that the model declares; None: that prompt.

        Raises TypeError for anything but texts and mappings, InputError for an argument or a document that cannot be used and
        ClosedError after `close`; the Future raises InferenceError, LogitsError, or ClosedError if `close` came first.
        """
        terms = self._terms(plan, top_k, budget_ms)
        return self._calls.submit(self._calls.encode([self._read(query, documents, instruction)], *terms))

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

    def texts(self, documents: Sequence[Document]) -> list[str]:
        """What the model reads of each document, before it is cut to fit. Raises TypeError and InputError like `submit`."""
        return self._read("", documents, None).documents

    def logits(self, query: str, documents: Sequence[Document], *, instruction: str | None = None) -> NDArray[np.float32]:
        """Logits float32[n] of `documents` for `query` by the full graph, in the caller's order. Raises like `submit`."""
        return self._calls.wait([[self._read(query, documents, instruction)]], self._plans.full)[0].logits

    def score(self, query: str, documents: Sequence[Document], *, instruction: str | None = None) -> NDArray[np.float32]:
        """Scores float32[n] of `documents` for `query`, in the caller's order, by the full graph. Raises like `submit`."""
        return self._calls.wait([[self._read(query, documents, instruction)]], self._plans.full)[0].scores

    def score_pairs(self, pairs: Iterable[tuple[str, Document]], *, instruction: str | None = None) -> NDArray[np.float32]:
        """Scores float32[n] of (query, document) pairs, in the caller's order. Raises TypeError for anything but such pairs."""
        return self._calls.wait([runs(read_pairs(pairs, self.resolved.document_template), instruction)], self._plans.full)[0].scores

    def rerank(  # noqa: PLR0913 - the options of a call, by name
        self,
        query: str,
        documents: Sequence[Document],
        top_k: int | None = None,
        *,
        plan: Plan | str | None = None,
        budget_ms: float | None = None,
        threshold: float | None = None,
        instruction: str | None = None,
    ) -> Ranking:
        """Ranks `documents` for `query`, best first, and keeps the best `top_k` (None: all).

        `plan`: the cascade of graphs that scores the pool, as for `plan_for`; None: that of the Settings. `instruction`: as for
        `submit`. `budget_ms`: milliseconds after which it returns with what has been scored by then, as for `submit`. Documents
        that the full graph did not score have no score; they follow in the order of the stage before, then those that no graph
        scored, in the caller's order. `threshold`: the probability, by `Settings.calibration`, that a document must have to be
        returned; those without a score have none. Raises InputError for a `top_k` below 1, a plan whose graphs this artifact does
        not have, a `budget_ms` or `threshold` out of range, or a `threshold` without a calibration, and otherwise like `submit`.
        """
        terms = self._terms(plan, top_k, budget_ms, threshold)
        pool = self._read(query, documents, instruction)
        return rank([pool], self._calls.wait([[pool]], *terms), top_k, threshold)[0]

    def rerank_many(  # noqa: PLR0913 - the options of a call, by name
        self,
        queries: Sequence[str],
        pools: Sequence[Sequence[Document]],
        top_k: int | None = None,
        *,
        plan: Plan | str | None = None,
        budget_ms: float | None = None,
        threshold: float | None = None,
        instruction: str | None = None,
    ) -> list[Ranking]:
        """One Ranking for each query and its pool, all pairs batched together, within one `budget_ms`. Raises like `rerank`."""
        terms = self._terms(plan, top_k, budget_ms, threshold)
        work = read_pools(queries, pools, self.resolved.document_template, instruction)
        return rank(work, self._calls.wait([[pool] for pool in work], *terms), top_k, threshold)

    @property
    def document_states(self) -> DocumentStates | None:
        """Where the states of documents are looked up and kept, for the artifact's first split graph; None if none can run here."""
        return next(iter(self._calls.split_graphs.states.values()), None)

    def prepare(self, documents: Sequence[Document]) -> list[tuple[bytes, NDArray[np.uint8]]]:
        """The digest and the states uint8[tokens, size] of each document, by the document half of the artifact's split graph.

        `resift prepare` puts them into a store, in which calls find them by the digest. They are computed anew, whatever is known
        of the documents, and equal ones once. A document that is read in several windows has the states of its first: where the
        others begin depends on the query. Raises InputError for an artifact without a split graph, and otherwise like `submit`.
        """
        return self._calls.prepare(self.texts(documents))

    def document_digests(self, documents: Sequence[Document]) -> list[bytes]:
        """The digest of each document, as `prepare` gives it, without computing states. Raises like `prepare`."""
        return self._calls.document_digests(self.texts(documents))

    def close(self) -> None:
        """Frees the graphs. Pending and later calls raise ClosedError."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        return _reload, (type(self), self.artifact.folder, self.artifact.links_into, self.settings, self._rehearsed)


def _reload(
    kind: type[Reranker], folder: Path, links_into: Path | None, settings: Settings, rehearsed: Provider | None
) -> Reranker:
    """Unpickles from the folder, so that another process runs the same revision, and the settings."""
    return kind(Artifact.open(folder, links_into=links_into), settings=settings, rehearsed=rehearsed)
