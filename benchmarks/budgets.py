"""Compares an installation of resift with its budgets: megabytes, import time, imported modules.

    python -m benchmarks budgets

Run it with the interpreter of a fresh environment that contains only resift. Exit code 1 if a budget is exceeded.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import sysconfig
from pathlib import Path

SIZE_MB = 210
"""Budget for the size of site-packages, without pip, setuptools and the embedded model."""
IMPORT_SECONDS = 0.15
"""Budget for the time of `from resift import Reranker`, once numpy is imported."""
REPEATS = 15
HEAVY_MODULES = (
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "tokenizers",
    "huggingface_hub",
    "fastapi",
    "matplotlib",
    "resift_export",
)
"""Modules that `from resift import Reranker` must not import."""
UNCOUNTED = ("pip", "setuptools", "resift_models")
IMPORT = "import time, numpy; start = time.perf_counter(); from resift import Reranker; print(time.perf_counter() - start)"


def main() -> int:
    sizes = {path.name: megabytes(path) for path in Path(sysconfig.get_path("purelib")).iterdir()}
    counted = {name: size for name, size in sizes.items() if not name.startswith(UNCOUNTED)}
    total = sum(counted.values())
    largest = sorted(counted.items(), key=lambda item: -item[1])[:8]
    print(f"size    {total:6.1f} MB of {SIZE_MB}: " + ", ".join(f"{name} {size:.1f}" for name, size in largest))
    seconds = statistics.median(float(run_fresh(IMPORT)) for _ in range(REPEATS))
    print(f"import  {seconds:6.3f} s of {IMPORT_SECONDS} beyond numpy, median of {REPEATS}")
    pulled = f"[name for name in {HEAVY_MODULES} if name in sys.modules]"
    imported = run_fresh(f"import sys; from resift import Reranker; print(*{pulled})").split()
    print(f"pulls   {', '.join(imported) or 'none'} of {', '.join(HEAVY_MODULES)}")
    return int(total > SIZE_MB or seconds > IMPORT_SECONDS or bool(imported))


def megabytes(path: Path) -> float:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def run_fresh(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
