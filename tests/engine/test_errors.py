"""What is quoted of another library's error."""

from __future__ import annotations

import pytest

from resift.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  \n two "), "two"),
        (ValueError(""), "ValueError"),
        (ValueError(), "ValueError"),
        (KeyError("name"), "'name'"),
        (RuntimeError("a" * 1000), "a" * 300),
    ],
)
def test_the_first_line_that_says_something(error, line):
    assert first_line(error) == line
