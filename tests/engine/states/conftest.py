"""Stores that do not wait for the disk."""

from __future__ import annotations

import pytest

from tests.support.stores import unsynchronized  # noqa: F401 - the fixture


@pytest.fixture(autouse=True)
def _quick(unsynchronized):  # noqa: F811 - the fixture
    """For every test here; other processes, which are killed, do wait."""
