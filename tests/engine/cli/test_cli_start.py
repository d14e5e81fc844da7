"""The start of the command line: what it is before a command runs, an interrupt and a missing package are one line."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from tests.support import children
from tests.support.commands import LINES, QUERY, RESIFT, complaint

HOOK = """
import importlib.abc, runpy, signal, sys

class Hook(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            {act}

sys.modules.pop({module!r}, None)
sys.meta_path.insert(0, Hook())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""The installed command, with something that happens when it looks for a module."""
STARTS = ("unicodedata", "contextlib", "argparse", "msgspec", "numpy")
OWN = ("resift.errors", "resift.cli.streams", "resift.cli.options", "resift.cli.rerank", "resift.reranker", "resift.settings")


def hooked(module, act, *arguments):
    command = [sys.executable, "-c", HOOK.format(module=module, act=act), RESIFT, *map(str, arguments)]
    done = children.run(command, input=LINES, capture_output=True, text=False)
    return SimpleNamespace(code=done.returncode, out=done.stdout.decode(), err=done.stderr.decode())


@pytest.mark.usefixtures("interruptible")
@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize("module", [*STARTS, *OWN, "tokenizers", "onnxruntime"])
def test_an_interrupt_while_it_imports_ends_it_with_130(artifact, module):
    done = hooked(module, "signal.raise_signal(signal.SIGINT)", "rerank", QUERY, "--model", artifact)
    assert complaint(done, 130) == "resift: interrupted\n"


@pytest.mark.parametrize(
    ("module", "act", "reason"),
    [
        ("onnxruntime", "raise ModuleNotFoundError(f'No module named {name}', name=name)", "No module named onnxruntime"),
        ("onnxruntime.capi", "raise ImportError('libstdc++.so.6: not found', name=name)", "libstdc++.so.6: not found"),
        ("onnxruntime", "raise AttributeError('_ARRAY_API not found')", "_ARRAY_API not found"),
        ("tokenizers", "raise ModuleNotFoundError(f'No module named {name}', name=name)", "No module named tokenizers"),
        ("tokenizers", "raise SystemError('odd')", "odd"),
        ("numpy", "raise ModuleNotFoundError(f'No module named {name}', name=name)", "No module named numpy"),
        ("msgspec", "raise ModuleNotFoundError(f'No module named {name}', name=name)", "No module named msgspec"),
    ],
)
@pytest.mark.parametrize("command", [["rerank", QUERY, "--model"], ["info"]], ids=["rerank", "info"])
def test_a_package_that_cannot_be_imported_is_named(artifact, command, module, act, reason):
    package = module.partition(".")[0]
    said = complaint(hooked(module, act, *command, artifact))
    assert said == f"resift: {package} cannot be imported ({reason}): pip install --force-reinstall {package}\n"


def test_a_package_that_a_command_imports_when_it_runs_is_named():
    pytest.importorskip("uvicorn")
    said = complaint(hooked("uvicorn.config", "raise ImportError('odd', name=name)", "serve"))
    assert said == "resift: uvicorn cannot be imported (odd): pip install --force-reinstall uvicorn\n"


@pytest.mark.parametrize("module", ["numpy", "msgspec", "onnxruntime", "tokenizers"])
def test_a_program_without_a_package_gets_an_error_that_names_it(artifact, module):
    code = f"import sys; sys.modules[{module!r}] = None; from resift import Reranker; Reranker.load(sys.argv[1])"
    done = children.run([sys.executable, "-c", code, artifact], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"resift.errors.ExtraError: {module} cannot be imported (")
    assert last.endswith(f"): pip install --force-reinstall {module}")


def test_the_hubs_client_is_named_where_it_is_needed():
    code = (
        "import sys; sys.modules['huggingface_hub'] = None; from resift.cli.main import main; sys.exit(main(['info', 'org/name']))"
    )
    done = children.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = complaint(SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr))
    assert said.startswith("resift: huggingface_hub cannot be imported (")


def test_another_build_of_onnxruntime_tells_its_own_version(monkeypatch):
    from importlib import metadata

    from resift.runtime import providers

    def version(name):
        if name == "onnxruntime":
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(providers, "version", version)
    assert providers.versions("onnxruntime", "numpy") == {"onnxruntime": providers.runtime().__version__, "numpy": "1.0"}
