"""Adapter: the common fields of adapters to frameworks built on pydantic, and their Reranker, loaded at its first use."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PrivateAttr

from resift.artifact.folder import Artifact
from resift.errors import InputError
from resift.integrations.fallback import OnError
from resift.plans import Plan
from resift.process import Lock
from resift.reranker import Reranker
from resift.settings import Settings

CACHE_SIZE = 4
"""Number of Rerankers that stay loaded for later adapters; a Reranker that an adapter still refers to is never unloaded."""


@dataclass(frozen=True)
class _LoadedReranker:
    """The Reranker that an adapter has loaded, and its model and settings. Copies of the adapter share it; pickles omit it."""

    key: tuple[object, Settings] | None = field(default=None, compare=False)
    reranker: Reranker | None = field(default=None, compare=False)

    def __deepcopy__(self, _: object) -> _LoadedReranker:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return _LoadedReranker, ()


def _text(model: str | Path | Reranker | None) -> str | None:
    """The serialized form of a model."""
    if isinstance(model, Reranker):
        return str(model.artifact.folder)
    return None if model is None else str(model)


class Adapter(BaseModel):  # type: ignore[misc] # pydantic comes with the framework
    """A model and settings, and the Reranker that runs them.

    Adapters of the same artifact and settings share one Reranker in a process. It is loaded at its first use, not before, so that
    an adapter is cheap to construct, to copy and to pickle.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    model: Annotated[str | Path | Reranker | None, PlainSerializer(_text)] = None
    """None for the embedded default model, the name of an embedded model, an artifact's folder, a hub id, or a loaded Reranker,
    which the caller must close and which is serialized as its folder."""
    settings: Settings = Field(default_factory=Settings)
    """How to run the model; with a loaded Reranker, its own."""
    _loaded: _LoadedReranker = PrivateAttr(default_factory=_LoadedReranker)

    def model_post_init(self, context: Any, /) -> None:
        """Adopts the settings of a loaded Reranker. Raises InputError if the caller passed different ones."""
        super().model_post_init(context)
        if isinstance(self.model, Reranker):
            if self.settings not in (Settings(), self.model.settings):
                raise InputError("settings were passed with a loaded Reranker, which has its own; pass them to Reranker.load")
            self.settings = self.model.settings

    def _load(self) -> Reranker:
        """The Reranker; the first use loads it. Raises like `Reranker.load`."""
        if isinstance(self.model, Reranker):
            return self.model
        loaded, key = self._loaded, (self.model, self.settings)
        reranker = loaded.reranker if loaded.key == key else None
        if reranker is None:
            reranker = _shared_reranker(*key)
            self._loaded = _LoadedReranker(key, reranker)
        return reranker

    async def _aload(self) -> Reranker:
        """`_load` for asyncio: the first use loads on another thread."""
        is_loaded = isinstance(self.model, Reranker) or self._loaded.key == (self.model, self.settings)
        return self._load() if is_loaded else await asyncio.to_thread(self._load)


class RankingAdapter(Adapter):
    """An adapter that ranks pools, optionally with a plan and a deadline."""

    top_n: int | None = Field(default=None, ge=1)
    """Maximum number of results; None: all."""
    plan: str | Plan | None = None
    """The cascade that scores a pool, as for `Reranker.rerank`; None: that of the settings."""
    budget_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Milliseconds after which a ranking is returned with the scores that exist by then, as for `Reranker.rerank`; the time to load
    the model does not count."""
    on_error: OnError = "raise"
    """What to do if the model cannot be loaded, a reranking fails, or `budget_ms` passes before the documents to be returned are
    scored: "raise" the error, and return a partial ranking at the deadline; or "keep_order", which returns the first `top_n` in the
    order given, each with the reason in its metadata as "rerank_error". Wrong arguments raise with either."""

    def _rerank_options(self) -> dict[str, Any]:
        """The keyword arguments of `Reranker.rerank`."""
        return {"top_k": self.top_n, "plan": self.plan, "budget_ms": self.budget_ms}


_loading = Lock()


def _shared_reranker(source: str | Path | None, settings: Settings) -> Reranker:
    artifact = Artifact.find(source)
    with _loading.hold():
        return _open(artifact.folder.resolve(), artifact.links_into, artifact.fingerprint(), settings)


@lru_cache(maxsize=CACHE_SIZE)
def _open(folder: Path, links_into: Path | None, _fingerprint: str, settings: Settings) -> Reranker:
    """Opens the folder once for each content that it has had: the fingerprint is part of the cache's key."""
    return Reranker(Artifact.open(folder, links_into=links_into), settings=settings)
