"""The machine on which figures were measured, and the header that names it above them."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version

from resift import machine
from resift.runtime.wheels import installed

PACKAGES = ("resift", "tokenizers", "numpy")
"""Whose versions the header has, beside that of the wheel with onnxruntime."""


def machine_facts() -> dict[str, str | int | None]:
    return {
        "processor": machine.processor(),
        "cores": os.cpu_count(),
        "usable_cores": machine.usable_cores(),
        "instruction_sets": " ".join(sorted(machine.instruction_sets())),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def header() -> str:
    """The machine and the versions, as one line."""
    return "# " + json.dumps({**machine_facts(), **{name: version(name) for name in (*PACKAGES, *installed())}})
