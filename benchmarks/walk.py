"""Counts what one rerank() does: the functions of resift that run, the calls from file to file, the objects that are created.

python -m benchmarks walk            # the totals
python -m benchmarks walk --calls    # each call from file to file, with its count

A Reranker with one thread, warmed up, ranks three documents of two lengths. Functions are counted in all threads.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import resift
from resift import Reranker, Settings

if TYPE_CHECKING:
    from types import CodeType, FrameType

ENGINE = f"{Path(resift.__file__).parent}/"
QUERY = "why are there two high tides a day"
DOCUMENTS = ["The moon pulls the oceans into two bulges.", "The visitors won by two goals at low tide.", "Bread rises."]


class Walk:
    """A profile function that counts while `counts` is True."""

    def __init__(self) -> None:
        self.counts = False
        self.functions: Counter[CodeType] = Counter()
        self.crossings: Counter[tuple[str, str, str]] = Counter()
        self.records: Counter[str] = Counter()

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or not self.counts:
            return
        code = frame.f_code
        if code.co_name in {"__init__", "__new__"}:
            instance = next(iter(frame.f_locals.values()), None)
            kind = instance if isinstance(instance, type) else type(instance)
            if kind.__module__.startswith("resift."):
                self.records[kind.__name__] += 1
        if not code.co_filename.startswith(ENGINE):
            return
        self.functions[code] += 1
        back = frame.f_back
        while back is not None and not back.f_code.co_filename.startswith(ENGINE):
            back = back.f_back
        if back is not None and back.f_code.co_filename != code.co_filename:
            caller, called = (each.removeprefix(ENGINE) for each in (back.f_code.co_filename, code.co_filename))
            self.crossings[caller, called, code.co_qualname] += 1


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks walk", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", action="store_true", help="list the crossings")
    arguments = parser.parse_args()
    walk = Walk()
    threading.setprofile(walk)
    sys.setprofile(walk)
    with Reranker.load(settings=Settings(threads=1)) as reranker:
        reranker.rerank(QUERY, DOCUMENTS[::-1])
        while not reranker._workers._idle:
            pass  # until the worker waits for the next call
        walk.counts = True
        reranker.rerank(QUERY, DOCUMENTS, top_k=2)
        while not reranker._workers._idle:
            pass
        walk.counts = False
        sys.setprofile(None)
    files = {code.co_filename for code in walk.functions}
    print(f"functions  {walk.functions.total()} calls of {len(walk.functions)} functions in {len(files)} files")
    print(f"crossings  {walk.crossings.total()} from file to file")
    print(f"objects    {', '.join(f'{name} x {count}' if count > 1 else name for name, count in walk.records.items())}")
    if arguments.calls:
        for (start, end, function), count in walk.crossings.items():
            print(f"{count:3}  {start} -> {end}: {function}")


if __name__ == "__main__":
    main()
