"""StopCondition: what it notes, and what it leaves behind."""

from __future__ import annotations

import signal

import pytest

from resift.cli.stopping import StopCondition


@pytest.fixture
def _interrupted():
    """SIGINT with Python's handler: a test run in the background begins with an ignored one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interrupted")
def test_a_signal_stops_once_and_the_second_ends(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with StopCondition(None) as stop:
        assert (stop.should_continue(), stop.exit_code) == (True, 0)
        signal.raise_signal(signal.SIGTERM)
        assert [stop.should_continue(), stop.should_continue()] == [False, False]
        assert stop.exit_code == 128 + signal.SIGTERM
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(signal.SIGINT)
        assert ended.value.code == 130
    assert capsys.readouterr().err.count("stopping once the state is saved") == 1
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with StopCondition(None) as stop:
            signal.raise_signal(signal.SIGTERM)
            assert stop.should_continue()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_time_limit():
    with StopCondition(1e-9) as stop:
        assert (stop.should_continue(), stop.exit_code) == (False, 0)
