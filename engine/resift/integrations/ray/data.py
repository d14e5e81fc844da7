"""Ray Data: an actor pool that ranks Parquet of pools, part by part."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
import ray.data

from resift import errors
from resift.errors import ArtifactError, InferenceError, InputError, ResiftError
from resift.inputs import check_count
from resift.integrations.ray.parts import OutFolder, Part, find_sources, locate, read_rows, split
from resift.integrations.ray.table import rank_batches
from resift.reranker import Reranker
from resift.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

PART_POOLS = 500
"""Pools of a part: what a killed worker does again, and what the others wait for at the end."""
OBJECT_STORE_BYTES = 1 << 28
"""For a Ray of our own: only names of parts go through the object store."""
RETRIES = 5
"""Times that a part is begun again after its worker died. Ray Data's own default is for ever, even if the part is what kills it."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """What `rerank_parquet` did."""

    parts: int
    """files in OUT"""
    resumed: int
    """of these, already there"""
    pools: int
    """ranked by this call"""
    pairs: int
    """scored by this call"""


class RankPools:
    """Ranks tables of pools, for `map_batches` of a data set of your own; one Reranker an actor, a thread for each of its CPUs.

        pools = ray.data.read_parquet("pools/")
        ranked = pools.map_batches(RankPools, batch_format="pyarrow", batch_size=64, concurrency=4, num_cpus=2)

    Columns as for `rerank_parquet`. What fails in an actor is raised by Ray, as one of its own errors.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        settings: Settings | None = None,
        top_k: int | None = None,
        max_candidates: int | None = None,
    ) -> None:
        """`model` and `settings` as for `Reranker.load`. Raises what that raises."""
        self._reranker = _load(model, settings or Settings())
        self._top_k = top_k
        self._max_candidates = max_candidates

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table ranked. Raises InputError for a row that is no pool, and otherwise like `Reranker.rerank`."""
        batches = table.to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]
        ranked = rank_batches(self._reranker, batches, "the batch", top_k=self._top_k, max_candidates=self._max_candidates)
        return pa.Table.from_batches([batch for batch, _ in ranked])


def rerank_parquet(  # noqa: PLR0913 - what, where to, with which model, how
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    model: str | None = None,
    settings: Settings | None = None,
    top_k: int | None = None,
    max_candidates: int | None = None,
    workers: int | None = None,
    part_pools: int = PART_POOLS,
) -> Ranked:
    """Ranks Parquet of pools into the folder `out` on a Ray cluster. The same call resumes after any interruption.

    `source`: a Parquet file, or a folder of them, with a pool in each row: `query`, and `documents`, a list of strings, or
    `candidates`, a list of structs with `text` and any other fields. `out` gets a Parquet file for every `part_pools` rows, with
    `results` in place of the pool (see `resift.integrations.ray.table.rank_batches`); read in the order of their names, they
    have the rows of `source` in order. Both may be URIs that pyarrow knows, such as s3://bucket/folder, and must be on storage
    that all machines share.

    `workers`: actors, each with a Reranker and `settings.threads` CPUs ("auto": 1); None: as many as the cluster has room for
    now, so a cluster that grows on demand needs a number. With provider "cuda" each takes a GPU; "auto" is the CPU. If Ray is
    not initialized, the cluster at RAY_ADDRESS is joined ("auto": the one of this machine), or else one is started here,
    without usage statistics, and shut down at the end.

    A part whose worker died is ranked again, at most 5 times. On an int8 graph and CPUs with the same instruction sets the output
    is equal to the bit, whoever ranked what. Raises InputError for input that cannot be read, OutputError if `out` holds anything
    but this job's work or cannot be written, ArtifactError if a machine would run another model or variant than the others,
    InferenceError if Ray gives a part up, and otherwise like `Reranker.load` and `Reranker.rerank`.
    """
    for name, count in (("top_k", top_k), ("max_candidates", max_candidates), ("workers", workers), ("part_pools", part_pools)):
        check_count(name, count)
    source, out = os.fspath(source), os.fspath(out)
    _check_apart(source, out)
    asked = settings or Settings()
    asked = replace(
        asked,
        threads=1 if asked.threads == "auto" else asked.threads,
        provider="cpu" if asked.provider == "auto" else asked.provider,
    )
    model = str(Path(model).absolute()) if model and os.path.isdir(model) else model  # noqa: PTH112 - as in Artifact.find
    sources = find_sources(source)
    parts = split(sources, part_pools)
    with _cluster(asked):
        runs = _identity_of_a_worker(model, asked, top_k)
        inputs = {f"input {file.name}": f"{file.size} bytes, {file.rows} rows, modified {file.modified}" for file in sources}
        job = {"top_k": top_k, "max_candidates": max_candidates, "part_pools": part_pools} | runs | inputs
        folder = OutFolder(out, job)
        folder.begin()
        done = folder.done(parts)
        todo = [asdict(part) for part in parts if part.name not in done]
        pools = pairs = 0
        if todo:
            task = _Task(out, job, model, asked, runs)
            for row in _ranked(task, todo, workers):
                pools, pairs = pools + row["pools"], pairs + row["pairs"]
        folder.finish(parts)
    return Ranked(len(parts), len(done), pools, pairs)


@dataclass(frozen=True, slots=True)
class _Task:
    """What an actor has to know."""

    out: str
    job: dict[str, Any]
    model: str | None
    settings: Settings
    runs: dict[str, Any]
    """what every actor must run: `_identity` of the first"""


class _RankParts:
    """An actor. A ResiftError becomes a row: as an exception, Ray would pass on its traceback in place of it."""

    def __init__(self, task: _Task) -> None:
        self._task = task
        self._folder = OutFolder(task.out, task.job)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Ranks and writes a part; tells how much that was, or what failed."""
        [row] = rows.to_pylist()
        told = {"pools": 0, "pairs": 0, "error": "", "message": ""}
        try:
            told |= self._rank(Part(**row))
        except ResiftError as error:
            told |= {"error": type(error).__name__, "message": str(error)}
        return pa.Table.from_pylist([told])

    @cached_property
    def _reranker(self) -> Reranker:
        reranker = _load(self._task.model, self._task.settings)
        for name, value in _identity(reranker, self._task.job["top_k"]).items():
            if value != self._task.runs[name]:
                raise ArtifactError(
                    f"on {ray.util.get_node_ip_address()}, {name} is {value!r}, but {self._task.runs[name]!r} elsewhere in the "
                    "cluster: give all machines the same model, and the precision and provider in the settings"
                )
        return reranker

    def _rank(self, part: Part) -> dict[str, int]:
        filesystem, _ = locate(part.path)
        ranked = list(
            rank_batches(
                self._reranker,
                read_rows(filesystem, part),
                part.path,
                first=part.start,
                top_k=self._task.job["top_k"],
                max_candidates=self._task.job["max_candidates"],
            )
        )
        self._folder.write(part, pa.Table.from_batches([batch for batch, _ in ranked]))
        return {"pools": part.stop - part.start, "pairs": sum(pairs for _, pairs in ranked)}


def _ranked(
    task: _Task, todo: list[dict[str, Any]], workers: int | None, actor: type[_RankParts] = _RankParts
) -> Iterator[dict[str, Any]]:
    """Yields what became of each part. Raises the ResiftError of the first that failed, which ends the others."""
    # One part a block and one block at a time to an actor: nothing waits behind a slow part while another actor is idle.
    size = min(workers or _room(task.settings), len(todo))
    done = ray.data.from_items(todo, override_num_blocks=len(todo)).map_batches(
        actor,
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
        fn_constructor_args=(task,),
        num_cpus=task.settings.threads,
        num_gpus=_gpus(task.settings),
        max_task_retries=RETRIES,
    )
    try:
        for row in done.iter_rows():
            if row["error"]:
                raise getattr(errors, row["error"])(row["message"])
            yield row
    except ray.exceptions.RayError as error:
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise InferenceError(f"Ray gave a part up ({reason}); finished parts are kept: run the same again to resume") from error


def _load(model: str | None, settings: Settings) -> Reranker:
    """A Reranker with a thread for each CPU that Ray gave this actor, unless the settings say how many."""
    cpus = max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))
    os.environ.setdefault("RAYON_NUM_THREADS", str(cpus))  # tokenization
    return Reranker.load(model, settings=replace(settings, threads=cpus) if settings.threads == "auto" else settings)


def _identity(reranker: Reranker, top_k: int | None) -> dict[str, Any]:
    """What a ranking of the best `top_k` depends on besides the pool.

    Windows are named where they are on, as parts from before there were any do not.
    """
    windows = {} if reranker.resolved.windows == 1 else {"windows": reranker.resolved.windows}
    return windows | {
        "model": reranker.artifact.fingerprint(),
        "variant": reranker.variant.file,
        "provider": reranker.provider,
        "max_length": reranker.resolved.max_length,
        "truncation": reranker.resolved.truncation,
        "plan": str(reranker.plan_for(top_k=top_k)),
    }


def _identity_of_a_worker(model: str | None, settings: Settings, top_k: int | None) -> dict[str, Any]:
    """Loads the model where it will run: this machine may be none of those."""

    def load() -> dict[str, Any]:
        with _load(model, settings) as reranker:
            return _identity(reranker, top_k)

    try:
        found: dict[str, Any] = ray.get(ray.remote(num_cpus=settings.threads, num_gpus=_gpus(settings))(load).remote())
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ResiftError):
            raise error.cause from None
        raise
    return found


def _room(settings: Settings) -> int:
    """Actors that the machines of the cluster have CPUs and GPUs for now, at least 1."""
    needs = {"CPU": settings.threads, "GPU": _gpus(settings)}
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max(1, sum(min(int(has.get(name, 0) // need) for name, need in needs.items() if need) for has in machines))


def _gpus(settings: Settings) -> int:
    return int(settings.provider == "cuda")


@contextmanager
def _cluster(settings: Settings) -> Iterator[None]:
    """The cluster that this process or RAY_ADDRESS names, or one of our own with room for a worker."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        try:
            ray.init(address)
        except ConnectionError as error:
            raise InputError(f"no Ray cluster at RAY_ADDRESS={address}: {error}") from error
    else:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init("local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES)
    try:
        room = ray.cluster_resources()
        if not address and (room.get("CPU", 0) < settings.threads or room.get("GPU", 0) < _gpus(settings)):
            raise InputError(
                f"a worker needs {settings.threads} of this machine's {room.get('CPU', 0):g} CPUs and {_gpus(settings)} of its "
                f"{room.get('GPU', 0):g} GPUs: ask for fewer threads or another provider, or join a cluster"
            )
        yield
    finally:
        ray.shutdown()


def _check_apart(source: str, out: str) -> None:
    """Raises InputError if what is written would be read."""
    (reads, read), (writes, written) = locate(source), locate(out)
    if reads == writes and (read == written or written.startswith(f"{read.rstrip('/')}/")):
        raise InputError(f"{out} is in {source}, which is read: choose an OUT outside")
