"""Memory that an export returns to the system."""

import ctypes
import mmap
import re
import shutil
import sys
from pathlib import Path

import pytest

from resift_export.checkpoint import load as checkpoint
from resift_export.graph.trace import trace
from resift_export.memory import trim_heap, unload

PAGES = 512
CONTENT = bytes(range(256)) * (PAGES * mmap.PAGESIZE // 256)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def resident_kb(path: Path) -> int:
    """The number of kB of a mapped file that are in this process's memory."""
    found = re.findall(rf"{re.escape(str(path))}\n(?:\S+:.*\n)*?Rss: +(\d+) kB", Path("/proc/self/smaps").read_text())
    return sum(map(int, found))


@pytest.mark.parametrize("name", ["model.safetensors", "a name (with 2) spaces.bin"])
def test_only_the_mapping_of_an_address_is_unloaded(tmp_path, name):
    """Another private mapping of the same file may hold changes, such as weights in training."""
    path = tmp_path / name
    path.write_bytes(CONTENT)
    with path.open("rb") as file:
        mapped, other = (mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) for _ in range(2))
    other[0] = 255
    assert bytes(mapped) == CONTENT
    assert bytes(other)[1:] == CONTENT[1:]
    whole = len(CONTENT) >> 10
    assert resident_kb(path) == 2 * whole
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    unload({address + len(CONTENT) // 2})
    assert resident_kb(path) == whole
    assert bytes(mapped) == CONTENT
    assert other[0] == 255


def test_memory_of_no_file_is_left_alone():
    buffer = ctypes.create_string_buffer(b"kept", 1 << 20)
    anonymous = mmap.mmap(-1, 1 << 20)
    anonymous[:4] = b"kept"
    unload({ctypes.addressof(buffer), ctypes.addressof(ctypes.c_char.from_buffer(anonymous)), 0})
    assert buffer.value == anonymous[:4] == b"kept"


def test_a_released_checkpoint_is_not_in_memory(source, tmp_path):
    weights = shutil.copytree(source, tmp_path / "copy") / "model.safetensors"
    loaded = checkpoint.load(str(weights.parent))
    loaded.reference("why are there tides", ["the moon pulls the sea"])
    before = resident_kb(weights)
    model = trace(loaded)
    loaded.release()
    assert before > 0
    assert resident_kb(weights) == 0
    assert model.graph.num_nodes() > 0


def test_elsewhere_than_on_linux_nothing_is_called(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("resift_export.memory.ctypes.CDLL", None)
    trim_heap()
    unload({0})
