"""The guard of child processes: what hangs is ended, what is slow is not."""

from __future__ import annotations

import itertools
import os
import signal
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


def test_a_process_that_outlives_the_child_and_holds_its_output_does_not_keep_the_test(tmp_path, monkeypatch):
    monkeypatch.setattr(children, "SECONDS", 1)
    orphan = f"import os, time; open({str(tmp_path / 'orphan')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {orphan!r}])"
    try:
        with pytest.raises(AssertionError, match=r"hangs$"):
            children.run([sys.executable, "-c", code], capture_output=True)
    finally:
        os.kill(int((tmp_path / "orphan").read_text()), signal.SIGKILL)


def test_a_child_that_gets_little_of_the_processor_goes_on_for_longer_than_it_may_wait(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "end")
    asked = itertools.count(1)

    def family(number):
        """Says that a little was used since it was asked before, and at the third time lets the child end."""
        if (count := next(asked)) == 3:
            monkeypatch.setattr(children, "SECONDS", 300)
            (tmp_path / "end").write_text("")
        return {number: count * 2 * children.HARDLY}

    monkeypatch.setattr(children, "SECONDS", 0.4)
    monkeypatch.setattr(children, "family", family)
    assert children.run([sys.executable, "-c", f"open({str(tmp_path / 'end')!r}).read()"]).returncode == 0
    assert next(asked) == 4


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
