"""Probe: whether an execution provider starts on this machine and, if not, what is missing, as far as its libraries tell."""

from __future__ import annotations

import ctypes
import logging
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from resift.artifact.protobuf import encode_field
from resift.errors import first_line
from resift.process import Lock, renew_in_children
from resift.runtime.providers import ORT_NAMES, POLICIES, failures, runtime

if TYPE_CHECKING:
    from resift.settings import Provider

log = logging.getLogger(__name__)

NVIDIA: frozenset[Provider] = frozenset({"cuda", "tensorrt"})


class Libraries(NamedTuple):
    """Names of files, in which {} stands for the major version of CUDA."""

    driver: str
    cuda: tuple[str, ...]
    cudnn: str


LIBRARIES = {
    "linux": Libraries("libcuda.so.1", ("libcudart.so.{}", "libcublasLt.so.{}"), "libcudnn.so.9"),
    "win32": Libraries("nvcuda.dll", ("cudart64_{}.dll", "cublasLt64_{}.dll"), "cudnn64_9.dll"),
}
"""onnxruntime-gpu needs cuDNN 9 since 1.19, and the CUDA that it was built with."""
NO_DEVICE = 100
"""CUDA_ERROR_NO_DEVICE: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TYPES.html"""


def _message(*fields: tuple[int, bytes | int]) -> bytes:
    return b"".join(encode_field(number, content) for number, content in fields)


def _graph_of_one_product() -> bytes:
    """An ONNX model that returns y = x * x for x float32[1]."""
    float_vector = _message((1, _message((1, 1), (2, _message((1, _message((1, 1))))))))
    node = _message((1, b"x"), (1, b"x"), (2, b"y"), (4, b"Mul"))
    values = [(number, _message((1, name), (2, float_vector))) for number, name in ((11, b"x"), (12, b"y"))]
    return _message((1, 8), (7, _message((1, node), (2, b"probe"), *values)), (8, _message((2, 13))))


class Probe:
    """Which execution providers start in this process, each tried once.

    A forked child tries anew: a GPU that its parent has used is lost to it.
    """

    def __init__(self) -> None:
        self._failures: dict[Provider, str | None] = {}
        self._lock = Lock()
        renew_in_children(self)

    def starts(self, provider: Provider) -> bool:
        """Whether a session of one product starts and runs. Logs, at the first time, why it does not."""
        with self._lock.hold():
            if provider not in self._failures:
                failure = self._failures[provider] = _failure(provider)
                if failure is not None:
                    log.warning("%s is not used, because it does not start: %s", ORT_NAMES[provider], failure)
            return self._failures[provider] is None

    def begin_anew(self) -> None:
        """In a forked child: forgets what the parent found."""
        self._failures = {}


_probe = Probe()


def starts(provider: Provider) -> bool:
    """Whether a provider that onnxruntime lists starts on this machine; see `Probe.starts`."""
    return _probe.starts(provider)


def _failure(provider: Provider) -> str | None:
    if lack := find_lack(provider):
        return lack
    try:
        prepare(provider)
        session = runtime().InferenceSession(
            _graph_of_one_product(), POLICIES[provider].options(), providers=[ORT_NAMES[provider]], enable_fallback=0
        )
        if ORT_NAMES[provider] not in session.get_providers():
            return explain(provider)
        session.run(None, {"x": np.ones(1, np.float32)})
    except failures() as error:
        return first_line(error)
    return None


def prepare(provider: Provider) -> None:
    """Loads CUDA and cuDNN from the packages of NVIDIA, if there are any, where onnxruntime's own loader does not look."""
    module = runtime()
    if provider in NVIDIA and hasattr(module, "preload_dlls") and (Path(module.__file__ or "").parents[1] / "nvidia").is_dir():
        with redirect_stdout(sys.stderr):  # it prints what it does not find
            module.preload_dlls()


def explain(provider: Provider) -> str:
    """What is known of why a provider does not start."""
    return _needed_and_found(provider)[0] or "onnxruntime's log on stderr says why"


def find_lack(provider: Provider) -> str | None:
    """What a provider lacks without which it cannot start; None if nothing is known to be lacking."""
    text, lacks_device = _needed_and_found(provider)
    return text if lacks_device else None


def _needed_and_found(provider: Provider) -> tuple[str, bool]:
    """What the provider needs and what this machine has, and whether a driver or a GPU is lacking; "" where nothing is known."""
    libraries = LIBRARIES.get(sys.platform)
    version = _cuda_version()
    if provider not in NVIDIA or libraries is None or not version:
        return "", False
    major = version.partition(".")[0]
    driver = _library(libraries.driver)
    gpus = None if driver is None else _gpus(driver)
    found = [f"no NVIDIA driver ({libraries.driver})" if driver is None else _described(driver, gpus)]
    missing = [name for each in libraries.cuda if _library(name := each.format(major)) is None]
    found.append(f"no CUDA {major} ({', '.join(missing)})" if missing else f"CUDA {major}")
    found.append("cuDNN 9" if _library(libraries.cudnn) else f"no cuDNN 9 ({libraries.cudnn})")
    text = f"it needs an NVIDIA driver for CUDA {version}, CUDA {major} and cuDNN 9; found: {', '.join(found)}"
    return text, driver is None or gpus == 0


def _cuda_version() -> str:
    """The version of CUDA that the installed onnxruntime was built with; "" if none."""
    return str(getattr(runtime(), "cuda_version", "") or "")


def _library(name: str) -> ctypes.CDLL | None:
    """A library where the system looks for it, or in the packages of NVIDIA next to onnxruntime; None if it cannot be loaded."""
    packages = Path(runtime().__file__ or "").parents[1] / "nvidia"
    for path in (name, *map(str, packages.glob(f"**/{name}"))):
        try:
            return ctypes.CDLL(path)
        except OSError:
            continue
    return None


def _gpus(driver: ctypes.CDLL) -> int | None:
    """The number of GPUs; None if the driver does not tell."""
    if (code := driver.cuInit(0)) != 0:
        return 0 if code == NO_DEVICE else None
    count = ctypes.c_int()
    return None if driver.cuDeviceGetCount(ctypes.byref(count)) else count.value


def _described(driver: ctypes.CDLL, gpus: int | None) -> str:
    version = ctypes.c_int()
    known = driver.cuDriverGetVersion(ctypes.byref(version)) == 0
    supported = f" for CUDA {version.value // 1000}.{version.value % 1000 // 10}" if known else ""
    return f"an NVIDIA driver{supported} (GPUs: {'unknown' if gpus is None else gpus})"
