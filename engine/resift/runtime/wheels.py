"""Wheels: which distributions hold the package `onnxruntime`, and what to do where it is missing, broken or without a provider."""

from __future__ import annotations

import functools
import logging
import os
import platform
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from resift.settings import Provider

log = logging.getLogger(__name__)


class Wheel(NamedTuple):
    """What brings an execution provider, and where it runs."""

    requirement: str
    systems: tuple[str, ...] = ("linux", "win32", "darwin")
    """as in sys.platform"""


WHEELS: dict[Provider, Wheel] = {
    "cpu": Wheel("onnxruntime"),
    "cuda": Wheel("onnxruntime-gpu", ("linux", "win32")),
    "tensorrt": Wheel("onnxruntime-gpu", ("linux", "win32")),
    "openvino": Wheel("onnxruntime-openvino", ("linux", "win32")),
    "dml": Wheel("onnxruntime-directml", ("win32",)),
    # From 2.0 on, onnxruntime-qnn holds a plugin for onnxruntime, not onnxruntime itself.
    "qnn": Wheel("'onnxruntime-qnn<2'", ("win32",)),
    "coreml": Wheel("onnxruntime", ("darwin",)),
}
SYSTEMS = {"linux": "Linux", "win32": "Windows", "darwin": "macOS"}
NEWEST_PYTHON = (3, 14)
OLDEST_GLIBC = (2, 27)
NEWEST_PYTHON_ON_INTEL_MACS = (3, 13)
"""The limits of onnxruntime's wheels from 1.20 to 1.32, as PyPI lists them."""


def installed() -> list[str]:
    """Names of the distributions whose files are in the folder of the package `onnxruntime`, sorted; none if it is missing.

    Those that hold another package, such as onnxruntime-genai, are none of them.
    """
    from importlib.metadata import Distribution  # takes longer to import than this module

    spec = find_spec("onnxruntime")
    folder = next(iter((spec and spec.submodule_search_locations) or ()), None)
    if folder is None:
        return []
    found = [
        Distribution.at(path) for prefix in ("onnxruntime", "ort") for path in Path(folder).parent.glob(f"{prefix}*.dist-info")
    ]
    return sorted(each.metadata["Name"] for each in found if "\nonnxruntime/__init__.py," in f"\n{each.read_text('RECORD') or ''}")


def exchange(requirement: str) -> str:
    """The commands that install a wheel of onnxruntime in place of those that are installed."""
    names = installed()
    return f"pip uninstall -y {' '.join(names)}, then pip install {requirement}" if names else f"pip install {requirement}"


def mend() -> str:
    """What to do where onnxruntime cannot be imported."""
    names = installed()
    if len(names) > 1:
        return _of_several(names)
    if names:
        return f"pip install --force-reinstall {names[0]}"
    return unsupported() or "pip install --force-reinstall onnxruntime"


def advice(provider: Provider) -> str:
    """What to do where the installed onnxruntime lacks an execution provider."""
    requirement, systems = WHEELS[provider]
    if sys.platform not in systems:
        return f"{provider} runs on {' and '.join(SYSTEMS[each] for each in systems)} only; use the provider cpu"
    return "reinstall onnxruntime" if installed() == [requirement] else exchange(requirement)


@functools.cache
def warn_of_several() -> None:
    """Logs, once a process, that several distributions are installed over each other; which one runs is chance."""
    names = installed()
    if len(names) > 1:
        log.warning("%s", _of_several(names))


def _of_several(names: list[str]) -> str:
    one = next((name for name in names if name != "onnxruntime"), names[0])
    return (
        f"{' and '.join(names)} are installed over each other, in one folder; expected one of them: "
        f"pip uninstall -y {' '.join(names)}, then pip install {one}"
    )


def unsupported() -> str | None:
    """Why onnxruntime has no wheel for this Python or system, and what to do; None if it has one."""
    python = sys.version_info[:2]
    if sys.platform not in SYSTEMS:
        return f"it has no wheels for {sys.platform}, only for {', '.join(SYSTEMS.values())}"
    if python > NEWEST_PYTHON:
        newest = ".".join(map(str, NEWEST_PYTHON))
        return f"it had no wheels for Python {python[0]}.{python[1]} when this resift was released: use Python {newest} or older"
    if sys.maxsize < 1 << 32:
        return "it has no newer wheel than 1.20 for 32 bits, and that for Windows only: use a 64-bit Python"
    if sys.platform == "darwin" and platform.machine() == "x86_64" and python > NEWEST_PYTHON_ON_INTEL_MACS:
        return "it has no wheels for Intel Macs and this Python: use Python 3.13 or older"
    return _unsupported_libc() if sys.platform == "linux" else None


def _unsupported_libc() -> str | None:
    libc = glibc()
    if libc is None:
        return "it has no wheels for a Linux without glibc, such as Alpine: use one with glibc, such as Debian"
    if libc < OLDEST_GLIBC:
        return f"it has no wheels for glibc {libc[0]}.{libc[1]}, only for 2.27 and newer: use a newer Linux"
    return None


def glibc() -> tuple[int, int] | None:
    """The version of the C library; None if it is not glibc."""
    try:
        name = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, OSError, ValueError):
        return None
    found = re.match(r"glibc (\d+)\.(\d+)", name)
    return (int(found[1]), int(found[2])) if found else None
