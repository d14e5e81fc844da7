"""Backoff: how long to wait before a request is sent again."""

from __future__ import annotations

import random
import time
from email.utils import parsedate_to_datetime

ATTEMPTS = 6
"""How often a request is sent before the run ends."""
FIRST_WAIT = 1.0
"""Seconds before the second attempt; each further wait is twice as long."""
LONGEST_WAIT = 60.0
LONGEST_REQUESTED = 600.0
"""Seconds that a server may ask for in Retry-After; one that wants more is asked after so long."""


def seconds_before(attempt: int, retry_after: str | None = None) -> float:
    """Seconds to wait after that attempt, counted from 1: exponential with jitter, and as long as the server asks for."""
    wait: float = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
    return max(wait, min(LONGEST_REQUESTED, requested_seconds(retry_after)))


def requested_seconds(retry_after: str | None) -> float:
    """The seconds of a Retry-After header, which is a number or a date (RFC 9110, section 10.2.3); 0 for none and for others."""
    if retry_after is None:
        return 0.0
    text = retry_after.strip()
    if text.replace(".", "", 1).isdecimal() and text.isascii():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
