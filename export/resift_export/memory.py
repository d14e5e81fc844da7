"""memory: returns memory that the process no longer needs to the system. On other systems than Linux, it does nothing."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

DONT_NEED = 4
"""MADV_DONTNEED: pages of a file are read again when needed (https://man7.org/linux/man-pages/man2/madvise.2.html)."""
MAPPED_FILE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+ +/.*")
"""A line of /proc/self/maps: https://man7.org/linux/man-pages/man5/proc_pid_maps.5.html"""


def trim_heap() -> None:
    """Returns the freed memory that glibc retains, which is up to a gigabyte of activations."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def unload(addresses: Collection[int]) -> None:
    """Releases the memory of the file mappings that contain the addresses; the files stay mapped.

    Changes that were written to a private mapping, and therefore not to its file, are lost. Other mappings of the same file are
    not touched.
    """
    if sys.platform != "linux":
        return
    advise = ctypes.CDLL(None).madvise
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        if mapping := MAPPED_FILE.fullmatch(line):
            start, end = int(mapping[1], 16), int(mapping[2], 16)
            if any(start <= address < end for address in addresses):
                advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), DONT_NEED)
