"""Machine: the cores this process may use, and their instruction sets."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import platform
import struct
import sys
import sysconfig
from pathlib import Path
from typing import Any

SYSTEM = Path("/sys/devices/system/cpu")
CGROUPS = Path("/sys/fs/cgroup")
OF_X86 = frozenset({"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8"})
OF_ARM = frozenset({"asimd", "asimddp", "i8mm"})
"""The instruction sets that decide which int8 and bfloat16 kernels run, by the names Linux gives them."""
WINDOWS_FEATURES = {"avx2": 40, "avx512f": 41, "asimd": 19, "asimddp": 43, "i8mm": 66}
"""Those of which Windows tells:
https://learn.microsoft.com/windows/win32/api/processthreadsapi/nf-processthreadsapi-isprocessorfeaturepresent"""
MACOS_FEATURES = {
    "avx2": "hw.optional.avx2_0",
    "avx512f": "hw.optional.avx512f",
    "asimd": "hw.optional.AdvSIMD",
    "asimddp": "hw.optional.arm.FEAT_DotProd",
    "i8mm": "hw.optional.arm.FEAT_I8MM",
}
"""Those of which macOS tells:
https://developer.apple.com/documentation/kernel/1387446-sysctlbyname/determining_instruction_set_characteristics"""
GROUP = 64
"""Logical processors of a processor group of Windows."""


def usable_cores() -> int:
    """Physical cores that this process may use, within its affinity and its cgroup's quota; at least 1.

    The hardware threads of a core share its multipliers, so a second one does not speed up a matrix product.
    """
    return max(1, math.ceil(min(physical_cores(affinity()), cgroup_quota())))


def affinity() -> frozenset[int]:
    """Numbers of the logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    everything = frozenset(range(os.cpu_count() or 1))
    return (everything & _windows_affinity() or everything) if sys.platform == "win32" else everything


def physical_cores(processors: frozenset[int], system: Path = SYSTEM) -> int:
    """Number of cores that `processors` belong to; each processor counts as a core where the system does not say."""
    if sys.platform == "win32":
        return sum(not processors.isdisjoint(core) for core in _windows_cores()) or len(processors)
    if sys.platform == "darwin":
        return min(len(processors), int.from_bytes(_sysctl("hw.physicalcpu"), "little") or len(processors))
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
    """Those of OF_X86 or OF_ARM that this processor has, as far as the system says.

    A process for x86 that an ARM processor runs by translation has none of ARM's, whatever the system shows.
    """
    return _features(cpuinfo) & (OF_ARM if _is_arm() else OF_X86)


def _features(cpuinfo: Path) -> frozenset[str]:
    if sys.platform == "win32":
        kernel = _kernel()
        return frozenset(name for name, number in WINDOWS_FEATURES.items() if kernel.IsProcessorFeaturePresent(number))
    if sys.platform == "darwin":
        return frozenset(name for name, key in MACOS_FEATURES.items() if any(_sysctl(key)))
    try:
        text = cpuinfo.read_text()
    except OSError:
        return frozenset()
    return frozenset(word for line in text.splitlines() if line.lower().startswith(("flags", "features")) for word in line.split())


def _is_arm() -> bool:
    """Whether this process runs ARM's instructions. On Windows, `platform.machine` may name the processor, not the process."""
    name = sysconfig.get_platform() if sys.platform == "win32" else platform.machine()
    return name.endswith(("arm64", "aarch64"))


@functools.cache
def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as Linux or macOS gives it; elsewhere what the platform calls it."""
    if sys.platform == "darwin" and (name := _sysctl("machdep.cpu.brand_string")):
        return name.rstrip(b"\0").decode(errors="replace")
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, names), "") or platform.processor() or platform.machine() or "unknown"


def description() -> str:
    """The processor, its usable cores and its instruction sets in one line, to go with figures that were measured on it."""
    return f"{processor()}, {usable_cores()} usable cores, {' '.join(sorted(instruction_sets()))}"


def _kernel() -> Any:
    """The functions of kernel32, which only Windows has."""
    if sys.platform != "win32":
        raise NotImplementedError
    return ctypes.WinDLL("kernel32")


def _windows_affinity() -> frozenset[int]:
    """The logical processors that this process may run on; empty for a process in several processor groups."""
    kernel = _kernel()
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    process, system = ctypes.c_size_t(), ctypes.c_size_t()
    handle = ctypes.c_void_p(kernel.GetCurrentProcess())
    if not kernel.GetProcessAffinityMask(handle, ctypes.byref(process), ctypes.byref(system)):
        return frozenset()
    return frozenset() if (os.cpu_count() or 1) > GROUP else _bits(process.value)


def _windows_cores() -> list[frozenset[int]]:
    """The logical processors of each core; empty if the system does not say.

    https://learn.microsoft.com/windows/win32/api/sysinfoapi/nf-sysinfoapi-getlogicalprocessorinformationex
    """
    kernel = _kernel()
    size = ctypes.c_uint32()
    kernel.GetLogicalProcessorInformationEx(0, None, ctypes.byref(size))  # 0: RelationProcessorCore
    buffer = ctypes.create_string_buffer(size.value)
    if not kernel.GetLogicalProcessorInformationEx(0, buffer, ctypes.byref(size)):
        return []
    mask = struct.Struct("<QH6x" if struct.calcsize("P") == 8 else "<IH6x")  # GROUP_AFFINITY
    cores, at = [], 0
    while at < size.value:
        _, length, groups = struct.unpack_from("<II22xH", buffer, at)
        masks = [mask.unpack_from(buffer, at + 32 + mask.size * number) for number in range(groups)]
        cores.append(frozenset(GROUP * group + bit for bits, group in masks for bit in _bits(bits)))
        at += length
    return cores


def _bits(mask: int) -> frozenset[int]:
    return frozenset(bit for bit in range(mask.bit_length()) if mask >> bit & 1)


def _sysctl(name: str) -> bytes:
    """The value of a name of sysctlbyname(3); empty if macOS does not have it."""
    system = ctypes.CDLL(None)
    size = ctypes.c_size_t()
    if system.sysctlbyname(name.encode(), None, ctypes.byref(size), None, 0):
        return b""
    value = ctypes.create_string_buffer(size.value)
    return b"" if system.sysctlbyname(name.encode(), value, ctypes.byref(size), None, 0) else value.raw[: size.value]
