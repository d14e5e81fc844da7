"""The guard of child processes: what hangs is ended, what is slow is not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import children

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processor time as Linux tells it")
BUSY = "import time\nwhile time.process_time() < {seconds}: pass"
WITH_CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"


@pytest.mark.parametrize(
    "code",
    ["import time; time.sleep(600)", WITH_CHILD.format(code="import time; time.sleep(600)")],
    ids=["sleeps", "waits for its child"],
)
def test_a_child_that_only_waits_is_ended(code, monkeypatch):
    monkeypatch.setattr(children, "SECONDS", 1)
    with pytest.raises(AssertionError, match=r"hangs$"):
        children.run([sys.executable, "-c", code])


def test_a_child_that_never_stops_computing_is_ended(monkeypatch):
    monkeypatch.setattr(children, "SECONDS", 1)
    with pytest.raises(AssertionError, match=r"hangs$"):
        children.run([sys.executable, "-c", BUSY.format(seconds=600)])


def test_the_time_of_a_childs_own_child_counts():
    computing = BUSY.format(seconds=0.5) + "\nprint('done', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", WITH_CHILD.format(code=computing)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"done\n"
        used = children.family(process.pid)
        process.communicate(b"\n")
    assert len(used) == 2
    assert max(used.values()) >= 0.4
    assert children.family(process.pid) == {}
