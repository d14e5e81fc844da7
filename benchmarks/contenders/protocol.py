"""The protocol of contenders, each in its own process and environment: JSON Lines on standard input and output.

A contender is started with a model, a number of threads and options of its own. It first says {"ready": true} or {"error"}. Then
it answers every line. {"pools": [[query, documents], ...]}: {"seconds", "cpu_seconds", "peak_mb", "scores": [[float, ...], ...]}, a
number for each document, the higher the better. {"report": true}: {"peak_mb", "versions"}. What it raises: {"error"}.

Uses only the standard library, as it runs in every environment.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of https://man7.org/linux/man-pages/man2/prctl.2.html"""


def serve(load, packages):
    """Loads the model named on the command line and answers until standard input ends.

    `load(model, threads, *options)` returns `score(query, documents)`, or a tuple of it, `score_many(pools)`, for many pools that
    come at once, where the library has a way of its own for that, and `prepare(pools)`, which is called before the clock starts.
    """
    model, threads, *options = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that output of libraries does not mix with the answers
    stay_within(int(threads))

    def answer(content):
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        loaded = load(model, int(threads), *options)
    except Exception as error:  # whatever keeps a library from loading is named in the table
        answer({"error": description(error)})
        raise
    score, score_many, prepare = (*loaded, None, None)[:3] if isinstance(loaded, tuple) else (loaded, None, None)
    answer({"ready": True})
    for line in sys.stdin:
        try:
            answer(respond(json.loads(line), score, score_many, packages, prepare))
        except Exception as error:  # noqa: BLE001 - as above
            answer({"error": description(error)})


def respond(request, score, score_many, packages, prepare=None):
    if request.get("report"):
        return {"peak_mb": peak_mb(), "versions": {name: version_of(name) for name in packages}}
    pools = request["pools"]
    if prepare:
        prepare(pools)
    start, cpu = time.perf_counter(), time.process_time()
    is_many = score_many and len(pools) > 1
    found = score_many(pools) if is_many else (score(query, documents) for query, documents in pools)
    scores = [[float(value) for value in values] for values in found]  # within the time: some libraries compute when they are read
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak_mb(), "scores": scores}


def stay_within(threads):
    """Keeps this process and its threads on the first `threads` processors, and ends it with its parent, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)


def peak_mb():
    """Most resident megabytes so far: of this process alone, as ru_maxrss may be that of its parent. None where unknown."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def description(error):
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def version_of(package):
    """The version of a distribution, or what the module of that name tells, as onnxruntime may come from another distribution."""
    try:
        return version(package)
    except PackageNotFoundError:
        return getattr(sys.modules.get(package), "__version__", "unknown")


def pairs_of(pools):
    """All pairs of the pools, in order; `split` gives each pool its scores again."""
    return [(query, document) for query, documents in pools for document in documents]


def split(scores, pools):
    rest = iter(scores)
    return [[next(rest) for _ in documents] for _, documents in pools]


def scores_by_place(indexes, count):
    """A score for each of `count` documents, from their indexes in the order of the ranking: for engines that only rank."""
    scores = [-float(count)] * count
    for place, index in enumerate(indexes):
        scores[index] = -float(place)
    return scores
