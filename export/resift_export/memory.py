"""memory: freed memory that goes back to the system."""

from __future__ import annotations

import ctypes
import sys


def give_back() -> None:
    """Gives back what glibc keeps of freed memory: of activations, a gigabyte at 568M parameters. Elsewhere, does nothing."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
