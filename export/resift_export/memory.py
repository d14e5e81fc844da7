"""memory: what the process holds and no longer needs goes back to the system. Does nothing but on Linux."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path

DONT_NEED = 4
"""MADV_DONTNEED: pages of a file are read again when needed (https://man7.org/linux/man-pages/man2/madvise.2.html)."""
MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+ +(/.*)")
"""A line of /proc/self/maps that names a file: https://man7.org/linux/man-pages/man5/proc_pid_maps.5.html"""


def give_back() -> None:
    """Gives back what glibc keeps of freed memory: of activations, a gigabyte at 568M parameters."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def unload(folder: Path) -> None:
    """Gives back the memory of the files below `folder` that are mapped, whether or not something still refers to it.

    What was written to a private mapping, rather than to its file, is lost.
    """
    if sys.platform != "linux":
        return
    files = {os.path.realpath(path) for path in folder.rglob("*")}
    advise = ctypes.CDLL(None).madvise
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        if (found := MAPPING.fullmatch(line)) and found[3] in files:
            start, end = int(found[1], 16), int(found[2], 16)
            advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), DONT_NEED)
