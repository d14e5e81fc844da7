"""Forked children of the test's process."""

from __future__ import annotations

import json
import os
import signal

import pytest

can_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
beside_threads = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def in_child(work) -> object:
    """What `work` returns in a forked child, which is killed if it hangs."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        signal.alarm(60)
        os.write(writing, json.dumps(work()).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return json.loads(answer)
