"""Child processes of tests: one that hangs is ended, and one that a busy machine makes wait is not."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

SECONDS = 300
"""A child hangs if it and its own children use that much processor time, or hardly any for that long."""
HARDLY = 0.05
"""Seconds of processor time: an idle interpreter that only waits uses less."""
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def run(command, *, input=None, capture_output=False, check=False, **options):  # noqa: A002 - subprocess.run's names
    """`subprocess.run` for a command that must not hang: an AssertionError says that it did."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} if capture_output else {}
    if input is not None:
        pipes["stdin"] = subprocess.PIPE
    with subprocess.Popen(command, **pipes, **options) as process:
        out, err = outputs(process, input)
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def outputs(process, given=None):
    """What a process writes, as `Popen.communicate` gives it; a process that outlives its parent may hold the pipes, too."""
    with guarded(process) as hung:
        while not hung.is_set():
            try:
                return process.communicate(given, timeout=SECONDS)
            except subprocess.TimeoutExpired:
                given = None  # has been sent
    raise AssertionError  # by `guarded` already


@contextmanager
def guarded(process):
    """Ends the process if it hangs within the block, and raises an AssertionError at the block's end; yields the event of it."""
    is_over, hung = threading.Event(), threading.Event()

    def watch():
        before = 0.0
        while not is_over.wait(SECONDS):
            members = family(process.pid)
            used = sum(members.values())
            if used - before < HARDLY or used > SECONDS:
                hung.set()
                for number in members.keys() - {process.pid}:
                    with suppress(ProcessLookupError):
                        os.kill(number, signal.SIGKILL)
                process.kill()
                return
            before = used

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield hung
    finally:
        is_over.set()
        watcher.join()
        assert not hung.is_set(), f"{process.args} hangs"


def family(number):
    """Seconds of processor time by process, of a process and its descendants, with those that have ended; {} without /proc."""
    parents, used = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()  # from the third field on, as a name may hold spaces
            child = int(path.parent.name)
            parents[child], used[child] = int(fields[1]), sum(map(int, fields[11:15])) / TICKS
    members = {number} & used.keys()
    while more := {child for child, parent in parents.items() if parent in members} - members:
        members |= more
    return {member: used[member] for member in members}
