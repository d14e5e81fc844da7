"""Files that are read whole end a run with one line, not with the memory, where they have no end."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from resift import InputError
from resift.files.whole import read_toml, read_whole
from tests.support.commands import complaint, resift

ZERO = Path("/dev/zero")
endless = pytest.mark.skipif(not ZERO.exists(), reason=f"this system has no {ZERO}")
posix = pytest.mark.skipif(os.name != "posix", reason="named pipes as POSIX has them")


@pytest.fixture
def pipe(tmp_path):
    """pipe(content): a named pipe into which a thread writes the content."""

    def write(path, content):
        with suppress(BrokenPipeError):  # once the reader has read enough
            path.write_bytes(content)

    def of(content):
        path = tmp_path / "pipe"
        os.mkfifo(path)
        threading.Thread(target=write, args=[path, content], daemon=True).start()
        return path

    return of


@pytest.mark.parametrize(("size", "is_read"), [(0, True), (8, True), (9, False)])
def test_a_file_is_read_up_to_the_limit(file, size, is_read):
    path = file(b"x" * size)
    if is_read:
        assert read_whole(path, 8) == b"x" * size
    else:
        with pytest.raises(OSError, match="it has more than 8 bytes"):
            read_whole(path, 8)


@posix
def test_a_pipe_is_read_to_its_end(pipe):
    assert read_toml(pipe(b"port = 1")) == {"port": 1}


@posix
def test_a_pipe_is_not_read_for_ever(pipe):
    with pytest.raises(InputError, match="it has more than 65536 bytes"):
        read_toml(pipe(b"#" * (1 << 22)))


@endless
@pytest.mark.parametrize(
    "command", [["serve", "--config"], ["serve", "--settings"], ["info", "--settings"], ["tune", "x", "--check"]], ids=" ".join
)
def test_a_settings_file_without_an_end_is_one_line(command):
    assert f"the settings file {ZERO} cannot be read: it has more than 65536 bytes" in complaint(resift(*command, ZERO))


def test_a_configuration_that_is_a_folder_is_one_line():
    assert "cannot be read: Is a directory" in complaint(resift("serve", "--config", "."))
