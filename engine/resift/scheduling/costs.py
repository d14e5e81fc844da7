"""Costs: predicted seconds, of one worker, for calls and their rows. Pure arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resift.scheduling.call import Call
    from resift.scheduling.pace import Pace


def call_seconds(pace: Pace, call: Call, tokens: int) -> float:
    """Until a call has ended whose current step, or its present phase, has yet to finish `tokens`."""
    first = pace.predict_pairs(call.graph, tokens) if call.reading is None else pace.predict(call.queue, tokens)
    steps = call.steps[call.step_number :]
    if len(steps) == 1:  # most calls: with a limit on seconds, this is asked of every call that waits
        return first
    return pace.predict_steps(first, steps, int(call.encodings.lengths.sum()) / len(call.encodings.tokens_cut))


def row_seconds(pace: Pace, call: Call, width: int) -> float:
    """For a row of a width that waits; in a step with a split graph, with what follows for it in the query half."""
    seconds = pace.predict(call.queue, width)
    return seconds if call.reading is None else seconds + pace.predict(call.graph, call.reading.following_tokens)


def reserved_seconds(pace: Pace, call: Call) -> float:
    """For what follows, in the query half, for rows that no longer wait in the present phase of a step with a split graph."""
    if call.reading is None:
        return 0.0
    rows = len(call.reading.rows) - sum(map(len, call.waiting.values()))
    return pace.predict(call.graph, rows * call.reading.following_tokens)
