"""What takes its place is on the disk before it does, and its name after."""

from __future__ import annotations

import errno
import os

import pytest

from resift.files.placing import place
from tests.support.disk import linux, opened, recorded_steps


@pytest.fixture
def steps(monkeypatch):
    return recorded_steps(monkeypatch)


@linux
def test_a_file_is_on_the_disk_before_it_is_renamed_and_its_folder_after(tmp_path, steps):
    (tmp_path / "fresh").write_text("new")
    (tmp_path / "old").write_text("old")
    place(tmp_path / "fresh", tmp_path / "old")
    assert (tmp_path / "old").read_text() == "new"
    assert steps == [("on disk", "fresh"), ("renamed", "old"), ("on disk", tmp_path.name)]


@linux
def test_all_files_of_a_folder_are(tmp_path, steps):
    (tmp_path / "fresh" / "inner").mkdir(parents=True)
    for name in ("a", "inner/b"):
        (tmp_path / "fresh" / name).write_text(name)
    place(tmp_path / "fresh", tmp_path / "out")
    assert (tmp_path / "out" / "inner" / "b").read_text() == "inner/b"
    assert steps == [("on disk", "a"), ("on disk", "b"), ("renamed", "out"), ("on disk", tmp_path.name)]


@linux
@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_only_a_file_system_without_it_may_leave_the_folder_out(tmp_path, monkeypatch, code):
    synchronize = os.fsync

    def fsync(descriptor):
        if opened(descriptor).is_dir():
            raise OSError(code, os.strerror(code))
        synchronize(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    (tmp_path / "fresh").write_text("new")
    if code == errno.EINVAL:
        place(tmp_path / "fresh", tmp_path / "out")
    else:
        with pytest.raises(OSError, match=os.strerror(code)):
            place(tmp_path / "fresh", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "new"
