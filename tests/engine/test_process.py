"""What is paused for a fork, reset in a child, and closed at the end: all that lives, whatever threads do meanwhile."""

from __future__ import annotations

import weakref

from resift import process


class Pausable:
    def __init__(self):
        self.calls = []

    def pause(self):
        self.calls.append("pause")

    def go_on(self):
        self.calls.append("go on")


class Growing(weakref.WeakSet):
    """A WeakSet to which another thread adds one of `fresh` at each step of an iteration."""

    fresh = ()

    def __iter__(self):
        for each in super().__iter__():
            if self.fresh:
                self.add(self.fresh.pop())
            yield each


def test_all_are_paused_while_another_thread_adds_some(monkeypatch):
    owners, fresh = [Pausable() for _ in range(3)], [Pausable() for _ in range(2)]
    living = Growing(owners)
    living.fresh = [*fresh]
    monkeypatch.setattr(process, "_pausable", living)
    process._pause()
    process._go_on()
    assert [owner.calls for owner in owners] == [["pause", "go on"]] * 3
