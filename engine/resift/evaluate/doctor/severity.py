"""The severity of findings."""

from __future__ import annotations

from typing import Literal

Severity = Literal["problem", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("problem", "warning", "note")
"""The order of findings. A problem makes rankings worse than they could be; a note says what to expect."""
NOTE_SHARE, WARNING_SHARE, PROBLEM_SHARE = 0.01, 0.1, 0.5
"""Shares of pairs, documents or queries from which a finding is a note, a warning or a problem: below the first it is an accident
of the data, and above the last most of the data is affected."""


def severity_of(share: float) -> Severity:
    """The severity of a finding about so large a share of the data."""
    if share >= PROBLEM_SHARE:
        return "problem"
    return "warning" if share >= WARNING_SHARE else "note"
