"""Counts: whole numbers from callers, numpy's included."""

from __future__ import annotations

import operator
from typing import SupportsIndex

import numpy as np


def as_int(value: object) -> int | None:
    """A whole number as an int, of whatever type; None for anything else, a bool included."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:  # an array that is not one whole number
        return None
