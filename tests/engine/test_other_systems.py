"""Windows and macOS, simulated: each test says which of their functions it stands in for."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

from resift import ExportError, OutputError, machine
from resift.artifact import folder as folders
from resift.artifact.folder import Artifact
from resift.cli import streams
from resift.files import placing
from resift.files.outputs import write_whole
from resift.runtime import providers

WINDOWS, MACOS = SimpleNamespace(platform="win32"), SimpleNamespace(platform="darwin")


# Files that another program holds: os.replace fails with the codes of Windows


def refusal(code):
    error = PermissionError(13, "The process cannot access the file", "file")
    error.winerror = code
    return error


@pytest.fixture
def held(monkeypatch):
    """held(times, code, names): the next renames of files of those names fail; returns the waits between the attempts."""
    rename, waits = os.replace, []

    def hold(times, code=32, names=None):
        def replace(source, target):
            nonlocal times
            if times and (names is None or Path(source).name in names):
                times -= 1
                raise refusal(code)
            rename(source, target)

        monkeypatch.setattr(os, "replace", replace)
        monkeypatch.setattr(placing, "time", SimpleNamespace(sleep=waits.append))
        return waits

    return hold


@pytest.mark.parametrize("code", [5, 32, 33])
@pytest.mark.parametrize("times", [0, 1, 6])
def test_a_file_that_is_held_for_a_moment_is_replaced_after_it(tmp_path, held, code, times):
    """Simulated: Windows' errors of os.replace, a number of times, and the waits after them."""
    (tmp_path / "out").write_text("old")
    waits = held(times, code)
    write_whole(tmp_path / "out", b"new")
    assert (tmp_path / "out").read_text() == "new"
    assert waits == list(placing.WAITS[:times])


def test_one_that_stays_held_is_one_line_after_a_bounded_wait(tmp_path, held):
    """Simulated: Windows' error of os.replace, at every attempt, and the waits after them."""
    (tmp_path / "out").write_text("old")
    waits = held(7)
    with pytest.raises(OutputError, match=r"out cannot be written: another program has it open, or a file in it: close it there"):
        write_whole(tmp_path / "out", b"new")
    assert waits == list(placing.WAITS)
    assert sum(waits) < 4
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_text() == "old"


@pytest.mark.parametrize("code", [None, 19])
def test_another_refusal_is_not_tried_again(tmp_path, held, code):
    """Simulated: errors of os.replace that are not those of a file in use."""
    waits = held(1, code)
    with pytest.raises(OutputError, match="The process cannot access the file"):
        write_whole(tmp_path / "out", b"new")
    assert waits == []


def test_an_artifact_that_is_held_stays_when_an_export_would_replace_it(tmp_path, held):
    """Simulated: Windows' error of os.replace for a folder in which a file is open, such as a graph that a server has loaded."""
    staging = pytest.importorskip("resift_export.build.staging")
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text('{"format": 2, "files": {"old": {}}}')
    waits = held(7, 5, names={"out"})
    with (
        pytest.raises(ExportError, match=r"cannot write .*out: another program has it open, or a file in it: close it there"),
        staging.staged(out, overwrite=True) as (fresh, _),
    ):
        (fresh / "manifest.json").write_text('{"format": 2, "files": {"new": {}}}')
    assert waits == list(placing.WAITS)
    assert {path.name: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == {
        "manifest.json": '{"format": 2, "files": {"old": {}}}'
    }


def test_no_graph_is_mapped_on_windows_so_that_its_file_can_be_replaced(artifact, monkeypatch):
    """Simulated: sys.platform of Windows."""
    monkeypatch.setattr(folders, "MAPPED_BYTES", 1)
    monkeypatch.setattr(providers, "sys", WINDOWS)
    opened = Artifact.open(artifact)
    graph = opened.read_graph(opened.manifest.full.variants[0], can_map=providers.can_map())
    assert isinstance(graph, bytes)


# Cores and instruction sets of Windows: functions of kernel32


def core(*masks):
    """The record of a core, with a mask of processors in each group."""
    affinities = b"".join(struct.pack("<QH6x", mask, group) for group, mask in masks)
    return struct.pack("<IIBB20xH", 0, 32 + len(affinities), 1, 0, len(masks)) + affinities


@pytest.fixture
def kernel(monkeypatch):
    """kernel(records, mask, features): the functions of kernel32 that tell of processors."""

    def install(records=(), mask=0, features=()):
        content = b"".join(records)

        def information(kind, buffer, size):
            assert kind == 0
            is_enough = buffer is not None and size._obj.value >= len(content)
            size._obj.value = len(content)
            if is_enough:
                ctypes.memmove(buffer, content, len(content))
            return int(is_enough and bool(content))

        def affinity(process, own, system):
            own._obj.value = mask
            return int(bool(mask))

        functions = SimpleNamespace(
            GetLogicalProcessorInformationEx=information,
            GetProcessAffinityMask=affinity,
            GetCurrentProcess=lambda: -1 & (1 << 64) - 1,
            IsProcessorFeaturePresent=lambda number: int(number in features),
        )
        functions.GetCurrentProcess.restype = None
        monkeypatch.setattr(machine, "sys", WINDOWS)
        monkeypatch.setattr(ctypes, "WinDLL", {"kernel32": functions}.__getitem__, raising=False)
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(machine, "instruction_sets", machine.instruction_sets.__wrapped__)

    return install


TWO_CORES = [core((0, 0b0011)), core((0, 0b1100))]
LAPTOP = [core((0, 0b11)), core((0, 0b100)), core((0, 0b1000))]
SERVER = [core((group, 0b11 << 2 * number)) for group in (0, 1) for number in range(32)]


@pytest.mark.skipif(sys.maxsize < 1 << 32, reason="masks of 64 bits")
@pytest.mark.parametrize(
    ("records", "processors", "mask", "cores"),
    [
        (TWO_CORES, 4, 0b1111, 2),
        (TWO_CORES, 4, 0b0011, 1),
        (TWO_CORES, 4, 0b0110, 2),
        (LAPTOP, 4, 0b1111, 3),
        (SERVER, 128, 0, 64),
        ([], 4, 0b1111, 4),
        (TWO_CORES, 4, 0, 2),
    ],
    ids=["all", "one core's", "one of each core", "a fast core and two slow", "two groups", "it does not tell", "no affinity"],
)
def test_physical_cores_of_windows(kernel, monkeypatch, records, processors, mask, cores):
    """Simulated: kernel32's records of cores and mask of affinity."""
    kernel(records, mask)
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    monkeypatch.setattr(machine, "cgroup_quota", lambda: float("inf"))
    assert machine.usable_cores() == cores


@pytest.mark.parametrize(
    ("python", "features", "found"),
    [
        ("win-amd64", (), set()),
        ("win-amd64", (40, 41), {"avx2", "avx512f"}),
        ("win-arm64", (19, 43, 66), {"asimd", "asimddp", "i8mm"}),
        ("win-amd64", (19, 40, 43), {"avx2"}),
        ("win-amd64", (6, 10, 17), set()),
    ],
    ids=["none", "x86", "ARM", "x86 translated on ARM", "others"],
)
def test_instruction_sets_of_windows(kernel, monkeypatch, python, features, found):
    """Simulated: kernel32's features, the Python that was built for x86 or ARM, and the machine's name."""
    kernel(features=features)
    monkeypatch.setattr(sysconfig, "get_platform", lambda: python)
    # It names the processor, not the process.
    monkeypatch.setattr(platform, "machine", lambda: "ARM64" if 19 in features else "AMD64")
    assert machine.instruction_sets() == found


# Of macOS: sysctlbyname


@pytest.fixture
def sysctl(monkeypatch):
    """sysctl(values, process): the function of macOS that tells a value of bytes by its name, and what runs the process."""

    def install(values, process="arm64"):
        def sysctlbyname(name, buffer, size, new, new_size):
            assert (new, new_size) == (None, 0)
            content = values.get(name.decode())
            if content is None:
                return -1
            if buffer is not None:
                ctypes.memmove(buffer, content, size._obj.value)
            size._obj.value = len(content)
            return 0

        monkeypatch.setattr(machine, "sys", MACOS)
        monkeypatch.setattr(ctypes, "CDLL", {None: SimpleNamespace(sysctlbyname=sysctlbyname)}.__getitem__)
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 8)
        monkeypatch.setattr(platform, "machine", lambda: process)
        for name in ("instruction_sets", "processor"):
            monkeypatch.setattr(machine, name, getattr(machine, name).__wrapped__)

    return install


YES, NO = (1).to_bytes(4, "little"), bytes(4)


@pytest.mark.parametrize(
    ("process", "sets"), [("arm64", {"asimd", "asimddp"}), ("x86_64", set())], ids=["native", "translated by Rosetta"]
)
def test_what_an_apple_processor_is(sysctl, monkeypatch, process, sets):
    """Simulated: sysctlbyname of an M1, seen by a process for ARM and by one for x86."""
    sysctl(
        {
            "hw.physicalcpu": (8).to_bytes(4, "little"),
            "hw.optional.AdvSIMD": YES,
            "hw.optional.arm.FEAT_DotProd": YES,
            "hw.optional.arm.FEAT_I8MM": NO,
            "machdep.cpu.brand_string": b"Apple M1\0",
        },
        process,
    )
    monkeypatch.setattr(machine, "cgroup_quota", lambda: float("inf"))
    assert (machine.usable_cores(), machine.instruction_sets(), machine.processor()) == (8, sets, "Apple M1")


def test_what_an_intel_mac_is(sysctl):
    """Simulated: sysctlbyname of an Intel Mac with AVX2."""
    sysctl({"hw.physicalcpu": (4).to_bytes(4, "little"), "hw.optional.avx2_0": YES, "hw.optional.avx512f": NO}, "x86_64")
    assert machine.physical_cores(machine.affinity()) == 4
    assert machine.instruction_sets() == {"avx2"}


def test_a_system_that_does_not_tell_has_its_logical_cores_and_no_instruction_sets(sysctl):
    """Simulated: a sysctlbyname that knows no name."""
    sysctl({})
    assert machine.physical_cores(machine.affinity()) == 8
    assert machine.instruction_sets() == frozenset()


# The console of Windows: a stream with the encoding of its code page


@pytest.mark.parametrize(("page", "expected"), [("cp850", b"resift: \x81 \\u6c34\n"), (None, "resift: ü 水\n".encode())])
def test_messages_are_in_the_consoles_code_page(tmp_path, monkeypatch, page, expected):
    """Simulated: sys.platform of Windows and a console with a code page, or none, as where stderr is a file."""
    path = tmp_path / "stderr"
    monkeypatch.setattr(os, "device_encoding", lambda descriptor: page)
    with path.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        monkeypatch.setattr(streams, "sys", SimpleNamespace(platform="win32", stderr=stream, stdout=sys.stdout))
        monkeypatch.setattr(sys, "stderr", stream)
        with streams.unfailing_stderr():
            streams.sys.stderr = sys.stderr
            streams.complain("ü 水")
    assert path.read_bytes().replace(b"\r\n", b"\n") == expected
