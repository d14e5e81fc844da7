"""Overload: whether a call is refused because too much waits before it. Pure."""

from __future__ import annotations

from resift.errors import OverloadedError


def check_tokens(waiting: int, tokens: int, limit: int) -> None:
    """Raises OverloadedError if `tokens` more would be more than `limit`; when none are waiting, any number is accepted."""
    if waiting and waiting + tokens > limit:
        raise OverloadedError(
            f"{waiting} tokens are waiting and this call has {tokens}; expected at most {limit} in total: try again later"
        )


def check_seconds(ahead: float, cost: float, delay: float) -> None:
    """Raises OverloadedError if one worker would need longer for what is `ahead` than `delay`, and than the call's own `cost`."""
    limit = max(delay, cost)
    if ahead > limit:
        raise OverloadedError(
            f"{ahead:.1f} s of one worker's time are due before this call; expected at most {limit:.1f} s: try again later"
        )
