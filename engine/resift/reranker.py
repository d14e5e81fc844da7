"""Reranker: the line from a query and its documents to a Ranking."""

from __future__ import annotations

import weakref
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from resift import artifact as artifacts
from resift import machine, providers
from resift.encoded import Encoded
from resift.errors import ArtifactError, InputError
from resift.inputs import check_count, pool_pairs, read_pairs, read_pools
from resift.manifest import TOKENIZER
from resift.pairs import PairTokenizer
from resift.ranking import Ranking, Scored
from resift.scheduler import Call, Scheduler
from resift.scoring import activate, relevance
from resift.session import Session
from resift.settings import Settings, resolve
from resift.workers import Answer, Background, Queued, Workers

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from numpy.typing import NDArray

    from resift.artifact import Artifact
    from resift.inputs import Pair
    from resift.manifest import Relevance
    from resift.scheduler import Batch
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
        instruction_sets = machine.instruction_sets()
        variants = [variant for variant in self.graph.variants if instruction_sets.issuperset(variant.instruction_sets)]
        self.provider, self.variant = providers.choose(
            self.settings.provider, self.settings.precision, available=providers.available(), variants=variants
        )
        self.precision = self.variant.precision
        policy = providers.POLICIES[self.provider]
        self.resolved = resolve(
            self.settings, cores=machine.usable_cores(), token_budget=policy.token_budget, max_length=manifest.pair.max_length
        )
        """what this process runs with"""
        self._tokenizer = PairTokenizer(artifact.read(TOKENIZER), self.resolved.max_length, truncation=self.resolved.truncation)
        self._check_tokenizer()
        providers.check_version(manifest.onnxruntime[0])
        session = Session(partial(artifact.read_graph, self.variant), self.graph.signature, policy)
        session.open()
        sessions = {self.graph.name: session}
        workers = policy.workers(self.resolved.threads)
        self._workers = Workers(
            partial(
                Scheduler,
                self.resolved.token_budget,
                bucket=policy.bucket,
                limit=None if self.settings.waiting_tokens == "auto" else self.settings.waiting_tokens,
                delay=None if self.settings.waiting_seconds == "auto" else workers * self.settings.waiting_seconds,
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
        settings: Settings | None = None,
    ) -> Self:
        """Opens, checks and loads an artifact.

        `source`: None for the embedded default model, the name of an embedded model, a folder that `resift export` wrote, or a
        hub id, org/name or org/name@revision, which is downloaded once.
        `provider`: short for Settings(provider=...). Raises ArtifactError, ProviderError or InputError.
        """
        asked = settings or Settings()
        if provider is not None:
            if asked.provider not in ("auto", provider):
                raise InputError(f"provider is {provider!r} but Settings.provider is {asked.provider!r}; give only one of them")
            asked = replace(asked, provider=provider)
        return cls(artifacts.Artifact.find(source), settings=asked)

    def submit(self, query: str, documents: Sequence[str]) -> Future[Scored]:
        """Tokenizes in the calling thread, queues the pairs and returns a Future of columns in the caller's order.

        All other methods submit and wait. Pending calls share batches, and shorter calls overtake longer ones. Cancelling the
        Future drops the pairs that have not started. Its callbacks run on a worker: they must not wait for this Reranker. Raises
        TypeError for anything but strings and ClosedError after `close`; the Future raises InferenceError, LogitsError, or
        ClosedError if `close` came first.
        """
        return self._submit(pool_pairs(query, documents))

    async def aencode(self, query: str, documents: Sequence[str], *, document_tokens: int | None = None) -> Encoded:
        """The first half of `submit`, for asyncio: tokenizes on a background thread; cancelling it stops that.

        `document_tokens` cuts each document to so many tokens; None: to what the model takes. What it returns is for
        `submit_encoded`, and can be looked at before. Raises TypeError for anything but strings, InputError for
        `document_tokens` below 1, and ClosedError after `close`.
        """
        check_count("document_tokens", document_tokens)
        encode = partial(self._encode, document_tokens=document_tokens)
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
        """Relevance logits float32[n] of `documents` for `query`, in the caller's order. Raises like `submit`."""
        return _wait([self.submit(query, documents)])[0].logits

    def score(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """Scores float32[n] of `documents` for `query`, in the caller's order. Raises like `submit`."""
        return self._scores(_wait([self.submit(query, documents)])[0])

    def score_pairs(self, pairs: Iterable[tuple[str, str]]) -> NDArray[np.float32]:
        """Scores float32[n] of (query, document) pairs, in the caller's order. Raises TypeError for anything but pairs of str."""
        return self._scores(_wait([self._submit(read_pairs(pairs))])[0])

    def rank(self, documents: Sequence[str], scored: Scored, *, top_k: int | None = None) -> Ranking:
        """The Ranking of `documents` by what `submit` returned for them, best first, cut to the best `top_k` (None: all)."""
        check_count("top_k", top_k)
        return Ranking.from_logits(
            documents,
            scored.logits,
            self._scores(scored),
            scored.tokens_cut,
            at_least=scored.tokens_cut_at_least,
            query_tokens_cut=scored.query_tokens_cut,
            top_k=top_k,
        )

    def rerank(self, query: str, documents: Sequence[str], *, top_k: int | None = None) -> Ranking:
        """Ranks `documents` for `query`, best first, and keeps the best `top_k` (None: all).

        Raises InputError for a `top_k` below 1, and otherwise like `submit`.
        """
        check_count("top_k", top_k)
        pairs = pool_pairs(query, documents)
        return self.rank(_documents(pairs), _wait([self._submit(pairs)])[0], top_k=top_k)

    def rerank_many(self, queries: Sequence[str], pools: Sequence[Sequence[str]], *, top_k: int | None = None) -> list[Ranking]:
        """One Ranking for each query and its pool, all pairs batched together. Raises like `rerank`."""
        check_count("top_k", top_k)
        work = read_pools(queries, pools)
        scored = _wait(self._submit(pairs) for pairs in work)
        return [self.rank(_documents(pairs), each, top_k=top_k) for pairs, each in zip(work, scored, strict=True)]

    async def arerank(self, query: str, documents: Sequence[str], *, top_k: int | None = None) -> Ranking:
        """`rerank` for asyncio, without blocking the event loop; cancelling it drops the pairs that have not started."""
        check_count("top_k", top_k)
        pairs = pool_pairs(query, documents)
        return self.rank(_documents(pairs), (await self._awaited([pairs]))[0], top_k=top_k)

    async def arerank_many(
        self, queries: Sequence[str], pools: Sequence[Sequence[str]], *, top_k: int | None = None
    ) -> list[Ranking]:
        """`rerank_many` for asyncio."""
        check_count("top_k", top_k)
        work = read_pools(queries, pools)
        scored = await self._awaited(work)
        return [self.rank(_documents(pairs), each, top_k=top_k) for pairs, each in zip(work, scored, strict=True)]

    async def ascore(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """`score` for asyncio."""
        return self._scores((await self._awaited([pool_pairs(query, documents)]))[0])

    async def ascore_pairs(self, pairs: Iterable[tuple[str, str]]) -> NDArray[np.float32]:
        """`score_pairs` for asyncio."""
        return self._scores((await self._awaited([read_pairs(pairs)]))[0])

    def close(self) -> None:
        """Frees the graph. Pending and later calls raise ClosedError."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        return _reload, (type(self), self.artifact.folder, self.artifact.links_into, self.settings)

    def _submit(self, pairs: list[Pair]) -> Answer[Scored]:
        answer: Answer[Scored] = Answer()
        try:
            self._begin(answer, pairs)
        except BaseException:
            answer.cancel()
            raise
        return answer

    async def _awaited(self, work: list[list[Pair]]) -> list[Scored]:
        """Submits from a background thread, as tokenization takes time, and waits without blocking the event loop."""
        return await self._aside(work, self._begin)

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

    def _begin(self, answer: Answer[Scored], pairs: list[Pair]) -> None:
        """Encodes and queues the distinct pairs; stops between two parts if the answer is cancelled."""
        self._workers.check_open()
        encoded = Encoded.encode(self._tokenizer, pairs, answer.cancelled)
        if encoded is not None:
            self._queue(answer, encoded)

    def _encode(self, answer: Answer[Encoded], pairs: list[Pair], *, document_tokens: int | None) -> None:
        self._workers.check_open()
        encoded = Encoded.encode(self._tokenizer, pairs, answer.cancelled, document_tokens=document_tokens)
        if encoded is not None and answer.set_running_or_notify_cancel():
            answer.set_result(encoded)

    def _queue(self, answer: Answer[Scored], encoded: Encoded) -> None:
        if encoded.rows is None:
            none = np.empty(0, np.int32)
            outputs = np.empty((0, self.graph.signature.labels), np.float32)
            answer.set_result(Scored(outputs[:, 0], none, np.empty(0, np.bool_), lengths=none, outputs=outputs))
            return
        outcome = partial(_scored, self.graph.relevance, encoded.places)
        self._workers.add(Call(self.graph.name, encoded.rows, outcome, answer))

    def _scores(self, scored: Scored) -> NDArray[np.float32]:
        return activate(scored.logits, self.graph.activation)

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


def _run(sessions: Mapping[str, Session], batch: Batch) -> NDArray[np.float32]:
    return sessions[batch.graph].run(batch.stack())


def _close(workers: Workers, encoders: Background, sessions: Mapping[str, Session]) -> None:
    workers.close()
    encoders.close()
    for session in sessions.values():
        session.close()


def _scored(rule: Relevance, places: NDArray[np.int64], call: Call) -> Scored:
    """A finished call's columns, row `places[i]` for the caller's pair i."""
    assert call.logits is not None
    encodings, outputs = call.encodings, call.logits[places]
    return Scored(
        relevance(outputs, rule),
        encodings.tokens_cut[places],
        encodings.at_least[places],
        encodings.query_tokens_cut,
        lengths=encodings.lengths[places],
        waited=0.0 if call.began is None else call.began - call.added,
        outputs=outputs,
    )


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
