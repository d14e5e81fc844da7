"""gevent, which makes greenlets of threads: as gunicorn does it with --preload, in a child forked after the Reranker was loaded."""

from __future__ import annotations

import os
import sys

import pytest

from tests.support import children
from tests.support.forks import can_fork

pytest.importorskip("gevent", reason="no gevent here")

CODE = """
import os, sys, time
from resift import Reranker

def ranked(number):
    budget = {"budget_ms": 1e9} if number % 2 else {}
    return [each.index for each in reranker.rerank(f"tides {number}", ["the moon", "bread"], **budget)]

reranker = Reranker.load(sys.argv[1])
expected = [ranked(number) for number in range(8)] if sys.argv[2] == "used" else None
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
from gevent import monkey, spawn, wait
monkey.patch_all()
calls = [spawn(ranked, number) for number in range(8)]
wait(calls)
found = [call.get() for call in calls]
assert expected in (None, found), (expected, found)
reranker.close()
os._exit(0)
"""


@can_fork
@pytest.mark.parametrize("before", ["used", "unused"])
def test_the_first_calls_of_a_child_that_gevent_patched(artifact, before):
    """Its locks were made before gevent replaced them, and keep only threads apart, which greenlets are not."""
    command = [sys.executable, "-c", CODE, str(artifact), before]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}  # else older tokenizers warn of the fork
    done = children.run(command, capture_output=True, text=True, env=environment)
    assert (done.stderr, done.returncode) == ("", 0)
