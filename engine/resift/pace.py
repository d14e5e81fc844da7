"""Pace: how long batches take on this machine, learnt from those that ran. Pure arithmetic."""

from __future__ import annotations

FIRST_GUESS = 1e-4
"""Seconds a token before any batch has run: the order of a 12-layer MiniLM in int8 on one core."""
WEIGHT = 0.1
"""Share of the newest batch in the estimate: the last ten or so count."""


class Pace:
    """Seconds a token of one batch on one worker, an exponentially weighted mean over the batches that ran."""

    def __init__(self) -> None:
        self._seconds: float | None = None

    def observe(self, tokens: int, seconds: float) -> None:
        """Learns that a batch of `tokens` took `seconds`."""
        found = max(0.0, seconds) / max(1, tokens)
        self._seconds = found if self._seconds is None else (1 - WEIGHT) * self._seconds + WEIGHT * found

    def predict(self, tokens: int) -> float:
        """Seconds that a batch of `tokens` will take."""
        return tokens * (FIRST_GUESS if self._seconds is None else self._seconds)
