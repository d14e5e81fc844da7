"""Machine: the cores this process may use, and their instruction sets."""

from __future__ import annotations

import functools
import math
import os
import platform
from pathlib import Path

SYSTEM = Path("/sys/devices/system/cpu")
CGROUPS = Path("/sys/fs/cgroup")
INSTRUCTION_SETS = frozenset({"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
"""The instruction sets that decide which int8 and bfloat16 kernels run, by the names Linux gives them."""


def usable_cores() -> int:
    """Physical cores that this process may use, within its affinity and its cgroup's quota; at least 1.

    The hardware threads of a core share its multipliers, so a second one does not speed up a matrix product.
    """
    return max(1, math.ceil(min(physical_cores(affinity()), cgroup_quota())))


def affinity() -> frozenset[int]:
    """Numbers of the logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def physical_cores(processors: frozenset[int], system: Path = SYSTEM) -> int:
    """Number of cores that `processors` belong to; each processor counts as a core where the system does not say."""
    cores = set()
    for number in processors:
        try:
            cores.add((system / f"cpu{number}/topology/thread_siblings_list").read_text().strip())
        except OSError:
            cores.add(str(number))
    return len(cores)


def cgroup_quota(membership: Path = Path("/proc/self/cgroup"), root: Path = CGROUPS) -> float:
    """CPUs' worth of time that the container may use; infinite without a limit.

    Reads cpu.max (version 2: https://docs.kernel.org/admin-guide/cgroup-v2.html) or cpu.cfs_quota_us (version 1) of the
    process's group and of every group above it; the tightest limit applies.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return math.inf
    quota = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root if not controllers else root / "cpu"
        group = base / path.lstrip("/")
        # Inside a container the path is often the host's, and the group's files are at the root.
        for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(base))):
            quota = min(quota, _limit(folder))
    return quota


def _limit(folder: Path) -> float:
    for name in ("cpu.max", "cpu.cfs_quota_us"):
        try:
            words = (folder / name).read_text().split()
            quota, period = words if len(words) == 2 else (words[0], (folder / "cpu.cfs_period_us").read_text())
        except (OSError, IndexError):
            continue
        if quota not in ("max", "-1"):
            return int(quota) / int(period)
    return math.inf


@functools.cache
def instruction_sets(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The members of INSTRUCTION_SETS that this processor has; empty where the system does not say."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return frozenset()
    words = {word for line in text.splitlines() if line.lower().startswith(("flags", "features")) for word in line.split()}
    return INSTRUCTION_SETS & words


@functools.cache
def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as Linux gives it; elsewhere what the platform calls it."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, names), "") or platform.processor() or platform.machine() or "unknown"


def description() -> str:
    """The processor, its usable cores and its instruction sets in one line, to go with figures that were measured on it."""
    return f"{processor()}, {usable_cores()} usable cores, {' '.join(sorted(instruction_sets()))}"
