"""The protocol of contenders, each in its own process and environment: JSON Lines on standard input and output.

{"query", "documents"} -> {"seconds", "scores"}; {} -> {"peak_mb", "versions"}. Uses only the standard library.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Scorer = Callable[[str, Sequence[str]], Sequence[float]]


def version_of(package: str) -> str:
    """The version that an imported module tells, as onnxruntime may come from a distribution of another name; or the package's."""
    return getattr(sys.modules.get(package), "__version__", None) or version(package)


def serve(load: Callable[[str, int], Scorer], packages: Sequence[str]) -> None:
    """Loads the model named on the command line and answers until standard input ends."""
    model, threads = sys.argv[1], int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that output of libraries does not mix with the answers
    score = load(model, threads)
    for line in sys.stdin:
        request = json.loads(line)
        if request:
            start = time.perf_counter()
            scores = score(request["query"], request["documents"])
            answer = {"seconds": time.perf_counter() - start, "scores": [float(value) for value in scores]}
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            answer = {"peak_mb": peak, "versions": {name: version_of(name) for name in packages}}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
