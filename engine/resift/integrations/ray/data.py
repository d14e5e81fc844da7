"""Ray Data: a pool of actors that ranks Parquet files of candidate pools, part by part."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
import ray.data

from resift import errors
from resift.errors import ArtifactError, InferenceError, InputError, ResiftError
from resift.inputs import check_count
from resift.integrations.ray.cluster import RETRIES, cluster, everywhere, for_actors, gpus, load_here, own_errors, room
from resift.integrations.ray.parts import OutFolder, Part, find_sources, locate, read_rows, split
from resift.integrations.ray.table import rank_batches
from resift.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resift.reranker import Reranker

PART_POOLS = 500
"""Pools of a part: as many are ranked again after a worker was killed, and as many may remain for the last worker at the end."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """The counts of `rerank_parquet`."""

    parts: int
    """files in OUT"""
    resumed: int
    """files that were complete before this call"""
    pools: int
    """pools that this call ranked"""
    pairs: int
    """pairs that this call scored"""


class RankPools:
    """Ranks tables of pools, for `map_batches` of your own data set; each actor has a Reranker, with a thread for each of its CPUs.

        pools = ray.data.read_parquet("pools/")
        ranked = pools.map_batches(RankPools, batch_format="pyarrow", batch_size=64, concurrency=4, num_cpus=2)

    The columns are those of `rerank_parquet`. Ray raises an error of an actor as one of its own errors.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        settings: Settings | None = None,
        top_k: int | None = None,
        max_candidates: int | None = None,
    ) -> None:
        """`model` and `settings`: as for `Reranker.load`. Raises like `Reranker.load`, and InputError for a count below 1."""
        self._reranker = load_here(model, settings or Settings())
        self._top_k = check_count("top_k", top_k)
        self._max_candidates = check_count("max_candidates", max_candidates)

    def __call__(self, table: pa.Table) -> pa.Table:
        """The ranked table. Raises InputError for a row that is not a pool, and otherwise like `Reranker.rerank`."""
        batches = table.to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]
        ranked = rank_batches(self._reranker, batches, "the batch", top_k=self._top_k, max_candidates=self._max_candidates)
        return pa.Table.from_batches([batch for batch, _ in ranked])


def rerank_parquet(  # noqa: PLR0913 - input, output, model and options
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
    """Ranks Parquet files of pools into the folder `out` on a Ray cluster. The same call resumes after any interruption.

    `source`: a Parquet file, or a folder of them, with a pool in each row: `query`, and `documents`, a list of strings, or
    `candidates`, a list of structs with `text` and any other fields. `out` gets a Parquet file for every `part_pools` rows, with
    `results` in place of the pool (see `resift.integrations.ray.table.rank_batches`); in the order of their names, these files
    have the rows of `source` in order. Both may be URIs that pyarrow knows, such as s3://bucket/folder, and must be on storage
    that all machines share.

    `workers`: actors, each with a Reranker and `settings.threads` CPUs ("auto": 1); None: as many as the cluster has room for
    now, so a cluster that grows on demand needs a number. With provider "cuda" each takes a GPU; "auto" is the CPU. If Ray is
    not initialized, this process joins the cluster at RAY_ADDRESS ("auto": the one of this machine), or else starts one here,
    without usage statistics, and shuts it down at the end.

    A part whose worker died is ranked again, at most 5 times. With an int8 graph, one version of onnxruntime and CPUs of the same
    architecture and instruction sets, the output is equal to the bit, whichever machine ranked a part. Raises InputError for input
    that cannot be read, OutputError if `out` holds anything but this job's work or cannot be written, ArtifactError if a machine
    would run another model or variant than others, InferenceError if Ray gives up a part, and else like `Reranker.rerank`.
    """
    top_k, max_candidates = check_count("top_k", top_k), check_count("max_candidates", max_candidates)
    workers, part_pools = check_count("workers", workers), check_count("part_pools", part_pools)
    source, out = os.fspath(source), os.fspath(out)
    _check_apart(source, out)
    settings, model = for_actors(settings or Settings()), everywhere(model)
    sources = find_sources(source)
    parts = split(sources, part_pools)
    with cluster(settings):
        identity = _identity_of_a_worker(model, settings, top_k)
        inputs = {f"input {file.name}": f"{file.size} bytes, {file.rows} rows, modified {file.modified}" for file in sources}
        job = {"top_k": top_k, "max_candidates": max_candidates, "part_pools": part_pools} | identity | inputs
        folder = OutFolder(out, job)
        folder.begin()
        finished = folder.finished_parts(parts)
        remaining = [asdict(part) for part in parts if part.name not in finished]
        pools = pairs = 0
        if remaining:
            task = _Task(out, job, model, settings, identity)
            for row in _run_actors(task, remaining, workers):
                pools, pairs = pools + row["pools"], pairs + row["pairs"]
        folder.finish(parts)
    return Ranked(len(parts), len(finished), pools, pairs)


@dataclass(frozen=True, slots=True)
class _Task:
    """The arguments of an actor."""

    out: str
    job: dict[str, Any]
    model: str | None
    settings: Settings
    identity: dict[str, Any]
    """the `_identity` of the first Reranker, which every actor's must equal"""


class _RankParts:
    """An actor. It returns a ResiftError as a row, because Ray would pass on the traceback of an exception in place of it."""

    def __init__(self, task: _Task) -> None:
        self._task = task
        self._folder = OutFolder(task.out, task.job)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Ranks and writes a part; returns the counts of its pools and pairs, or the error."""
        [row] = rows.to_pylist()
        report = {"pools": 0, "pairs": 0, "error": "", "message": ""}
        try:
            report |= self._rank(Part(**row))
        except ResiftError as error:
            report |= {"error": type(error).__name__, "message": str(error)}
        return pa.Table.from_pylist([report])

    @cached_property
    def _reranker(self) -> Reranker:
        reranker = load_here(self._task.model, self._task.settings)
        for name, value in _identity(reranker, self._task.job["top_k"]).items():
            if value != self._task.identity[name]:
                raise ArtifactError(
                    f"on {ray.util.get_node_ip_address()}, {name} is {value!r}, but {self._task.identity[name]!r} elsewhere in the "
                    "cluster: give all machines the same model, and the precision and provider in the settings"
                )
        return reranker

    def _rank(self, part: Part) -> dict[str, int]:
        ranked = list(
            rank_batches(
                self._reranker,
                read_rows(locate(part.path)[0], part),
                part.path,
                first=part.start,
                top_k=self._task.job["top_k"],
                max_candidates=self._task.job["max_candidates"],
            )
        )
        self._folder.write(part, pa.Table.from_batches([batch for batch, _ in ranked]))
        return {"pools": part.stop - part.start, "pairs": sum(pairs for _, pairs in ranked)}


def _run_actors(
    task: _Task, parts: list[dict[str, Any]], workers: int | None, actor: type[_RankParts] = _RankParts
) -> Iterator[dict[str, Any]]:
    """Yields the report on each part. Raises the ResiftError of the first part that fails, which ends the others."""
    # Each block is one part and each actor gets one block at a time: no part waits behind a slow one while another actor is idle.
    size = min(workers or room(task.settings), len(parts))
    reports = ray.data.from_items(parts, override_num_blocks=len(parts)).map_batches(
        actor,
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
        fn_constructor_args=(task,),
        num_cpus=task.settings.threads,
        num_gpus=gpus(task.settings),
        max_task_retries=RETRIES,
    )
    try:
        for row in reports.iter_rows():
            if row["error"]:
                raise getattr(errors, row["error"])(row["message"])
            yield row
    except ray.exceptions.RayError as error:
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise InferenceError(f"Ray gave up a part ({reason}); finished parts are kept: run the same again to resume") from error


def _identity(reranker: Reranker, top_k: int | None) -> dict[str, Any]:
    """The model and settings that a ranking of the best `top_k` depends on, besides the pool; newer ones only where used."""
    resolved, settings = reranker.resolved, reranker.settings
    options: dict[str, Any] = {} if resolved.windows == 1 else {"windows": resolved.windows}
    options |= {name: value for name in ("scores", "document_template") if (value := getattr(settings, name)) != "auto"}
    if settings.provider_options != "auto":
        options["provider_options"] = dict(settings.provider_options)
    return options | {
        "model": reranker.artifact.fingerprint(),
        "variant": reranker.variant.file,
        "provider": reranker.provider,
        "max_length": resolved.max_length,
        "truncation": resolved.truncation,
        "plan": str(reranker.plan_for(top_k=top_k)),
    }


def _identity_of_a_worker(model: str | None, settings: Settings, top_k: int | None) -> dict[str, Any]:
    """The `_identity` of the model, loaded on a worker, because this machine may not be one of them."""

    def load() -> dict[str, Any]:
        with load_here(model, settings) as reranker:
            return _identity(reranker, top_k)

    with own_errors():
        identity: dict[str, Any] = ray.get(ray.remote(num_cpus=settings.threads, num_gpus=gpus(settings))(load).remote())
    return identity


def _check_apart(source: str, out: str) -> None:
    """Raises InputError if `out` is `source` or in it, so that written files would be read."""
    (source_system, source_path), (out_system, out_path) = locate(source), locate(out)
    if source_system == out_system and (source_path == out_path or out_path.startswith(f"{source_path.rstrip('/')}/")):
        raise InputError(f"{out} is in {source}, which is read: choose an OUT outside it")
