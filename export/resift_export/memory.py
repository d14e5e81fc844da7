"""memory: what the process holds and no longer needs goes back to the system. Does nothing but on Linux."""

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


def give_back() -> None:
    """Gives back what glibc keeps of freed memory: of activations, up to a gigabyte."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def unload(addresses: Collection[int]) -> None:
    """Gives back the memory of those mappings of files that the addresses are in, though they stay mapped.

    What was written to a private mapping, rather than to its file, is lost; other mappings of the same file are left alone.
    """
    if sys.platform != "linux":
        return
    advise = ctypes.CDLL(None).madvise
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        if found := MAPPED_FILE.fullmatch(line):
            start, end = int(found[1], 16), int(found[2], 16)
            if any(start <= address < end for address in addresses):
                advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), DONT_NEED)
