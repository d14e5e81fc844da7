"""Cluster: the Ray that work is given to, and the actors in it, each with a Reranker."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from resift.errors import InputError, ResiftError
from resift.reranker import Reranker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resift.settings import Settings

OBJECT_STORE_BYTES = 1 << 28
"""Size of the object store if this process starts Ray: only the names of parts go through it."""
RETRIES = 5
"""How often work is begun anew after its worker died. Ray Data retries forever by default, even if the work kills the worker."""


def for_actors(settings: Settings) -> Settings:
    """With a thread for each actor and the CPU, unless the settings say otherwise."""
    return replace(
        settings,
        threads=1 if settings.threads == "auto" else settings.threads,
        provider="cpu" if settings.provider == "auto" else settings.provider,
    )


def everywhere(model: str | None) -> str | None:
    """The name of a model, which must not depend on the folder in which a process runs."""
    return str(Path(model).absolute()) if model and os.path.isdir(model) else model  # noqa: PTH112 - as in Artifact.find


def load_here(model: str | None, settings: Settings) -> Reranker:
    """A Reranker with a thread for each CPU that Ray gave this actor, unless the settings say how many."""
    cpus = max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))
    os.environ.setdefault("RAYON_NUM_THREADS", str(cpus))  # tokenization
    return Reranker.load(model, settings=replace(settings, threads=cpus) if settings.threads == "auto" else settings)


@contextmanager
def own_errors() -> Iterator[None]:
    """Raises a ResiftError of an actor as it was raised there."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ResiftError):
            raise error.cause from None
        raise


def room(settings: Settings) -> int:
    """The number of actors for which the machines of the cluster have CPUs and GPUs now, at least 1."""
    needs = {"CPU": settings.threads, "GPU": gpus(settings)}
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max(1, sum(min(int(machine.get(name, 0) // need) for name, need in needs.items() if need) for machine in machines))


def gpus(settings: Settings) -> int:
    """The number of GPUs of an actor."""
    return int(settings.provider in ("cuda", "tensorrt"))


@contextmanager
def cluster(settings: Settings) -> Iterator[None]:
    """Joins the cluster of this process or of RAY_ADDRESS, or starts one with room for a worker."""
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
        found = ray.cluster_resources()
        if not address and (found.get("CPU", 0) < settings.threads or found.get("GPU", 0) < gpus(settings)):
            raise InputError(
                f"a worker needs {settings.threads} of this machine's {found.get('CPU', 0):g} CPUs and {gpus(settings)} of its "
                f"{found.get('GPU', 0):g} GPUs: ask for fewer threads or another provider, or join a cluster"
            )
        yield
    finally:
        ray.shutdown()
