"""Which execution provider runs which of an artifact's graphs: what was asked for, against what there is."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Literal

from resift.errors import ProviderError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from resift.manifest import Variant
    from resift.settings import Auto, Precision

Provider = Literal["cpu", "cuda"]
ORT_NAMES: dict[Provider, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
SUITED: dict[Provider, tuple[Precision, ...]] = {"cpu": ("int8", "float32"), "cuda": ("float32",)}
"""The precisions a provider runs, fastest first: the int8 operators have kernels for the CPU only."""

TOKEN_BUDGETS: dict[Provider, int] = {"cpu": 256, "cuda": 4096}
"""Token vectors of one batch (rows x width). On a CPU what stays in a core's cache is fastest (1 to 4096 tried on AVX-512 with
VNNI) and is spread best over cores; a GPU wants to be filled (not measured yet)."""


def runtime() -> ModuleType:
    """onnxruntime, imported when first needed and with its telemetry off.

    From 1.29 on it sends usage events from a thread that starts at import
    (https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md). A reranker has no business to, and a forked process waits
    for that thread for ever when it ends. ORT_DISABLE_TELEMETRY=0 in the environment leaves it on.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    module: ModuleType = onnxruntime
    return module


def available() -> list[str]:
    """Names of the execution providers of the installed onnxruntime."""
    return list(runtime().get_available_providers())


def check_version(oldest: str) -> None:
    """Raises ProviderError if the installed onnxruntime is older than `oldest`, x.y.z."""
    found = runtime().__version__
    if _numbers(found) < _numbers(oldest):
        raise ProviderError(f"onnxruntime {found} is installed, this artifact needs {oldest} or newer: pip install -U onnxruntime")


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"[0-9]+", version)[:3]]


def choose(
    asked: str, precision: Precision | Auto, *, available: Sequence[str], variants: Sequence[Variant]
) -> tuple[Provider, Variant]:
    """The provider and the variant to run.

    `available` are onnxruntime's names, `variants` those that this machine has the instruction sets for, best first. "auto" takes
    CUDA where it is there and has a variant to run, the CPU otherwise; of several variants it takes the provider's fastest
    precision and of that the first. Raises ProviderError where what was asked for cannot be had.
    """
    if asked not in ("auto", *ORT_NAMES):
        raise ProviderError(f"provider is {asked!r}; expected 'auto', 'cpu' or 'cuda'")
    wanted: list[Provider] = ["cuda", "cpu"] if asked == "auto" else ["cpu" if asked == "cpu" else "cuda"]
    reasons = []
    for provider in wanted:
        if ORT_NAMES[provider] not in available:
            reasons.append(
                f"the installed onnxruntime has no {ORT_NAMES[provider]} (it has {', '.join(available)}): "
                f"{'install onnxruntime-gpu in its place' if provider == 'cuda' else 'reinstall onnxruntime'}"
            )
            continue
        suited = [kind for kind in SUITED[provider] if precision in ("auto", kind)]
        if not suited:
            reasons.append(f"{provider} does not run {precision}; ask for {' or '.join(SUITED[provider])}, or another provider")
            continue
        fastest_first = [variant for kind in suited for variant in variants if variant.precision == kind]
        if fastest_first:
            return provider, fastest_first[0]
        offered = dict.fromkeys(variant.precision for variant in variants)
        reasons.append(
            f"{provider} needs {' or '.join(suited)}, and this artifact has {', '.join(offered) or 'no graph'} for this machine: "
            "export the checkpoint again with --precision int8,float32"
        )
    raise ProviderError("; ".join(reasons))
