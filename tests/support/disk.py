"""What a program has written to the disk, and in which order it renamed files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DESCRIPTORS = Path("/proc/self/fd")
linux = pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="names of open files are read from /proc")


def opened(descriptor: int) -> Path:
    """The file that a descriptor is of."""
    return (DESCRIPTORS / str(descriptor)).readlink()


def recorded_steps(monkeypatch) -> list[tuple[str, str]]:
    """A list that is filled with what is written to the disk and renamed from now on, in order."""
    seen, synchronize, rename = [], os.fsync, os.replace

    def fsync(descriptor):
        seen.append(("on disk", opened(descriptor).name))
        synchronize(descriptor)

    def replace(source, target):
        rename(source, target)
        seen.append(("renamed", Path(target).name))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    return seen
