"""The embedded model where int8 products are summed in 16 bits: AVX2 without VNNI, as benchmarks/older.py shows it to a process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from conftest import REPOSITORY
from resift.parity import Bounds


def test_the_certificate_holds_without_vnni():
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "cpuid_fault" not in cpuinfo or not shutil.which(os.environ.get("CC", "cc")):
        pytest.skip("needs Linux on x86 with cpuid_fault, and a C compiler")
    verify = [Path(sysconfig.get_path("scripts")) / "resift", "verify", "--json"]
    older = [sys.executable, "-m", "benchmarks.older", *verify]
    done = subprocess.run(older, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    if "cannot make CPUID fault" in done.stderr:
        pytest.skip("this kernel does not let CPUID fault")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["agreement"]["tau"] > Bounds().tau
    assert found["variant"] == "model.int8.onnx"
    seen = "from resift.machine import instruction_sets; print(*instruction_sets())"
    done = subprocess.run([*older[:3], sys.executable, "-c", seen], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not {word for word in done.stdout.split() if word.startswith(("avx512", "avx_", "amx_"))}
    if "avx512_vnni" in cpuinfo:  # then other kernels ran: some logits moved, and none far
        assert 0 < found["largest_change_since_export"] < 0.3
