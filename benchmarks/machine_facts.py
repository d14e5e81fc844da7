"""The machine on which figures were measured."""

from __future__ import annotations

import os
import platform

from resift import machine


def machine_facts() -> dict[str, str | int | None]:
    return {
        "processor": machine.processor(),
        "cores": os.cpu_count(),
        "usable_cores": machine.usable_cores(),
        "instruction_sets": " ".join(sorted(machine.instruction_sets())),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
