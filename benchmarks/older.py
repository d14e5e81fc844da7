"""Runs a command as if its processor had no AVX-512, VNNI and AMX: what an AVX2 machine computes, and its speed relative to others.

    python -m benchmarks.older python -m benchmarks --candidates 30
    python -m benchmarks.older resift verify

Linux on x86 with CPUID faulting (cpuid_fault in /proc/cpuinfo) and a C compiler. The command and all that it starts are changed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
NEWER = re.compile(r"\b(avx512\w*|avx_\w+|amx_\w+)\b")
"""Linux's names of the instruction sets that are hidden."""


def build(folder: Path) -> Path:
    """The library to preload, compiled into `folder`."""
    library = folder / "older.so"
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("older.c"), "-ldl"], check=True)
    return library


def main() -> int:
    if not sys.argv[1:]:
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        library, cpuinfo = build(Path(folder)), Path(folder) / "cpuinfo"
        cpuinfo.write_text(NEWER.sub("", CPUINFO.read_text()))
        older = {**os.environ, "LD_PRELOAD": str(library), "OLDER_CPUINFO": str(cpuinfo)}
        return subprocess.run(sys.argv[1:], env=older, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
