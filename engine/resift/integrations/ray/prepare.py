"""Prepare: fills a store with states of documents, which actors on a cluster compute."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from resift.errors import ArtifactError, InferenceError
from resift.inputs import check_count
from resift.integrations.ray.cluster import RETRIES, cluster, everywhere, for_actors, gpus, load_here, own_errors, room
from resift.pools import preparation
from resift.pools.documents import DocumentSource
from resift.pools.source import template_of
from resift.reranker import Reranker
from resift.settings import Settings
from resift.states.layout import SHARDS
from resift.states.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from resift.pools.preparation import Contents, Prepared, Submit
    from resift.states.layout import Header


def fill_store(  # noqa: PLR0913 - input, output, model and options
    documents: str | os.PathLike[str],
    store: str | os.PathLike[str],
    *,
    model: str | None = None,
    settings: Settings | None = None,
    workers: int | None = None,
    part: tuple[int, int] = (1, 1),
    shards: int = SHARDS,
    progress: Callable[[Prepared, float | None], None] | None = None,
) -> Prepared:
    """Fills `store` with the states of `documents`, like `resift prepare`. The same call goes on after any interruption.

    This process reads the documents and writes the store: both are its own files, and only texts and states go through Ray. So the
    machines of the cluster need resift and the model, but no common storage. `workers`, `settings` and the Ray that is used: as for
    `rerank_parquet`; with a number of workers, it waits until so many are there. `part`: (1, 3) is the first of three parts of the
    store, which as many calls may fill at once. `shards`: files of a new store. `progress(so_far, share)` is called when states
    were written; `share` of the documents is read, None if that is not known.

    The identity of the states is that of the machines that compute them: processes on machines of another kind do not find them.
    Raises InputError for documents that cannot be read or a model without a split graph, ArtifactError if the machines differ in
    what makes bits, OutputError if the store cannot be written, InferenceError if Ray gives up, and else like `Reranker.load`.
    """
    workers = check_count("workers", workers)
    settings = replace(for_actors(settings or Settings()), store="auto", document_cache=0)
    source, model = DocumentSource(documents, template_of(settings)), everywhere(model)
    with cluster(settings), Reranker.load(model, settings=settings) as reranker:
        preparation.require_states(reranker)
        actors = _Actors(model, settings, workers or room(settings))
        header = actors.header(shards)
        with StoreWriter(Path(store), header, part=part) as writer, _give_up_in_one_line(store):
            return preparation.fill_store(
                reranker,
                source,
                writer,
                workers=actors.count,
                submit=actors.submit(header.identity),
                progress=None if progress is None else lambda so_far: progress(so_far, source.share()),
            )


class _ComputeStates:
    """An actor."""

    def __init__(self, model: str | None, settings: Settings) -> None:
        self._reranker = load_here(model, settings)

    def header(self, shards: int) -> Header:
        """That of the states which this machine computes."""
        return preparation.header_of(self._reranker, shards)

    def contents(self, texts: list[str], identity: str) -> Contents:
        """States of that identity: Ray may have begun the actor anew, on another machine."""
        found = preparation.header_of(self._reranker)
        if found.identity != identity:
            raise ArtifactError(
                f"on {ray.util.get_node_ip_address()}, states are those of {found.label}, but others elsewhere in the cluster: "
                "give all machines the same model, onnxruntime and kind of processor"
            )
        return preparation.contents(self._reranker, texts)


class _Actors:
    """So many actors, which are there until they are let go of."""

    def __init__(self, model: str | None, settings: Settings, count: int) -> None:
        self.count = count
        options = {"max_restarts": RETRIES, "max_task_retries": RETRIES}
        actor = ray.remote(num_cpus=settings.threads, num_gpus=gpus(settings), **options)(_ComputeStates)
        self._actors = [actor.remote(model, settings) for _ in range(count)]
        self._waiting: list[list[Future[Contents]]] = [[] for _ in range(count)]

    def header(self, shards: int) -> Header:
        """The header of the states that all of them compute. Raises ArtifactError if some compute others."""
        with own_errors():
            headers: list[Header] = ray.get([actor.header.remote(shards) for actor in self._actors])
        if len({header.identity for header in headers}) > 1:
            found = "; ".join(sorted({header.label for header in headers}))
            raise ArtifactError(
                f"the machines of the cluster compute different states ({found}): give all of them the same model, onnxruntime and "
                "kind of processor"
            )
        return headers[0]

    def submit(self, identity: str) -> Submit:
        """A function that has states of that identity computed by the actor with the least to do."""

        def compute(texts: list[str]) -> Future[Contents]:
            for waiting in self._waiting:
                waiting[:] = [future for future in waiting if not future.done()]
            number = min(range(self.count), key=lambda number: len(self._waiting[number]))
            future: Future[Contents] = self._actors[number].contents.remote(texts, identity).future()
            self._waiting[number].append(future)
            return future

        return compute


@contextmanager
def _give_up_in_one_line(store: str | os.PathLike[str]) -> Iterator[None]:
    """Raises what an actor raised, or InferenceError if Ray gives up."""
    try:
        with own_errors():
            yield
    except ray.exceptions.RayError as error:
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise InferenceError(
            f"Ray gave up some documents ({reason}); what was written to {os.fspath(store)} is kept: run the same again to go on"
        ) from error
