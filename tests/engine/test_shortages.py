"""A process that is short of memory, threads or /proc says so, and not that its artifact is to be exported again."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from resift.errors import shortage
from resift.runtime import providers
from tests.support import children

linux = pytest.mark.skipif(sys.platform != "linux", reason="address space is limited as Linux does")

LIMITED = """
import resource
from pathlib import Path

def limit(free):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + free, used + free))
"""
NO_MEMORY = """
from resift import Settings
from resift.artifact.folder import Artifact
from resift.runtime.providers import POLICIES, runtime
from resift.runtime.session import Session
runtime()
artifact = Artifact.find(None)
graph = artifact.manifest.full
content = artifact.read(graph.variants[0].file)
limit(1 << 22)
Session(lambda: content, graph.signature, POLICIES["cpu"]).open()
"""
NO_THREADS = """
from resift import Reranker
reranker = Reranker.load()
limit(1 << 20)
reranker.rerank("tides", ["the moon"])
"""


def last_line(code):
    done = children.run([sys.executable, "-c", LIMITED + code], capture_output=True)
    assert done.returncode == 1
    return done.stderr.decode().splitlines()[-1]


@linux
def test_a_graph_for_which_memory_is_short():
    said = last_line(NO_MEMORY)
    assert said.startswith("resift.errors.InferenceError: onnxruntime")
    assert "cannot load this graph: memory is short: raise its limit" in said


@linux
def test_a_thread_that_cannot_start():
    assert last_line(NO_THREADS).startswith("resift.errors.InferenceError: no thread can be started: raise the limit of processes")


@pytest.fixture
def without_proc():
    """without_proc(code, *arguments): the finished process of Python code on a machine without /proc."""
    if not providers.can_map():
        pytest.skip("onnxruntime 1.20 ends the process where /proc/cpuinfo is missing")
    hidden = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$0" "$@"']
    if shutil.which("unshare") is None or subprocess.run([*hidden, "true"], capture_output=True, check=False).returncode:
        pytest.skip("/proc cannot be hidden here")

    def run(code, *arguments):
        command = [*hidden, sys.executable, "-c", code, *map(str, arguments)]
        return children.run(command, capture_output=True, text=True)

    return run


MAPPED = """
import sys
from resift import Reranker
from resift.artifact import folder
folder.MAPPED_BYTES = 0
print(Reranker.load(sys.argv[1]).logits("tides", ["the moon"]))
"""
"""Weights are mapped from files of any size."""


def test_a_graph_is_read_whole_where_it_cannot_be_mapped(artifact, without_proc):
    done = without_proc(MAPPED, artifact)
    assert done.returncode == 0, done.stderr
    here = children.run([sys.executable, "-c", MAPPED, artifact], capture_output=True, check=True, text=True)
    assert done.stdout == here.stdout


def test_weights_in_a_file_of_their_own_need_proc(without_proc):
    done = without_proc("from resift import Reranker; Reranker.load()")
    assert done.returncode == 1
    assert "cannot load this graph: /proc is not mounted here" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("std::bad_alloc"), "memory is short"),
        (RuntimeError("Failed to allocate memory for requested buffer of size 1024"), "memory is short"),
        (Exception("not initialized.: ThreadPoolBuildError { kind: IOError(Os { code: 11, kind: WouldBlock }) }"), "no thread can"),
        (Exception("Secure opened-file canonicalization requires procfs at /proc/self/fd/3."), "/proc is not mounted here"),
        (RuntimeError("Invalid graph"), None),
    ],
)
def test_what_is_short_is_told_by_what_libraries_say(error, said):
    found = shortage(error)
    assert found is None if said is None else found.startswith(said)
