"""Reranker: the line from a query and its documents to a Ranking."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from resift import artifact as artifacts
from resift import machine, providers
from resift.batching import plan_batches
from resift.errors import ArtifactError, InputError
from resift.manifest import TOKENIZER
from resift.pairs import PairTokenizer
from resift.ranking import Ranking
from resift.scoring import activate, relevance
from resift.session import Session
from resift.settings import Settings, resolve
from resift.waiting import in_thread

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from resift.artifact import Artifact


class _Scored(NamedTuple):
    """Columns of n pairs in the caller's order."""

    logits: NDArray[np.float32]
    tokens_cut: NDArray[np.int32]
    query_tokens_cut: NDArray[np.int32]


class Reranker:
    """Scores and ranks documents for queries with one artifact.

    >>> with Reranker.load() as reranker:
    ...     ranking = reranker.rerank("how do tides work", ["The moon's gravity ...", "Bread rises ..."], top_k=1)
    >>> ranking[0].index, ranking[0].score

    One Reranker serves any number of threads at once. It pickles as its source and settings, and after a fork the child
    opens the graph anew at its first call. A pair's logit does not depend on what it is scored beside.
    """

    def __init__(self, artifact: Artifact, *, provider: str = "auto", settings: Settings | None = None) -> None:
        """Use `load`, which finds and opens the artifact first."""
        manifest = artifact.manifest
        self.artifact = artifact
        self.settings = settings or Settings()
        """what was asked for"""
        self._asked_provider = provider
        self.graph = manifest.full
        instruction_sets = machine.instruction_sets()
        variants = [variant for variant in self.graph.variants if instruction_sets.issuperset(variant.instruction_sets)]
        self.provider, self.variant = providers.choose(
            provider, self.settings.precision, available=providers.available(), variants=variants
        )
        self.precision = self.variant.precision
        self.resolved = resolve(
            self.settings,
            cores=machine.usable_cores(),
            token_budget=providers.TOKEN_BUDGETS[self.provider],
            max_length=manifest.pair.max_length,
        )
        """what this process runs with"""
        self._tokenizer = PairTokenizer(artifact.read(TOKENIZER), self.resolved.max_length)
        self._check_tokenizer()
        read_graph = partial(artifact.read_graph, self.variant)
        providers.check_version(manifest.onnxruntime[0])
        self._session = Session(read_graph, self.provider, self.resolved.threads, self.graph.signature)

    @classmethod
    def load(
        cls, source: str | os.PathLike[str] | None = None, *, provider: str = "auto", settings: Settings | None = None
    ) -> Self:
        """Opens, checks and loads an artifact.

        `source`: None for the embedded default model, the name of an embedded model, a folder that `resift export` wrote, or a
        hub id, org/name or org/name@revision, which is downloaded once.
        `provider`: "auto", "cpu" or "cuda". Raises ArtifactError, ProviderError or InputError, which say what is wrong.
        """
        return cls(artifacts.Artifact.find(source), provider=provider, settings=settings)

    def rerank(self, query: str, documents: Sequence[str], *, top_k: int | None = None) -> Ranking:
        """Ranks `documents` for `query`, best first, and keeps the best `top_k` (all for None).

        Raises TypeError for anything but strings, InputError for a `top_k` below 1.
        """
        _check_texts([query], "query")
        return self.rerank_many([query], [documents], top_k=top_k)[0]

    def rerank_many(self, queries: Sequence[str], pools: Sequence[Sequence[str]], *, top_k: int | None = None) -> list[Ranking]:
        """One Ranking for each query and its pool, all pairs batched together. Raises as `rerank` does."""
        _check_texts(queries, "queries")
        _check_top_k(top_k)
        if len(queries) != len(pools):
            raise InputError(f"{len(queries)} queries and {len(pools)} pools; expected one pool for each query")
        for number, pool in enumerate(pools):
            _check_texts(pool, "documents" if len(pools) == 1 else f"pools[{number}]")
        flat_queries = [query for query, pool in zip(queries, pools, strict=True) for _ in pool]
        flat_documents = [document for pool in pools for document in pool]
        scored = self._run(flat_queries, flat_documents)
        scores = activate(scored.logits, self.graph.activation)
        rankings, start = [], 0
        for pool in pools:
            rows = slice(start, start := start + len(pool))
            query_cut = int(scored.query_tokens_cut[rows].max(initial=0))
            rankings.append(
                Ranking.from_logits(
                    pool, scored.logits[rows], scores[rows], scored.tokens_cut[rows], query_tokens_cut=query_cut, top_k=top_k
                )
            )
        return rankings

    def score(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """Scores float32[n] of `documents` for `query`, in the caller's order. Raises TypeError for anything but strings."""
        _check_texts([query], "query")
        _check_texts(documents, "documents")
        scored = self._run([query] * len(documents), documents)
        return activate(scored.logits, self.graph.activation)

    def score_pairs(self, pairs: Iterable[tuple[str, str]]) -> NDArray[np.float32]:
        """Scores float32[n] of (query, document) pairs, in the caller's order. Raises TypeError for anything but pairs of str."""
        if isinstance(pairs, str):
            raise TypeError("pairs is a str; expected (query, document) tuples")
        rows = list(pairs)
        for number, pair in enumerate(rows):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise TypeError(f"pairs[{number}] is {pair!r:.80}; expected a (query, document) tuple")
            _check_texts(pair, f"pairs[{number}]")
        scored = self._run([query for query, _ in rows], [document for _, document in rows])
        return activate(scored.logits, self.graph.activation)

    async def arerank(self, query: str, documents: Sequence[str], *, top_k: int | None = None) -> Ranking:
        """`rerank` for asyncio: it runs in a thread, and stops between two batches if the wait is cancelled."""
        return await in_thread(self.rerank, query, documents, top_k=top_k)

    async def arerank_many(
        self, queries: Sequence[str], pools: Sequence[Sequence[str]], *, top_k: int | None = None
    ) -> list[Ranking]:
        """`rerank_many` for asyncio."""
        return await in_thread(self.rerank_many, queries, pools, top_k=top_k)

    async def ascore(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """`score` for asyncio."""
        return await in_thread(self.score, query, documents)

    async def ascore_pairs(self, pairs: Iterable[tuple[str, str]]) -> NDArray[np.float32]:
        """`score_pairs` for asyncio."""
        return await in_thread(self.score_pairs, pairs)

    def close(self) -> None:
        """Frees the graph. Calls after it raise ClosedError."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        return _reload, (type(self), self.artifact.folder, self.artifact.links_into, self._asked_provider, self.settings)

    def _run(self, queries: Sequence[str], documents: Sequence[str]) -> _Scored:
        """Stops 1 to 4; pairs that occur twice are scored once."""
        self._session.check_open()
        distinct = {pair: row for row, pair in enumerate(dict.fromkeys(zip(queries, documents, strict=True)))}
        encodings = self._tokenizer.encode([query for query, _ in distinct], [document for _, document in distinct])
        logits = np.empty(len(distinct), np.float32)
        batches = plan_batches(encodings.lengths, self.resolved.token_budget)
        with closing(self._session.run_all(encodings.stack(batch.rows) for batch in batches)) as answers:
            for batch, answer in zip(batches, answers, strict=True):
                logits[batch.rows] = relevance(answer, self.graph.relevance)
        places = np.array([distinct[pair] for pair in zip(queries, documents, strict=True)], np.int64)
        return _Scored(logits[places], encodings.tokens_cut[places], encodings.query_tokens_cut[places])

    def _check_tokenizer(self) -> None:
        pair = self.artifact.manifest.pair
        if (found := self._tokenizer.template()) != pair.template:
            raise ArtifactError(
                f"tokenizer.json joins a pair as {found}, the model was trained on {pair.template}; export it again"
            )
        if self._tokenizer.vocabulary > pair.vocabulary:
            raise ArtifactError(
                f"tokenizer.json knows {self._tokenizer.vocabulary} tokens, the model {pair.vocabulary}; "
                "it is another model's: export the artifact again"
            )


def _reload(kind: type[Reranker], folder: Path, links_into: Path | None, provider: str, settings: Settings) -> Reranker:
    """What a pickle holds: the folder, so that another process runs the same revision, and the settings."""
    return kind(artifacts.Artifact.open(folder, links_into=links_into), provider=provider, settings=settings)


def _check_texts(texts: Sequence[str], name: str) -> None:
    if isinstance(texts, str) or not hasattr(texts, "__len__") or not hasattr(texts, "__getitem__"):
        raise TypeError(f"{name} is {type(texts).__name__}; expected a list of str")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            where = name if name == "query" else f"{name}[{position}]"
            raise TypeError(f"{where} is {type(text).__name__}; expected str")


def _check_top_k(top_k: int | None) -> None:
    if top_k is None:
        return
    if not isinstance(top_k, int) or isinstance(top_k, bool):
        raise TypeError(f"top_k is {type(top_k).__name__}; expected an int or None")
    if top_k < 1:
        raise InputError(f"top_k is {top_k}; expected 1 or more, or None for all")
