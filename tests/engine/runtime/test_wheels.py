"""Which wheel of onnxruntime is installed, and what is said where there are several, none, or none that this system can have."""

from __future__ import annotations

import logging
import platform
import sys
from types import SimpleNamespace

import onnxruntime
import pytest

from resift import ExtraError, ProviderError, Reranker
from resift.runtime import providers, wheels


@pytest.fixture
def site(tmp_path, monkeypatch):
    """site(*names): a folder of packages in which those distributions have put a package onnxruntime."""

    def fill(*names, of_others=()):
        (tmp_path / "onnxruntime").mkdir()
        for name, package in [*((name, "onnxruntime") for name in names), *((name, "another") for name in of_others)]:
            folder = tmp_path / f"{name.replace('-', '_')}-1.31.1.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.31.1\n")
            (folder / "RECORD").write_text(f"{package}/LICENSE,,\n{package}/__init__.py,sha256=x,1\n{folder.name}/RECORD,,\n")
        spec = SimpleNamespace(submodule_search_locations=[str(tmp_path / "onnxruntime")])
        monkeypatch.setattr(wheels, "find_spec", lambda name: spec if name == "onnxruntime" else None)

    yield fill
    wheels.warn_of_several.cache_clear()


def test_the_installed_wheel_is_found():
    assert wheels.installed() == [name for name in wheels.installed() if name.startswith(("onnxruntime", "ort"))]
    assert len(wheels.installed()) == 1


def test_distributions_are_those_that_hold_the_package(site):
    """Simulated: a folder of packages with several distributions."""
    site("onnxruntime-gpu", "onnxruntime", "ort-nightly", of_others=["onnxruntime-genai", "onnxruntime-extensions", "orthography"])
    assert wheels.installed() == ["onnxruntime", "onnxruntime-gpu", "ort-nightly"]


TWO = (
    "onnxruntime and onnxruntime-gpu are installed over each other, in one folder; expected one of them: "
    "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu"
)


def test_two_at_once_are_named_once_with_their_mend_and_the_artifact_loads(site, artifact, caplog):
    """Simulated: a folder of packages with two wheels; what runs is the installed one."""
    wheels.warn_of_several.cache_clear()
    site("onnxruntime-gpu", "onnxruntime")
    with caplog.at_level(logging.WARNING, "resift"):
        for _ in range(2):
            Reranker.load(artifact).close()
    assert [record.getMessage() for record in caplog.records] == [TWO]


def test_one_alone_is_not_warned_of(site, artifact, caplog):
    """Simulated: a folder of packages with one wheel and another package's."""
    wheels.warn_of_several.cache_clear()
    site("onnxruntime-gpu", of_others=["onnxruntime-genai"])
    with caplog.at_level(logging.WARNING, "resift"):
        Reranker.load(artifact).close()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("names", "mend"),
    [
        ([], "pip install --force-reinstall onnxruntime"),
        (["onnxruntime"], "pip install --force-reinstall onnxruntime"),
        (["onnxruntime-gpu"], "pip install --force-reinstall onnxruntime-gpu"),
        (["onnxruntime", "onnxruntime-gpu"], TWO),
    ],
)
def test_where_it_cannot_be_imported_the_mend_names_what_is_installed(site, monkeypatch, names, mend):
    """Simulated: an onnxruntime that cannot be imported, and the distributions that are there."""
    site(*names)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExtraError) as caught:
        providers.runtime()
    assert str(caught.value).startswith("onnxruntime cannot be imported (")
    assert str(caught.value).endswith(f"): {mend}")


def test_what_is_left_in_its_folder_after_another_wheel_was_removed_is_no_onnxruntime(site, monkeypatch):
    """Simulated: a package onnxruntime without its parts."""
    site("onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace())
    with pytest.raises(ExtraError, match=r"\(the package has no InferenceSession\): pip install --force-reinstall onnxruntime"):
        providers.runtime()


@pytest.mark.parametrize(
    ("provider", "system", "names", "advice"),
    [
        ("cuda", "linux", ["onnxruntime"], "pip uninstall -y onnxruntime, then pip install onnxruntime-gpu"),
        ("cuda", "linux", [], "pip install onnxruntime-gpu"),
        (
            "cuda",
            "linux",
            ["onnxruntime", "onnxruntime-gpu"],
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu",
        ),
        ("openvino", "win32", ["onnxruntime-gpu"], "pip uninstall -y onnxruntime-gpu, then pip install onnxruntime-openvino"),
        ("cpu", "linux", ["onnxruntime"], "reinstall onnxruntime"),
        ("coreml", "darwin", ["onnxruntime"], "reinstall onnxruntime"),
        ("coreml", "linux", ["onnxruntime"], "coreml runs on macOS only; use the provider cpu"),
        ("dml", "linux", ["onnxruntime"], "dml runs on Windows only; use the provider cpu"),
        ("cuda", "darwin", ["onnxruntime"], "cuda runs on Linux and Windows only; use the provider cpu"),
        ("qnn", "win32", ["onnxruntime"], "pip uninstall -y onnxruntime, then pip install 'onnxruntime-qnn<2'"),
    ],
)
def test_a_missing_provider_is_had_by_exchanging_the_wheel_where_there_is_one(site, monkeypatch, provider, system, names, advice):
    """Simulated: sys.platform and the distributions in the folder of packages."""
    site(*names)
    monkeypatch.setattr(wheels, "sys", SimpleNamespace(platform=system))
    assert wheels.advice(provider) == advice


def test_every_provider_has_a_wheel_a_name_and_a_policy():
    from resift.settings import PROVIDERS

    for table in (wheels.WHEELS, providers.ORT_NAMES, providers.POLICIES, providers.PRECISIONS):
        assert tuple(table) == PROVIDERS or set(table) == set(PROVIDERS)


def test_an_old_version_is_upgraded_by_its_own_name(site, monkeypatch):
    """Simulated: onnxruntime's version, and the wheel that it came in."""
    site("onnxruntime-gpu")
    monkeypatch.setattr(onnxruntime, "__version__", "1.19.0")
    with pytest.raises(ProviderError, match=r"needs 1\.20\.0 or newer: pip install -U onnxruntime-gpu$"):
        providers.check_version("1.20.0")


GLIBC, MUSL = "glibc 2.36", ""
NEW = (3, 13, 2)


@pytest.mark.parametrize(
    ("system", "version", "bits", "libc", "machine", "said"),
    [
        ("linux", NEW, 64, GLIBC, "x86_64", None),
        ("linux", NEW, 64, "glibc 2.27", "aarch64", None),
        ("linux", NEW, 64, "glibc 2.26", "x86_64", "no wheels for glibc 2.26, only for 2.27 and newer"),
        ("linux", NEW, 64, "glibc 2.17", "x86_64", "no wheels for glibc 2.17"),
        ("linux", NEW, 64, MUSL, "x86_64", "without glibc, such as Alpine"),
        ("linux", NEW, 64, None, "x86_64", "without glibc, such as Alpine"),
        ("linux", NEW, 32, GLIBC, "i686", "no newer wheel than 1.20 for 32 bits"),
        ("linux", (3, 14, 1), 64, GLIBC, "x86_64", None),
        ("linux", (3, 15, 0), 64, GLIBC, "x86_64", "no wheels for Python 3.15 when this resift was released: use Python 3.14"),
        ("win32", NEW, 64, None, "AMD64", None),
        ("win32", NEW, 32, None, "x86", "no newer wheel than 1.20 for 32 bits"),
        ("darwin", NEW, 64, None, "arm64", None),
        ("darwin", NEW, 64, None, "x86_64", None),
        ("darwin", (3, 14, 0), 64, None, "arm64", None),
        ("darwin", (3, 14, 0), 64, None, "x86_64", "no wheels for Intel Macs and this Python"),
        ("freebsd14", NEW, 64, None, "amd64", "no wheels for freebsd14, only for Linux, Windows, macOS"),
    ],
)
def test_a_system_without_a_wheel_is_told_so(site, monkeypatch, system, version, bits, libc, machine, said):
    """Simulated: sys.platform, the version and the bits of Python, the C library's name and the machine's."""

    def confstr(name):
        if libc is None:
            raise ValueError(name)
        return libc

    monkeypatch.setattr(wheels, "sys", SimpleNamespace(platform=system, version_info=version, maxsize=(1 << bits - 1) - 1))
    monkeypatch.setattr(wheels, "os", SimpleNamespace(confstr=confstr))
    monkeypatch.setattr(platform, "machine", lambda: machine)
    found = wheels.unsupported()
    assert found is None if said is None else said in found
    site()
    assert wheels.mend() == (found or "pip install --force-reinstall onnxruntime")


def test_a_c_library_of_another_kind_has_no_confstr(monkeypatch):
    """Simulated: an os without confstr, as on Windows."""
    monkeypatch.setattr(wheels, "os", SimpleNamespace())
    assert wheels.glibc() is None


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_the_c_library_of_this_system():
    name, version = platform.libc_ver()
    assert (wheels.glibc() is not None) == (name == "glibc")
    if name == "glibc":
        assert wheels.glibc() == tuple(map(int, version.split(".")[:2]))
