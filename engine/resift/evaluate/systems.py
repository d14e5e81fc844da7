"""The systems that an evaluation compares: ways to order candidates. Opening a system gives its Scorer."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

from resift.artifact.folder import DEFAULT
from resift.artifact.manifest import RELEVANCE
from resift.encoding.tokenizer import PairTokenizer
from resift.errors import InputError
from resift.evaluate.cross_encoder import load_cross_encoder
from resift.evaluate.known import with_room
from resift.evaluate.scoresfile import read_scores
from resift.files.names import path_text
from resift.ranking import best_first
from resift.reranker import Reranker
from resift.runtime.providers import versions
from resift.scoring import activate, relevance
from resift.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from resift.pools.reading import CandidatePool
    from resift.ranking import Scored


class Columns(NamedTuple):
    """One system's results for a pool; the arrays are in the order given."""

    keys: NDArray[np.float64]
    """float64[n]: sort keys of the candidates, highest first; equal ones keep the order given"""
    scores: NDArray[np.float64] | None
    """float64[n]: the scores to show, NaN for a candidate without one; None if the system has no scores"""
    scored: Scored | None = None
    """the engine's result, for an artifact"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """An open system."""

    name: str
    kind: Literal["given", "artifact", "checkpoint", "scores"]
    score: Callable[[CandidatePool], Columns]
    is_timed: bool = False
    """whether `score` computes the scores; False if it only looks them up"""
    source: str | None = None
    precision: str | None = None
    reranker: Reranker | None = None
    """the reranker of an artifact"""
    versions: dict[str, str] = field(default_factory=dict)
    """versions of the libraries that it uses, by name"""


class System(Protocol):
    """A way to order candidates."""

    def open(self, pools: Sequence[CandidatePool]) -> AbstractContextManager[Scorer]:
        """Loads everything that scoring `pools` needs, and checks in advance what can be checked."""


@dataclass(frozen=True, slots=True)
class GivenOrder:
    """The order in which the data holds the candidates, such as a retriever's."""

    name: str = "order given"

    @contextmanager
    def open(self, pools: Sequence[CandidatePool]) -> Iterator[Scorer]:  # noqa: ARG002 - a System's
        """Loads nothing."""
        yield Scorer(name=self.name, kind="given", score=_in_order)


@dataclass(frozen=True, slots=True)
class ArtifactSystem:
    """An artifact as `Reranker.load(source, settings=settings)` runs it.

    With document_cache "auto", the memory for documents is large enough for any pool; evaluations empty it before each.
    """

    source: str | os.PathLike[str] | None = None
    settings: Settings = field(default_factory=Settings)
    name: str | None = None
    """None: the artifact's name, the precision that runs, and the plan of the settings unless it is "auto" or "full" """

    @contextmanager
    def open(self, pools: Sequence[CandidatePool]) -> Iterator[Scorer]:  # noqa: ARG002 - a System's
        """Loads the artifact. Raises like `Reranker.load`."""
        with Reranker.load(self.source, settings=with_room(self.settings)) as reranker:

            def score(pool: CandidatePool) -> Columns:
                scored = _wait(reranker.submit(pool.query, pool.documents))
                if scored.stages_done is None:
                    return _columns(scored.logits, scored.scores)._replace(scored=scored)
                ranks = np.argsort(best_first(scored.logits, scored.stages_done))  # logits of different graphs do not compare
                return Columns(-ranks.astype(np.float64), scored.scores.astype(np.float64), scored)

            yield Scorer(
                name=self.name or f"{_short(self.source)} {reranker.precision}{_plan(self.settings)}",
                kind="artifact",
                score=score,
                is_timed=True,
                source=DEFAULT if self.source is None else path_text(self.source),
                precision=reranker.precision,
                reranker=reranker,
                versions=versions("onnxruntime", "tokenizers"),
            )


@dataclass(frozen=True, slots=True)
class CheckpointSystem:
    """A checkpoint in PyTorch, float32, as sentence-transformers' CrossEncoder runs it; weights from safetensors only.

    A pair that is too long loses the end of its document, as in an artifact; sentence-transformers' default is to cut the longer
    text. PyTorch uses its own number of threads, which OMP_NUM_THREADS sets.
    """

    source: str | os.PathLike[str]
    """a folder or a hub id"""
    max_length: int | None = None
    """maximum number of tokens in a pair; None: the checkpoint's limit"""
    device: str = "cpu"
    name: str | None = None
    """None: the checkpoint's name and "PyTorch" """

    @contextmanager
    def open(self, pools: Sequence[CandidatePool]) -> Iterator[Scorer]:
        """Loads the checkpoint.

        Raises ExtraError without sentence-transformers 6 or newer, and InputError if it cannot load the checkpoint or a query of
        `pools` is too long for it.
        """
        encoder = load_cross_encoder(
            os.fspath(self.source),
            device=self.device,
            max_length=self.max_length,
            model_kwargs={"use_safetensors": True, "dtype": "float32"},
        )
        rule = RELEVANCE.get(encoder.num_labels)
        if rule is None:
            raise InputError(
                f"{self.source} has {encoder.num_labels} labels; expected those of a reranker: 1 (relevance) or 2 (no, yes)"
            )
        _check_queries(encoder, pools, str(self.source))
        activation: Literal["sigmoid", "identity"] = "sigmoid" if type(encoder.activation_fn).__name__ == "Sigmoid" else "identity"

        def score(pool: CandidatePool) -> Columns:
            outputs = encoder.predict(
                [(pool.query, document) for document in pool.documents],
                activation_fn=_identity,
                processing_kwargs={"text": {"truncation": "only_second"}},
                show_progress_bar=False,
            )
            logits = relevance(np.asarray(outputs, np.float32).reshape(len(pool.documents), -1), rule)
            return _columns(logits, activate(logits, activation))

        yield Scorer(
            name=self.name or f"{_short(self.source)} PyTorch",
            kind="checkpoint",
            score=score,
            is_timed=True,
            source=path_text(self.source),
            precision="float32",
            versions=versions("sentence-transformers", "transformers", "torch"),
        )


@dataclass(frozen=True, slots=True)
class ScoresFile:
    """Another engine's scores of the same candidates: a TREC run, or ranked pools as JSON Lines (see `read_scores`)."""

    path: str | os.PathLike[str]
    name: str | None = None
    """None: the file's name"""

    @contextmanager
    def open(self, pools: Sequence[CandidatePool]) -> Iterator[Scorer]:
        """Reads the file. Raises InputError that names the line at fault, or a query without scores."""
        found = read_scores(self.path, pools)
        yield Scorer(
            name=self.name or path_text(Path(self.path).name),
            kind="scores",
            score=lambda pool: Columns(*found[str(pool.qid)]),
            source=path_text(self.path),
        )


def _in_order(pool: CandidatePool) -> Columns:
    return Columns(-np.arange(len(pool.documents), dtype=np.float64), None)


def _columns(logits: NDArray[np.float32], scores: NDArray[np.float32]) -> Columns:
    return Columns(logits.astype(np.float64), scores.astype(np.float64))


def _wait(answer: Future[Scored]) -> Scored:
    """The answer; if the wait is interrupted, pairs that have not started are dropped."""
    try:
        return answer.result()
    finally:
        answer.cancel()


def _plan(settings: Settings) -> str:
    return "" if settings.plan in ("auto", "full") else f" {settings.plan}"


def _identity(logits: Any) -> Any:
    return logits


def _short(source: str | os.PathLike[str] | None) -> str:
    """The name of an embedded model, a hub id, or the last part of a folder's path."""
    if source is None:
        return DEFAULT
    return path_text(Path(os.path.realpath(source)).name) if os.path.isdir(source) else path_text(source)  # noqa: PTH112 - see Artifact.find


def _check_queries(encoder: Any, pools: Sequence[CandidatePool], source: str) -> None:
    """Raises InputError for a query so long that an artifact would cut it, as sentence-transformers would not."""
    try:
        content = encoder.tokenizer.backend_tokenizer.to_str().encode()
    except AttributeError as error:
        raise InputError(f"{source} has only a slow tokenizer; expected one with a tokenizer.json") from error
    prompt = encoder.prompts.get(encoder.default_prompt_name) or ""
    tokenizer = PairTokenizer(content, encoder.max_seq_length or encoder.tokenizer.model_max_length, prompt=prompt)
    for pool in pools:
        if cut := tokenizer.encode(pool.query, []).query_tokens_cut:
            raise InputError(f"query {pool.qid!r} is {cut} tokens too long for the checkpoint {source}; shorten it or leave it out")
