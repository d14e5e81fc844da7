"""The embedded model on AVX2 without VNNI, where int8 products are summed in 16 bits, as simulated by benchmarks/older.py."""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

from resift.artifact.agreement import Bounds
from tests.conftest import REPOSITORY
from tests.support import children

FOPEN = """
import ctypes
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
content, stream = ctypes.create_string_buffer(1 << 24), libc.fopen(b"/proc/cpuinfo", b"r")
libc.fread(content, 1, len(content) - 1, ctypes.c_void_p(stream))
print(content.value.decode(), end='')
"""
"""Reads /proc/cpuinfo through C's buffered streams, as C++ libraries do."""
NEWER = ("avx512", "avx10", "avx_vnni", "avx_ifma", "avx_ne_convert", "amx_")
HIDDEN = {"avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8"}


@pytest.fixture(scope="module")
def older():
    """older(*command): the command's output with instruction sets newer than AVX2 hidden; skips if that is impossible."""
    if "cpuid_fault" not in cpuinfo() or not shutil.which(os.environ.get("CC", "cc")):
        pytest.skip("needs Linux on x86 with cpuid_fault, and a C compiler")

    def run(*command) -> str:
        asked = [sys.executable, "-m", "benchmarks.older", *command]
        done = children.run(asked, cwd=REPOSITORY, capture_output=True, text=True)
        if "cannot make CPUID fault" in done.stderr:
            pytest.skip("this kernel does not let CPUID fault")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def cpuinfo() -> str:
    """/proc/cpuinfo with nothing hidden; empty if there is none."""
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def test_the_engine_sees_an_older_processor(older):
    printed = older(sys.executable, "-c", "from resift.machine import instruction_sets; print(*sorted(instruction_sets()))")
    assert "avx2" in printed.split()
    assert HIDDEN.isdisjoint(printed.split())


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["cat", "/proc/cpuinfo"], id="openat or open"),
        pytest.param(
            [sys.executable, "-c", "print(open('/proc/cpuinfo').read(), end='')"],
            id="open64",
        ),
        pytest.param([sys.executable, "-c", FOPEN], id="fopen"),
    ],
)
def test_nothing_else_in_proc_cpuinfo_changes(older, command):
    found = older(*command)
    words = set(found.split())
    assert "avx2" in words
    assert not {word for word in words if word.startswith(NEWER)}
    assert older_lines(found) == older_lines(cpuinfo())


def older_lines(text: str) -> list[list[str]]:
    """The words of each line that does not change between readings, without the names of newer instruction sets."""
    lines = [line for line in text.splitlines() if not line.startswith(("cpu MHz", "bogomips"))]
    return [[word for word in line.split() if not word.startswith(NEWER)] for line in lines]


def test_the_certificate_holds_without_vnni(older):
    found = json.loads(older(Path(sysconfig.get_path("scripts")) / "resift", "verify", "--json"))
    assert found["agreement"]["tau"] > Bounds().tau
    if "avx512_vnni" in cpuinfo():  # then other kernels ran: some logits changed, but only slightly
        assert 0 < found["largest_change_since_export"] < 0.3
