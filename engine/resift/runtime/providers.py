"""Execution providers: the choice of one and of a graph's variant, and each provider's policy."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resift.errors import ProviderError, importing
from resift.runtime import wheels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from resift.artifact.variant import Variant
    from resift.settings import Auto, Precision, Provider

ORT_NAMES: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "dml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "qnn": "QNNExecutionProvider",
}
PRECISIONS: dict[Provider, tuple[Precision, ...]] = {
    "cpu": ("int8", "float32"),
    "cuda": ("float16", "float32"),
    "openvino": ("int8", "float32"),
    "dml": ("float32", "int8"),
    "coreml": ("float32", "int8"),
    "tensorrt": ("float32", "int8"),
    "qnn": ("float32", "int8"),
}
"""The precisions that a provider runs, fastest first. CUDA has no kernels for the int8 operators, and the CPU few for float16; the
other providers leave to the CPU what they have none for."""
SUPPORTED: frozenset[Provider] = frozenset({"cpu", "cuda"})
"""The providers that rank as certified. Any other has to reproduce some of the certificate's logits whenever it is loaded."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How batches are formed for one execution provider and run on it."""

    provider: Provider
    token_budget: int
    """largest rows x width of one batch, unless Settings set it"""
    step: int
    """in masked graphs, a row's width is its length rounded up to a multiple of this; in others, it is the length: no padding"""
    is_concurrent: bool
    """whether batches run concurrently, one thread each; otherwise one batch at a time has the whole provider"""
    fill: float = 1.0
    """a masked graph's batch also takes rows that fill at least this share of its width"""
    is_bound: bool = False
    """whether inputs are copied to the provider's device in one piece, and not one by one"""
    fuses: bool = False
    """whether onnxruntime fuses operators when it loads a graph: a GPU waits between them"""
    folds_constants: bool = False
    """whether onnxruntime computes, when it loads a graph, what depends on constants alone"""

    def workers(self, threads: int) -> int:
        """Number of batches that run at once when Settings allow `threads`."""
        return threads if self.is_concurrent else 1

    def options(self) -> Any:
        """The onnxruntime SessionOptions."""
        onnxruntime = runtime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # The graph was optimized at export. onnxruntime's own pass would fuse SkipLayerNormalization, which is slower on a CPU.
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_BASIC if self.folds_constants else levels.ORT_DISABLE_ALL
        if self.fuses:
            options.graph_optimization_level = levels.ORT_ENABLE_ALL
        # Patterns and arena chunks are kept for each new shape: memory would grow with the number of shapes seen.
        options.enable_mem_pattern = False
        options.enable_cpu_mem_arena = False
        return options


OLDEST_THAT_MAPS = "1.21.0"
"""The first onnxruntime whose session.WEIGHTS_FOLDER is observed to work."""
POLICIES: dict[Provider, Policy] = {
    # Batches that fit a core's cache are fastest (budgets of 1 to 4096 tried on AVX-512 with VNNI) and spread best over cores.
    "cpu": Policy("cpu", token_budget=256, step=1, is_concurrent=True),
    # A GPU needs large batches: a pool of 64 pairs of 512 tokens is one (not measured yet). As a batch begins with the longest rows
    # and takes ever shorter ones, only the last batch of many has much padding.
    "cuda": Policy("cuda", token_budget=1 << 15, step=16, is_concurrent=False, fill=0.25, is_bound=True, fuses=True),
    "tensorrt": Policy("tensorrt", token_budget=4096, step=1, is_concurrent=False),
    # These use the CPU's cores or one small accelerator, one batch at a time.
    "openvino": Policy("openvino", token_budget=1024, step=1, is_concurrent=False),
    "dml": Policy("dml", token_budget=1024, step=1, is_concurrent=False),
    "coreml": Policy("coreml", token_budget=1024, step=1, is_concurrent=False),
    "qnn": Policy("qnn", token_budget=1024, step=1, is_concurrent=False),
}


def runtime() -> ModuleType:
    """onnxruntime, imported at first use and with its telemetry off.

    Since 1.29 it sends usage events from a thread that starts at import
    (https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md), and a forked process waits forever for that thread when
    it exits. Setting ORT_DISABLE_TELEMETRY=0 in the environment leaves telemetry on. Raises ExtraError if onnxruntime cannot be
    imported.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    with importing("onnxruntime", wheels.mend):
        import onnxruntime

        # After another wheel was removed from its folder, an empty package can be left, or one without its parts.
        if not hasattr(onnxruntime, "InferenceSession"):
            raise ImportError("the package has no InferenceSession", name="onnxruntime")

    module: ModuleType = onnxruntime
    return module


def failures() -> tuple[type[Exception], ...]:
    """The exceptions that onnxruntime defines, and the built-in ones that its binding raises (std::exception, out of memory)."""
    from onnxruntime.capi import onnxruntime_pybind11_state as states

    defined = [kind for kind in vars(states).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*defined, RuntimeError, MemoryError, ValueError)


def available() -> list[str]:
    """Names of the execution providers of the installed onnxruntime."""
    return list(runtime().get_available_providers())


def check_version(oldest: str) -> None:
    """Raises ProviderError if the installed onnxruntime is older than `oldest`, x.y.z."""
    installed = runtime().__version__
    if _numbers(installed) < _numbers(oldest):
        raise ProviderError(
            f"onnxruntime {installed} is installed, but this artifact needs {oldest} or newer: "
            f"pip install -U {' '.join(wheels.installed()) or 'onnxruntime'}"
        )


def versions(*packages: str) -> dict[str, str]:
    """The installed version of each package. onnxruntime tells its own: it may be installed as onnxruntime-gpu or another build."""
    return {name: runtime().__version__ if name == "onnxruntime" else version(name) for name in packages}


def can_map() -> bool:
    """Whether the installed onnxruntime is to map the weights of a graph that it receives as bytes.

    On Linux it needs /proc for that. On Windows no mapped file can be replaced, nor its folder be renamed, so none is mapped.
    """
    if sys.platform == "win32" or (sys.platform == "linux" and not Path("/proc/self/fd").is_dir()):
        return False
    return _numbers(runtime().__version__) >= _numbers(OLDEST_THAT_MAPS)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"[0-9]+", version)[:3]]


def choose(
    requested: Provider | Auto,
    precision: Precision | Auto,
    *,
    available: Sequence[str],
    variants: Sequence[Variant],
    starts: Callable[[Provider], bool],
) -> tuple[Provider, Variant]:
    """The provider and the variant to run.

    `available`: onnxruntime's names of its providers. `variants`: those whose instruction sets this machine has, best first.
    `starts`: whether a provider starts on this machine, which is asked only where it decides. Provider "auto" is CUDA if it is
    available, has a variant to run and starts, otherwise the CPU; precision "auto" is the provider's fastest. The first variant of
    that precision is chosen. Raises ProviderError if the request cannot be met.
    """
    has_cuda = ORT_NAMES["cuda"] in available
    preferences: list[Provider] = [requested] if requested != "auto" else ["cuda", "cpu"] if has_cuda else ["cpu"]
    reasons = []
    for provider in preferences:
        if ORT_NAMES[provider] not in available:
            reasons.append(
                f"the installed onnxruntime has no {ORT_NAMES[provider]} (it has {', '.join(available)}): {wheels.advice(provider)}"
            )
            continue
        precisions = [kind for kind in PRECISIONS[provider] if precision in ("auto", kind)]
        if not precisions:
            reasons.append(f"{provider} does not run {precision}; ask for {' or '.join(PRECISIONS[provider])}, or another provider")
            continue
        fastest_first = [variant for kind in precisions for variant in variants if variant.precision == kind]
        if fastest_first:
            if requested == "auto" and provider != "cpu" and not starts(provider):
                reasons.append(f"{ORT_NAMES[provider]} does not start on this machine")
                continue
            return provider, fastest_first[0]
        offered = ", ".join(dict.fromkeys(variant.precision for variant in variants)) or "no graph"
        wanted = (
            f"{provider} needs {' or '.join(precisions)}" if precision == "auto" else f"the precision {precision} was asked for"
        )
        choice = "choose another precision, or " if any(each.precision in PRECISIONS[provider] for each in variants) else ""
        reasons.append(
            f"{wanted}, but this artifact has {offered} for this machine: {choice}"
            f"export the checkpoint again with --precision int8,{PRECISIONS[provider][0] if provider == 'cuda' else 'float32'}"
        )
    raise ProviderError("; ".join(reasons))
