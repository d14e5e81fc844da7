"""Memory that an export gives back."""

import mmap
import re
import sys
from pathlib import Path

import pytest

from resift_export import checkpoint
from resift_export.memory import give_back, unload
from resift_export.trace import trace

PAGES = 512
CONTENT = bytes(range(256)) * (PAGES * mmap.PAGESIZE // 256)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def resident(path: Path) -> int:
    """kB of a mapped file that are in this process's memory."""
    found = re.findall(rf"{re.escape(str(path))}\n(?:\S+:.*\n)*?Rss: +(\d+) kB", Path("/proc/self/smaps").read_text())
    return sum(map(int, found))


@pytest.mark.parametrize("name", ["model.safetensors", "2_Dense/model.safetensors", "a name (with 2) spaces.bin"])
def test_mapped_files_are_unloaded_and_read_again(tmp_path, name):
    path, other = tmp_path / "checkpoint" / name, tmp_path / "other"
    path.parent.mkdir(parents=True)
    for each in (path, other):
        each.write_bytes(CONTENT)
    with path.open("rb") as file, other.open("rb") as second:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        kept = mmap.mmap(second.fileno(), 0, access=mmap.ACCESS_COPY)
        assert bytes(mapped) == bytes(kept) == CONTENT
        whole = len(CONTENT) >> 10
        assert (resident(path), resident(other)) == (whole, whole)
        unload(tmp_path / "checkpoint")
        assert (resident(path), resident(other)) == (0, whole)
        assert bytes(mapped) == CONTENT


def test_the_file_behind_a_link_is_unloaded(tmp_path):
    """As in the hub client's cache, whose folders hold links."""
    (tmp_path / "blob").write_bytes(CONTENT)
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.safetensors").symlink_to("../blob")
    with (tmp_path / "blob").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        assert bytes(mapped) == CONTENT
        assert resident(tmp_path / "blob") == len(CONTENT) >> 10
        unload(tmp_path / "snapshot")
        assert resident(tmp_path / "blob") == 0


def test_a_released_checkpoint_is_not_in_memory(source):
    loaded = checkpoint.load(source)
    weights = Path(source).resolve() / "model.safetensors"
    loaded.reference("why are there tides", ["the moon pulls the sea"])
    before = resident(weights)
    traced = trace(loaded)
    loaded.release()
    assert before > 0
    assert resident(weights) == 0
    assert traced.graph.num_nodes() > 0


def test_elsewhere_than_on_linux_nothing_is_called(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("resift_export.memory.ctypes.CDLL", None)
    give_back()
    unload(tmp_path)
