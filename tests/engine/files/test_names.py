"""What no file can be called is refused where it is given, whoever opens it later."""

from __future__ import annotations

from pathlib import Path

import pytest

from resift.errors import InputError, OutputError
from resift.files.names import is_file_name
from resift.files.outputs import check_outputs, write_whole
from resift.pools.job import Job
from resift.pools.reading import Lines

NO_NAMES = ["a\0", "\ud800"]


@pytest.mark.parametrize("name", ["a", "a b\n", "\udcff", "ü/" * 3000, Path("a")])
def test_a_name_that_a_file_can_have(name):
    assert is_file_name(name)


@pytest.mark.parametrize("name", ["", *NO_NAMES])
def test_a_name_that_none_can_have(name):
    assert not is_file_name(name)


@pytest.mark.parametrize("name", NO_NAMES)
def test_it_is_refused(name):
    with pytest.raises(InputError, match="not a file name"):
        list(Lines(name))
    for source, out in ((name, "out"), ("pools", name)):
        with pytest.raises(InputError, match="expected file names"):
            Job(source=source, out=Path(out))
    with pytest.raises(OutputError, match="not a file name"):
        check_outputs([Path(name)], [], overwrite=False, closed=lambda folder: None)
    with pytest.raises(OutputError, match="not a file name"):
        write_whole(name, b"")
