"""What the tests of the server share."""

from __future__ import annotations

import logging

import pytest

from resift.serve.logs import LOGGER


@pytest.fixture
def log_records():
    """The records of the server's log while a test runs."""
    records: list[logging.LogRecord] = []
    recorder = logging.Handler()
    recorder.emit = records.append
    LOGGER.addHandler(recorder)
    before = LOGGER.level
    LOGGER.setLevel(logging.INFO)
    yield records
    LOGGER.setLevel(before)
    LOGGER.removeHandler(recorder)
