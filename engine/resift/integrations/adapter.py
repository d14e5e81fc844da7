"""Adapter: the fields that adapters to frameworks built on pydantic share, and their Reranker, loaded at its first use."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PrivateAttr

from resift.artifact.folder import Artifact
from resift.errors import InputError
from resift.plans import Plan
from resift.process import Lock
from resift.reranker import Reranker
from resift.settings import Settings

KEPT = 4
"""Rerankers that stay loaded for adapters to come; one that an adapter still holds is never unloaded."""


@dataclass(frozen=True)
class _Held:
    """The Reranker that an adapter has loaded, and what for. Copies of the adapter share it; a pickle leaves it out."""

    asked: tuple[object, Settings] | None = field(default=None, compare=False)
    reranker: Reranker | None = field(default=None, compare=False)

    def __deepcopy__(self, _: object) -> _Held:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return _Held, ()


def _text(model: str | Path | Reranker | None) -> str | None:
    """A model as it is serialized."""
    if isinstance(model, Reranker):
        return str(model.artifact.folder)
    return None if model is None else str(model)


class Adapter(BaseModel):  # type: ignore[misc] # pydantic comes with the framework
    """A model and settings, and the Reranker they stand for.

    Adapters of the same artifact and settings share one Reranker in a process. It is loaded at its first use, not before, so that
    an adapter is cheap to make, to copy and to pickle.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    model: Annotated[str | Path | Reranker | None, PlainSerializer(_text)] = None
    """None for the embedded default model, the name of an embedded model, an artifact's folder, a hub id, or a loaded Reranker,
    which stays the caller's to close and is serialized as its folder."""
    settings: Settings = Field(default_factory=Settings)
    """How to run the model; with a loaded Reranker, its own."""
    _held: _Held = PrivateAttr(default_factory=_Held)

    def model_post_init(self, context: Any, /) -> None:
        """Takes over the settings of a Reranker. Raises InputError if others were given."""
        super().model_post_init(context)
        if isinstance(self.model, Reranker):
            if self.settings not in (Settings(), self.model.settings):
                raise InputError("settings are given beside a loaded Reranker, which has its own; give them to Reranker.load")
            self.settings = self.model.settings

    def _load(self) -> Reranker:
        """The Reranker; the first use loads it. Raises like `Reranker.load`."""
        if isinstance(self.model, Reranker):
            return self.model
        held, asked = self._held, (self.model, self.settings)
        reranker = held.reranker if held.asked == asked else None
        if reranker is None:
            reranker = _shared(*asked)
            self._held = _Held(asked, reranker)
        return reranker

    async def _aload(self) -> Reranker:
        """`_load` for asyncio: the first use loads on another thread."""
        loaded = isinstance(self.model, Reranker) or self._held.asked == (self.model, self.settings)
        return self._load() if loaded else await asyncio.to_thread(self._load)


class RankingAdapter(Adapter):
    """An adapter that ranks pools: with a plan, and until a deadline."""

    top_n: int | None = Field(default=None, ge=1)
    """Most results to return; None: all."""
    plan: str | Plan | None = None
    """How a pool is worked through, as for `Reranker.rerank`; None: that of the settings."""
    budget_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Milliseconds after which what was read by then is returned, as for `Reranker.rerank`; loading the model does not count."""

    def _asked(self) -> dict[str, Any]:
        """The keyword arguments of `Reranker.rerank`."""
        return {"top_k": self.top_n, "plan": self.plan, "budget_ms": self.budget_ms}


_loading = Lock()


def _shared(source: str | Path | None, settings: Settings) -> Reranker:
    artifact = Artifact.find(source)
    with _loading.hold():
        return _open(artifact.folder.resolve(), artifact.links_into, artifact.fingerprint(), settings)


@lru_cache(maxsize=KEPT)
def _open(folder: Path, links_into: Path | None, _fingerprint: str, settings: Settings) -> Reranker:
    """Opens the folder once for each content that it has had: the fingerprint is part of the key."""
    return Reranker(Artifact.open(folder, links_into=links_into), settings=settings)
