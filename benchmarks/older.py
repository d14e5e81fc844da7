"""Runs a command as if the processor had no AVX-512, VNNI or AMX: gives the results of an AVX2 machine, and its ratios of speed.

    python -m benchmarks older python -m benchmarks compare --folder .bench/older
    python -m benchmarks older resift verify

Both CPUID and /proc/cpuinfo are changed, so that an artifact's variant is chosen as on such a machine.

Needs Linux on x86 with CPUID faulting (cpuid_fault in /proc/cpuinfo) and a C compiler. Applies to the command and every process it
starts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def build(folder: Path) -> Path:
    """The library to preload, compiled into `folder`."""
    library = folder / "older.so"
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("older.c")], check=True)
    return library


def main() -> int:
    if not sys.argv[1:]:
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        library = build(Path(folder))
        return subprocess.run(sys.argv[1:], env={**os.environ, "LD_PRELOAD": str(library)}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
