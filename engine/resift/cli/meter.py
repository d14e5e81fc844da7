"""Progress of a long run: a bar on a terminal, occasional lines elsewhere."""

from __future__ import annotations

import sys
import time
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any, Self

from resift.errors import importing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from concurrent.futures import Future

BAR_SECONDS = 0.2
LINE_SECONDS = 10.0
"""Minimum time between two lines if standard error is not a terminal."""
BAR = "{percentage:3.0f}% |{bar}| {desc} [{elapsed}<{remaining}]"
BAR_OF_STAGE = "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"
BAR_OF_UNKNOWN_LENGTH = "{desc} [{elapsed}]"


class _ThrottledMeter:
    """Writes to standard error at a limited rate: a bar on a terminal, lines elsewhere."""

    def __enter__(self) -> Self:
        self._begin = self._last_write = time.monotonic()
        self._bar: Any = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def _is_due(self, *, on_terminal: bool) -> bool:
        """Whether enough time has passed since the last write; if so, this counts as the next write."""
        now = time.monotonic()
        if now - self._last_write < (BAR_SECONDS if on_terminal else LINE_SECONDS):
            return False
        self._last_write = now
        return True


class Meter(_ThrottledMeter):
    """Progress in counts, such as those of pools and pairs; to be called after each step. Once something was written, the last
    counts are, too.
    """

    def __enter__(self) -> Self:
        self._counts: tuple[dict[str, int], float | None] | None = None
        self._initial = 0.0
        self._written: object = None
        return super().__enter__()

    def __exit__(self, *details: object) -> None:
        if self._written not in (None, self._counts):
            self._show(on_terminal=sys.stderr.isatty())
        super().__exit__(*details)

    def __call__(self, *, share: float | None, **counts: int) -> None:
        """`counts` so far, by what is counted, the last one with its rate; `share` of the work done, None if it is unknown."""
        if self._counts is None:
            self._initial = share or 0.0
        self._counts = counts, share
        on_terminal = sys.stderr.isatty()
        if self._is_due(on_terminal=on_terminal):
            self._show(on_terminal=on_terminal)

    def _show(self, *, on_terminal: bool) -> None:
        assert self._counts is not None
        self._written = self._counts
        counts, share = self._counts
        *_, (name, last) = counts.items()
        rate = last / max(time.monotonic() - self._begin, 1e-9)
        text = f"{', '.join(f'{count} {of}' for of, count in counts.items())}, {rate:.0f} {name}/s"
        if on_terminal:
            self._draw(text, share)
        else:
            _write(f"{text}{'' if share is None else f', {share:.0%} done'}")

    def _draw(self, text: str, share: float | None) -> None:
        with importing("tqdm"):
            from tqdm import tqdm

        if self._bar is None:
            # What was done before, as by a run that this one resumes, took none of this time.
            options = {"total": 1.0, "bar_format": BAR} if share is not None else {"bar_format": BAR_OF_UNKNOWN_LENGTH}
            self._bar = tqdm(file=sys.stderr, initial=self._initial, **options)
        self._bar.n = share or 0.0
        self._bar.set_description_str(text)  # a postfix would begin with a comma


class StageMeter(_ThrottledMeter):
    """Progress in stages, each counted from 0, with an estimate of the remaining time; to be called after each finished item.

    A stage of which lines were written ends with one, too.
    """

    def __enter__(self) -> Self:
        self._stage, self._stage_begin, self._is_stage_written = "", time.monotonic(), False
        return super().__enter__()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` items of `stage` are finished."""
        on_terminal = sys.stderr.isatty()
        if stage != self._stage:
            self._clear()
            self._stage, self._stage_begin, self._is_stage_written = stage, time.monotonic(), False
        if done == total:
            self._clear()
            self._stage = ""
            if self._is_stage_written:
                _write(f"{stage}: {done} of {total}")
        elif self._is_due(on_terminal=on_terminal):
            if on_terminal:
                self._draw(done, total)
            else:
                self._is_stage_written = True
                _write(f"{stage}: {done} of {total}{self._estimate(done, total)}")

    def _estimate(self, done: int, total: int) -> str:
        """An estimate of the stage's remaining time; empty before its first item is finished."""
        if not done:
            return ""
        remaining = (time.monotonic() - self._stage_begin) * (total - done) / done
        return f", about {remaining:.0f} s left" if remaining < 90 else f", about {remaining / 60:.0f} min left"

    def _draw(self, done: int, total: int) -> None:
        with importing("tqdm"):
            from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(file=sys.stderr, desc=self._stage, total=total, initial=done, leave=False, bar_format=BAR_OF_STAGE)
        self._bar.n = done
        self._bar.refresh()

    def _clear(self) -> None:
        """Removes the bar, so that a message can follow."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def wait_for(answers: Collection[Future[Any]], queued: Callable[[], int], meter: StageMeter, stage: str) -> None:
    """Waits until all answers are there. `queued` counts what waits to run for them, by which `meter` shows a percentage."""
    total = max(1, queued())
    while wait(answers, BAR_SECONDS).not_done:
        waiting = queued()
        total = max(total, waiting)
        meter(stage, min(99, 100 * (total - waiting) // total), 100)
    meter(stage, 100, 100)


def _write(text: str) -> None:
    sys.stderr.write(f"resift: {text}\n")
    sys.stderr.flush()
