"""The seconds of an export's steps."""

from __future__ import annotations

import logging
import re

import pytest

from resift.artifact.agreement import Bounds
from resift_export import progress
from resift_export.convert import convert
from resift_export.progress import StepClock
from resift_export.recipe import Recipe


@pytest.fixture
def clock(monkeypatch):
    """A clock, and what sets the time."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return StepClock(), lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_a_step_inside_another_counts_once_and_the_same_step_adds_up(clock):
    steps, pass_time = clock
    pass_time(1)
    with steps.step("search"):
        pass_time(2)
        with steps.step("verify"):
            pass_time(4)
        pass_time(8)
    with steps.step("verify"):
        pass_time(16)
    assert steps.seconds() == {"other": 1, "search": 10, "verify": 20}
    assert steps.summary() == "31.0 s: other 1.0 (3.2%), search 10.0 (32.3%), verify 20.0 (64.5%)"


def test_a_step_that_fails_ends(clock):
    steps, pass_time = clock

    def fail():
        with steps.step("trace"):
            pass_time(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    pass_time(2)
    assert steps.seconds() == {"other": 2, "trace": 1}


@pytest.mark.usefixtures("cheap")
def test_an_export_says_what_each_step_took(source, home, small_gate, caplog):
    anything = Bounds(overlap=0, tau=-1, worst_tau=-1, error=1e9)
    with caplog.at_level(logging.INFO, "resift_export"):
        convert(source, home / "out", Recipe(gate=small_gate, bounds=anything))
    line = caplog.records[-1].getMessage()
    assert line.startswith("took      ")
    steps = re.findall(r"[:,] ([a-z ]+) ([\d.]+) \([\d.]+%\)", line)
    assert [name for name, _ in steps] == [
        "other",
        *("load", "trace", "reference", "generated pairs", "draft", "verify", "short pairs"),
    ]
    assert sum(float(seconds) for _, seconds in steps) == pytest.approx(float(re.search(r"([\d.]+) s:", line)[1]), abs=0.5)
