"""Meter: progress of a long run, as a bar on a terminal and as occasional lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, Self

BAR_SECONDS = 0.2
LINE_SECONDS = 10.0
"""Time between two lines if standard error is not a terminal."""
BAR = "{percentage:3.0f}% |{bar}| {postfix} [{elapsed}<{remaining}]"
BAR_OF_UNKNOWN_LENGTH = "{postfix} [{elapsed}]"


class Meter:
    """Writes to standard error; call it after each finished pool."""

    def __enter__(self) -> Self:
        self._begin = self._shown = time.monotonic()
        self._bar: Any = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, *, pools: int, pairs: int, share: float | None) -> None:
        """`pools` and `pairs` so far; `share` of the work done, None if it is unknown."""
        now = time.monotonic()
        seconds = max(now - self._begin, 1e-9)
        text = f"{pools} pools, {pairs} pairs, {pairs / seconds:.0f} pairs/s"
        is_terminal = sys.stderr.isatty()
        if now - self._shown < (BAR_SECONDS if is_terminal else LINE_SECONDS):
            return
        self._shown = now
        if is_terminal:
            self._draw(text, share)
        else:
            sys.stderr.write(f"resift: {text}{'' if share is None else f', {share:.0%} done'}\n")
            sys.stderr.flush()

    def _draw(self, text: str, share: float | None) -> None:
        from tqdm import tqdm

        if self._bar is None:
            known = {"total": 1.0, "bar_format": BAR} if share is not None else {"bar_format": BAR_OF_UNKNOWN_LENGTH}
            self._bar = tqdm(file=sys.stderr, **known)
        self._bar.n = share or 0.0
        self._bar.set_postfix_str(text)


class StageMeter:
    """The same for work in stages, each counted anew; call it after each finished item."""

    def __enter__(self) -> Self:
        self._shown = time.monotonic()
        self._bar: Any = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` items of `stage` are finished."""
        now = time.monotonic()
        is_terminal = sys.stderr.isatty()
        if now - self._shown < (BAR_SECONDS if is_terminal else LINE_SECONDS):
            return
        self._shown = now
        if is_terminal:
            self._draw(stage, done, total)
        else:
            sys.stderr.write(f"resift: {stage}: {done} of {total}\n")
            sys.stderr.flush()

    def _draw(self, stage: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None or self._bar.desc != f"{stage}: ":
            if self._bar is not None:
                self._bar.close()
            self._bar = tqdm(file=sys.stderr, desc=stage, total=total, leave=False)
        self._bar.n = done
        self._bar.refresh()
