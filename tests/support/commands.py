"""Runs the command line as users do: a process with arguments, streams and an exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
import threading
from contextlib import contextmanager
from types import SimpleNamespace

from tests.support import children, tiny

RESIFT = shutil.which("resift", path=sysconfig.get_path("scripts"))
QUERY = "how do tides work"
DOCUMENTS = tiny.texts()[1:17:2]
LINES = "".join(f"{document}\n" for document in DOCUMENTS).encode()


PROGRESS = re.compile(
    rb"^resift: (\d+ pools, \d+ pairs, \d+ pairs/s.*|\d+ documents, \d+ new, \d+ new/s.*"
    rb"|[^:\n]+: \d+ of \d+(, about \d+ (s|min) left)?)\n",
    re.MULTILINE,
)


def without_progress(said: bytes) -> bytes:
    """What a command says on standard error, less the lines of progress, which come where it takes more than ten seconds."""
    return PROGRESS.sub(b"", said)


def resift(*arguments, given=b"", **environment):
    """Exit code and output of `resift ARGUMENTS` with `given` on standard input."""
    command = [RESIFT, *map(str, arguments)]
    done = children.run(command, input=given, capture_output=True, env={**os.environ, **environment})
    return SimpleNamespace(code=done.returncode, out=done.stdout.decode(), err=without_progress(done.stderr).decode())


@contextmanager
def running(*arguments):
    """A process of `resift ARGUMENTS` with pipes for all streams, which may not hang, killed at the end of the block."""
    command, pipes = [RESIFT, *map(str, arguments)], dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **pipes) as process, children.guarded(process):
        try:
            yield process
        finally:
            process.kill()


class Log:
    """The lines of a process's log, read as they come."""

    def __init__(self, process):
        self._lines, self._more = [], threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(process.stderr,), daemon=True)
        self._thread.start()

    def _read(self, stream):
        for line in stream:
            with self._more:
                self._lines.append(json.loads(line))
                self._more.notify_all()

    def wait(self, event):
        """The first record of this event."""
        with self._more:
            assert self._more.wait_for(lambda: self.find(event), children.SECONDS), self._lines
            return self.find(event)[0]

    def find(self, event):
        return [line for line in self._lines if line["event"] == event]


def answered(done):
    """Standard output of a run, which must have succeeded without warnings."""
    assert (done.code, done.err) == (0, "")
    return done.out


def complaint(done, code=1):
    """The error line of a run, which must have failed with `code` and printed nothing else."""
    assert "Traceback" not in done.err
    assert done.err.startswith("resift: ")
    assert done.err.endswith("\n")
    assert done.err.count("\n") == 1
    assert (done.code, done.out) == (code, "")
    return done.err
