"""The README's Python example runs and prints the right document first."""

from __future__ import annotations

import re

from tests.conftest import REPOSITORY


def test_the_python_example_runs(capsys):
    block = re.search(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    exec(compile(block[1], "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("1 ")
    assert len(block[1].strip().splitlines()) <= 9
