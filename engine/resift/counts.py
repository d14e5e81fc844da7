"""Counts: whole numbers from callers, numpy's included."""

from __future__ import annotations

import operator
from typing import SupportsIndex

BOOLEANS = {"bool", "bool_"}
"""Names of Python's and numpy's types, without importing numpy; numpy 1 would give the index of a bool."""


def as_int(value: object) -> int | None:
    """A whole number as an int, of whatever type; None for anything else, a bool included."""
    if type(value).__name__ in BOOLEANS or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:  # an array that is not one whole number
        return None
