"""The progress of pools and of stages: a bar on a terminal, few lines elsewhere, which end with the last count."""

from __future__ import annotations

import io
import sys
from concurrent.futures import Future
from contextlib import suppress

import pytest

from resift.cli import meter
from resift.cli.meter import Meter, StageMeter, wait_for


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """The time that the meter sees, in a list to be changed."""
    now = [100.0]
    monkeypatch.setattr(meter.time, "monotonic", lambda: now[0])
    return now


def test_nothing_is_said_of_what_is_quick_where_nobody_watches(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with StageMeter() as told:
        for done in range(11):
            clock[0] += 0.9
            told("calibrate", done, 10)
    assert sys.stderr.getvalue() == ""


def test_lines_say_how_long_a_stage_will_take(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with StageMeter() as told:
        clock[0] += 60
        told("reference", 0, 10)
        for done in range(1, 11):
            clock[0] += 11
            told("reference", done, 10)
    lines = sys.stderr.getvalue().splitlines()
    assert lines[:3] == [
        "resift: reference: 0 of 10",
        "resift: reference: 1 of 10, about 2 min left",
        "resift: reference: 2 of 10, about 88 s left",
    ]
    assert lines[-2:] == ["resift: reference: 9 of 10, about 11 s left", "resift: reference: 10 of 10"]


def test_a_bar_is_gone_when_its_stage_is_done(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with StageMeter() as told:
        for done in range(4):
            told("ranges", done, 3)
            clock[0] += 1
            if done == 1:
                assert "ranges:" in sys.stderr.getvalue()
                assert "1/3" in sys.stderr.getvalue()
        assert sys.stderr.getvalue().split("\r")[-1] == ""
        assert "ranges:" not in sys.stderr.getvalue().split("\r")[-2]


def test_a_stage_of_the_same_name_is_timed_anew(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with StageMeter() as told:
        for _ in range(2):
            told("verify", 0, 4)
            clock[0] += 20
            told("verify", 1, 4)
            told("verify", 4, 4)
    assert sys.stderr.getvalue().count("verify: 1 of 4, about 60 s left") == 2


@pytest.mark.parametrize("terminal", [False, True])
def test_the_last_count_of_pools_is_told(clock, monkeypatch, terminal):
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    with Meter() as told:
        for pools in range(1, 4):
            clock[0] += 11 if pools == 1 else 0.1
            told(pools=pools, pairs=10 * pools, share=pools / 3)
    said = sys.stderr.getvalue().split("\r" if terminal else "resift: ")
    assert "1 pools, 10 pairs, 1 pairs/s" in "".join(said[:-1])
    assert ("| 3 pools, 30 pairs, 3 pairs/s [" if terminal else "3 pools, 30 pairs, 3 pairs/s") in said[-1]
    assert "100%" in said[-1]


def test_an_interrupted_run_tells_how_far_it_came(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with suppress(KeyboardInterrupt), Meter() as told:
        for pools in (1, 2):
            clock[0] += 11 if pools == 1 else 0.1
            told(pools=pools, pairs=pools, share=None)
        raise KeyboardInterrupt
    assert sys.stderr.getvalue().splitlines()[-1].startswith("resift: 2 pools, 2 pairs, ")


def test_the_last_count_is_told_once_and_not_of_what_is_quick(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Meter() as told:
        told(pools=1, pairs=1, share=1.0)
    assert sys.stderr.getvalue() == ""
    with Meter() as told:
        clock[0] += 11
        told(pools=1, pairs=1, share=1.0)
    assert sys.stderr.getvalue().count("\n") == 1


def test_a_wait_shows_what_no_longer_waits_until_the_answer_is_there(monkeypatch):
    monkeypatch.setattr(meter, "BAR_SECONDS", 0.0)
    answer, waiting, shown = Future(), [30, 20, 0], []

    def tell(stage, done, total):
        shown.append((done, total))
        if len(shown) == 2:
            answer.set_result(None)

    wait_for([answer], lambda: waiting.pop(0), tell, "rank")
    assert shown == [(33, 100), (99, 100), (100, 100)]


def test_what_was_done_before_does_not_count_for_the_estimate(monkeypatch):
    """A resumed job whose first pool is at 90 % has still the time for the other 10 % before it."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Meter() as told:
        told(pools=1, pairs=10, share=0.9)
        told._last_write = -1e9
        told(pools=2, pairs=20, share=0.95)
        assert told._bar.initial == 0.9
        assert told._bar.n == 0.95
