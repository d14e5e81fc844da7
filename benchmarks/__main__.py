"""Lists and runs the benchmarks.

python -m benchmarks                       what there is
python -m benchmarks NAME [ARGUMENTS]      runs one, below a line on standard error with machine and versions; -h prints its options
"""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

from benchmarks.machine_facts import header

HERE = Path(__file__).parent
BY_PYTEST = {"stages": "python -m pytest -n0 benchmarks/stages"}
"""Benchmarks that another command runs."""


def names() -> dict[str, Path]:
    """Every benchmark and the file that its command runs: modules with a `main`, and packages with a __main__.py."""
    files = {file.stem: file for file in HERE.glob("*.py") if not file.stem.startswith("_")}
    files |= {file.parent.name: file for file in HERE.glob("*/__main__.py")}
    return {name: file for name, file in sorted(files.items()) if "__main__" in file.read_text(encoding="utf-8")}


def summary(file: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def listing() -> str:
    found = names()
    width = max(map(len, found)) + 2
    lines = [f"  {name:{width}}{summary(file)}" for name, file in found.items()]
    return "\n".join([__doc__ or "", *lines, *(f"  {name:{width}}{command}" for name, command in BY_PYTEST.items())])


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(listing())
        return 0
    name = sys.argv[1]
    if name not in names():
        print(f"there is no benchmark {name!r}; expected one of {', '.join(names())}", file=sys.stderr)
        return 2
    sys.argv = [f"python -m benchmarks {name}", *sys.argv[2:]]
    print(header(), file=sys.stderr, flush=True)
    runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
