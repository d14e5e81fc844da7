"""Planned systems: models with the plans that are compared, and with the documents that a split graph reads new or prepared."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resift import Reranker, Settings
from resift.plans import BUILT_IN, FIRST_LOOK, FULL
from resift.pools.preparation import fill_store, header_of
from resift.states.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from resift.pools.reading import CandidatePool
    from resift.settings import Auto, Precision

TOP = 10


@dataclass(frozen=True)
class PlannedSystem:
    """A model with a plan."""

    name: str
    plan: str
    reranker: Reranker
    documents: str = "-"
    """new or prepared, if the plan has a split graph"""

    @property
    def key(self) -> tuple[Path, str]:
        """What its logits depend on: documents have the same to the bit, prepared or new."""
        return self.reranker.artifact.folder, self.reranker.precision

    def rank(self, query: str, documents: Sequence[str]) -> NDArray[np.int64]:
        """Positions of the ten best documents."""
        return np.array([result.index for result in self.reranker.rerank(query, documents, top_k=TOP, plan=self.plan)])

    def order(self, logits: Mapping[str, NDArray[np.float32]]) -> NDArray[np.int64]:
        """The ranking by its plan of a pool, from the logits of every graph."""
        remaining = np.arange(len(logits[FULL]))
        dropped: list[NDArray[np.int64]] = []
        for step in self.reranker.plan_for(self.plan, top_k=TOP).steps(len(remaining)):
            remaining = remaining[np.argsort(-logits[step.graph][remaining], kind="stable")]
            if step.keep is not None:
                remaining, dropped = remaining[: step.keep], [remaining[step.keep :], *dropped]
        return np.concatenate([remaining, *dropped])


def load(artifact: str, threads: int, precision: Auto | Precision) -> Reranker:
    """A model with no memory for documents: they are timed again and again."""
    return Reranker.load(artifact or None, settings=Settings(threads=threads, precision=precision, document_cache=0))


def systems_of(name: str, reranker: Reranker, store: Path | None) -> list[PlannedSystem]:
    """A system for each plan of the model, or two if a split graph is among its stages."""
    found = []
    with_store = reranker if store is None else Reranker(reranker.artifact, settings=replace(reranker.settings, store=store))
    for plan in _plans(reranker):
        if any(graph.split is not None for graph in reranker.plan_for(plan, top_k=TOP).graphs):
            found += [PlannedSystem(name, plan, reranker, "new"), PlannedSystem(name, plan, with_store, "prepared")]
        else:
            found.append(PlannedSystem(name, plan, reranker))
    return found


def prepare(reranker: Reranker, pools: Sequence[CandidatePool], folder: Path) -> Path | None:
    """A store in the folder with the states of all documents of the pools; None if the model has no split graph."""
    if reranker.document_states is None:
        return None
    texts = dict.fromkeys(text for pool in pools for text in pool.documents)
    with StoreWriter(folder, header_of(reranker)) as writer:
        done = fill_store(reranker, texts, writer)
    print(f"# {done.documents} documents prepared, {done.bytes / 1e6:.0f} MB", file=sys.stderr, flush=True)
    return folder


def _plans(reranker: Reranker) -> list[str]:
    """The first look only, the built-in plans that the artifact has graphs for, and its own ("auto") if that is another plan."""
    manifest = reranker.artifact.manifest
    if all(graph.role != FIRST_LOOK for graph in manifest.graphs):
        return [FULL]
    built_in = {str(plan) for plan in BUILT_IN.values()} | {*BUILT_IN, None}
    return [FIRST_LOOK, *BUILT_IN, *([] if manifest.plan in built_in else ["auto"])]


def name_of(artifact: str) -> str:
    """How tables name an artifact."""
    return Path(artifact).name if artifact else "embedded"
