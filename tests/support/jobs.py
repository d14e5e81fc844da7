"""For tests of jobs without a model: a reranker that ranks by document length, and processes that end at a chosen step."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from types import SimpleNamespace

import numpy as np

from resift import Settings
from resift.ranking import Ranking
from tests.support import tiny
from tests.support.columns import columns_of

TEXTS = tiny.texts()
RERANKER = SimpleNamespace(
    artifact=SimpleNamespace(fingerprint=lambda: "5" * 64),
    precision="int8",
    provider="cpu",
    settings=Settings(),
    plan_for=lambda plan=None, top_k=None: plan or "full",
    resolved=SimpleNamespace(max_length=512, truncation="only_second", windows=1),
)


def rerank_pools(reranker, pools, *, top_k=None, plan=None, instruction=None, threshold=None):
    """In place of resift.pools.collection.rerank_pools, with the same contract."""
    for pool in pools:
        logits = np.array([len(text) for text in pool.documents], np.float32)
        cut = np.zeros(len(logits), np.int32)
        yield pool, Ranking.of(pool.documents, columns_of(logits, tokens_cut=cut), top_k=top_k)


def rows(count):
    """Pools of 0 to 4 candidates, each with a field of its own."""
    return [
        {
            "qid": f"q{number}",
            "query": TEXTS[number % 40],
            "candidates": [
                {"docid": f"d{number}-{place}", "text": TEXTS[(number * 7 + place) % len(TEXTS)][:60], "bm25": place / 2}
                for place in range(number % 5)
            ],
        }
        for number in range(count)
    ]


def lines(pools):
    return b"".join(json.dumps(pool).encode() + b"\n" for pool in pools)


def files(folder):
    """The contents of a folder's files by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def begun(function, *arguments, **more):
    """Starts a child process that calls `function`, and returns its id."""
    child = os.fork()
    if not child:
        code = 1
        try:
            function(*arguments, **more)
            code = 0
        except SystemExit as error:
            code = error.code
        finally:
            if code == 1:
                traceback.print_exc()
            os._exit(code)
    return child


def ended(child):
    """A child's exit status as os.waitstatus_to_exitcode gives it; 1 for an exception."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def forked(function, *arguments, **more):
    """Calls `function` in a child process and returns its exit status."""
    return ended(begun(function, *arguments, **more))


CHANGES = {"open", "write", "truncate", "fsync", "flock", "rename", "replace", "unlink", "remove", "close"}


def killed_at(step, function, *arguments, **more):
    """Calls `function`, in a child, and kills the process before its call number `step` (from 0) that changes a file."""
    left = step

    def seen(frame, event, argument):
        nonlocal left
        if event == "c_call" and argument.__name__ in CHANGES:
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.setprofile(seen)
    try:
        function(*arguments, **more)
    finally:
        sys.setprofile(None)
