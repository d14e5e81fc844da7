"""Pace: how long batches take on this machine, learned from those that ran. Pure arithmetic."""

from __future__ import annotations

FIRST_GUESS = 1e-4
"""Seconds per token assumed before any batch has run: the order of magnitude of a 12-layer MiniLM in int8 on one core."""
WEIGHT = 0.1
"""Weight of the newest batch in the estimate, which covers roughly the last ten."""


class Pace:
    """Seconds per token of a batch on one worker: an exponentially weighted mean over the batches that ran."""

    def __init__(self) -> None:
        self._seconds: float | None = None

    def observe(self, tokens: int, seconds: float) -> None:
        """Records that a batch of `tokens` took `seconds`."""
        found = max(0.0, seconds) / max(1, tokens)
        self._seconds = found if self._seconds is None else (1 - WEIGHT) * self._seconds + WEIGHT * found

    def predict(self, tokens: int) -> float:
        """Predicted seconds for a batch of `tokens`."""
        return tokens * (FIRST_GUESS if self._seconds is None else self._seconds)
