"""Scripts that kill themselves: at a given passing of a given place."""

from __future__ import annotations

import sys

from tests.support import children

KILLING = """
import json, os, signal, sys
from pathlib import Path

*words, place, count = sys.argv[1:]
remaining = int(count)


def kill_at(here, owner, name, *, after):
    '''Has the process killed at a call of owner.name, the one numbered `count`, before or after it, if `place` is here.'''
    function = getattr(owner, name)

    def counted(*arguments, **more):
        global remaining
        remaining -= 1
        result = function(*arguments, **more) if remaining or after else None
        if not remaining:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    if here == place:
        setattr(owner, name, counted)


"""
"""Before the script: `words` are its arguments, and `kill_at` names a place."""


def killed(script, words, place, count):
    """A run of the script, which is killed when it passes the place for the time numbered `count`, from 1."""
    return children.run([sys.executable, "-c", KILLING + script, *map(str, (*words, place, count))], capture_output=True)
