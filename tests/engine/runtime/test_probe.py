"""Whether a provider starts is tried once a process; "auto" then takes the CPU, and what is lacking is said."""

from __future__ import annotations

import ctypes
import logging
import sys
from types import SimpleNamespace

import pytest

from resift import ProviderError, Reranker, Settings
from resift.runtime import probe, providers
from tests.support.forks import beside_threads, can_fork, in_child
from tests.support.tiny import texts

BOTH = ["CUDAExecutionProvider", "CPUExecutionProvider"]
NEEDED = "it needs an NVIDIA driver for CUDA 13.0, CUDA 13 and cuDNN 9; found: "


def test_the_graph_of_one_product_starts_on_the_cpu():
    assert probe._failure("cpu") is None


def test_a_provider_is_tried_once_and_logged_once(monkeypatch, caplog):
    """Simulated: what the probe finds of a provider."""
    tried = []
    monkeypatch.setattr(probe, "_failure", lambda provider: tried.append(provider) or {"cuda": "no driver"}.get(provider))
    fresh = probe.Probe()
    with caplog.at_level(logging.WARNING, "resift"):
        assert [fresh.starts(provider) for provider in ("cuda", "cpu", "cuda", "cpu")] == [False, True, False, True]
    assert tried == ["cuda", "cpu"]
    assert [record.getMessage() for record in caplog.records] == [
        "CUDAExecutionProvider is not used, because it does not start: no driver"
    ]


@can_fork
@beside_threads
def test_a_forked_child_tries_anew_even_while_its_parent_tries(monkeypatch):
    """Simulated: what the probe finds of a provider; the fork is real."""
    tried = []
    monkeypatch.setattr(probe, "_failure", tried.append)
    fresh = probe.Probe()
    fresh.starts("cuda")
    with fresh._lock.hold():
        assert in_child(lambda: [fresh.starts("cuda"), len(tried)]) == [True, 2]
    assert tried == ["cuda"]


class Driver:
    """A CUDA driver of version 12.4."""

    def __init__(self, gpus=1, code=0):
        self.gpus, self.code = gpus, code

    def cuInit(self, flags):  # noqa: N802 - CUDA's name
        return self.code

    def cuDeviceGetCount(self, count):  # noqa: N802 - CUDA's name
        count._obj.value = self.gpus
        return 0

    def cuDriverGetVersion(self, version):  # noqa: N802 - CUDA's name
        version._obj.value = 12040
        return 0


@pytest.fixture
def libraries(monkeypatch, tmp_path):
    """libraries(found, system): a wheel for CUDA 13.0 on a machine that has those libraries, by name or by path."""
    package = tmp_path / "onnxruntime" / "__init__.py"

    def install(found, system="linux"):
        def load(name):
            if name not in found:
                raise OSError(f"{name}: cannot open shared object file: No such file or directory")
            return found[name]

        monkeypatch.setattr(ctypes, "CDLL", load)
        monkeypatch.setattr(probe, "sys", SimpleNamespace(platform=system))
        monkeypatch.setattr(probe, "runtime", lambda: SimpleNamespace(__file__=str(package)))
        monkeypatch.setattr(probe, "_cuda_version", lambda: "13.0")

    return install


CUDA = {"libcudart.so.13": object(), "libcublasLt.so.13": object()}
CUDNN = {"libcudnn.so.9": object()}
NONE = f"{NEEDED}no NVIDIA driver (libcuda.so.1), no CUDA 13 (libcudart.so.13, libcublasLt.so.13), no cuDNN 9 (libcudnn.so.9)"


@pytest.mark.parametrize(
    ("found", "said", "is_lacking"),
    [
        ({}, NONE, True),
        (CUDA | CUDNN, f"{NEEDED}no NVIDIA driver (libcuda.so.1), CUDA 13, cuDNN 9", True),
        (CUDA | CUDNN | {"libcuda.so.1": Driver(code=100)}, "an NVIDIA driver for CUDA 12.4 (GPUs: 0), CUDA 13, cuDNN 9", True),
        (CUDA | CUDNN | {"libcuda.so.1": Driver(gpus=0)}, "an NVIDIA driver for CUDA 12.4 (GPUs: 0), CUDA 13, cuDNN 9", True),
        (CUDA | CUDNN | {"libcuda.so.1": Driver(code=3)}, "an NVIDIA driver for CUDA 12.4 (GPUs: unknown)", False),
        (CUDA | {"libcuda.so.1": Driver()}, "(GPUs: 1), CUDA 13, no cuDNN 9 (libcudnn.so.9)", False),
        ({"libcudart.so.13": object(), "libcuda.so.1": Driver()}, "(GPUs: 1), no CUDA 13 (libcublasLt.so.13), no cuDNN", False),
    ],
)
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_the_driver_cuda_and_cudnn_are_named_as_needed_and_found(libraries, provider, found, said, is_lacking):
    """Simulated: the loader of libraries, and a driver that tells its version and its GPUs."""
    libraries(found)
    assert said in probe.explain(provider)
    assert probe.find_lack(provider) == (probe.explain(provider) if is_lacking else None)


def test_they_have_other_names_on_windows(libraries):
    """Simulated: sys.platform of Windows, its loader of libraries, and a driver."""
    libraries({"nvcuda.dll": Driver(), "cudart64_13.dll": object(), "cublasLt64_13.dll": object()}, "win32")
    assert probe.explain("cuda").endswith("(GPUs: 1), CUDA 13, no cuDNN 9 (cudnn64_9.dll)")


def test_libraries_are_found_in_the_packages_of_nvidia(libraries, tmp_path):
    """Simulated: the loader of libraries, and a driver; the search is of real files."""
    path = tmp_path / "nvidia" / "cudnn" / "lib" / "libcudnn.so.9"
    path.parent.mkdir(parents=True)
    path.touch()
    libraries(CUDA | {str(path): object(), "libcuda.so.1": Driver()})
    assert probe.explain("cuda").endswith("CUDA 13, cuDNN 9")


def test_the_packages_of_nvidia_are_loaded_before_a_session_and_only_for_it(libraries, tmp_path, monkeypatch, capsys):
    """Simulated: onnxruntime's loader, which prints what it does not find."""
    libraries({})
    loaded = []

    def preload_dlls():
        loaded.append(sys.stdout.write("Failed to load x\n"))

    module = SimpleNamespace(__file__=str(tmp_path / "onnxruntime" / "__init__.py"), preload_dlls=preload_dlls)
    monkeypatch.setattr(probe, "runtime", lambda: module)
    monkeypatch.setattr(probe, "sys", SimpleNamespace(platform="linux", stderr=sys.stderr))
    probe.prepare("cuda")
    (tmp_path / "nvidia").mkdir()
    probe.prepare("cpu")
    assert loaded == []
    probe.prepare("cuda")
    assert len(loaded) == 1
    assert capsys.readouterr() == ("", "Failed to load x\n")


@pytest.mark.parametrize("provider", ["cpu", "openvino", "dml", "coreml", "qnn"])
def test_nothing_is_looked_for_where_nothing_is_known(libraries, provider):
    """Simulated: a machine without any library of NVIDIA."""
    libraries({})
    assert probe.find_lack(provider) is None
    assert probe.explain(provider) == "onnxruntime's log on stderr says why"


def test_the_oldest_onnxruntime_has_no_module_for_its_version_of_cuda(monkeypatch):
    """Simulated: onnxruntime 1.20 for the CPU, which lacks `build_and_package_info`."""
    monkeypatch.delattr("onnxruntime.capi.build_and_package_info", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime.capi.build_and_package_info", None)
    assert probe.find_lack("cpu") is None
    assert probe.explain("cuda") == "onnxruntime's log on stderr says why"


@pytest.fixture
def lists_cuda(libraries, monkeypatch):
    """A wheel that lists CUDA on a machine without a driver, in a process that has not tried it."""
    libraries({})
    monkeypatch.setattr(providers, "available", lambda: BOTH)
    monkeypatch.setattr(probe, "_probe", probe.Probe())


def test_auto_takes_the_cpu_where_cuda_does_not_start_and_says_so_once(artifact, lists_cuda, caplog):
    with Reranker.load(artifact, settings=Settings(provider="cpu", precision="float32")) as reranker:
        expected = reranker.logits("how do tides work", texts()[1:9:2]).tolist()
    with caplog.at_level(logging.WARNING, "resift"):
        for precision in ("float32", "auto"):
            with Reranker.load(artifact, settings=Settings(precision=precision)) as reranker:
                assert reranker.provider == "cpu"
                logits = reranker.logits("how do tides work", texts()[1:9:2]).tolist()
            assert logits == expected or reranker.precision == "int8"
    assert [record.getMessage() for record in caplog.records] == [
        f"CUDAExecutionProvider is not used, because it does not start: {NONE}"
    ]


def test_cuda_asked_for_is_an_error_with_what_is_lacking(artifact, lists_cuda):
    with pytest.raises(ProviderError) as caught:
        Reranker.load(artifact, provider="cuda")
    assert str(caught.value) == f"onnxruntime cannot start CUDAExecutionProvider on this machine: {NONE}; use the provider cpu"
