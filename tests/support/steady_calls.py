"""For tests of the scheduler alone: calls whose rows are numbers, and a pace that does not change."""

from __future__ import annotations

import numpy as np

from resift.artifact.resolved_plans import Step
from resift.encoding.encodings import Encodings
from resift.scheduling.call import Call
from resift.scheduling.deadline import Deadline
from resift.scheduling.pace import Pace
from resift.scheduling.scheduler import Scheduler


class SteadyPace(Pace):
    """A second a token, a tenth by the first look, whatever happens."""

    def observe(self, graph, tokens, seconds):
        pass

    def knows(self, graph):
        return True

    def predict(self, graph, tokens):
        return tokens / 10 if graph == "first-look" else float(tokens)


def call(
    *lengths: int,
    deadline: float | None = None,
    graph: str = "full",
    keep: int | None = None,
    windows: tuple[int, ...] = (),
    query_tokens: tuple[int, ...] = (),
) -> Call:
    """A call whose row i has ids that say so: i, i, ...; with `keep`, its first look keeps so many for the full graph.

    `windows`: rows of each document; otherwise each has one. `query_tokens`: of each row; otherwise 0.
    """
    ids = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    counts = windows or (1,) * len(lengths)
    nothing = np.zeros(len(counts), np.int32)
    encodings = Encodings(
        ids=ids,
        segment_ids=ids + 1000,
        lengths=np.array(lengths, np.int32),
        window_starts=np.concatenate([np.arange(count, dtype=np.int32) for count in counts]),
        query_tokens=np.array(query_tokens or (0,) * len(lengths), np.int32),
        tokens_cut=nothing,
        tokens_cut_at_least=nothing.astype(bool),
        query_tokens_cut=0,
    )
    steps = (Step(graph, "logit"),) if keep is None else (Step("first-look", "logit", keep), Step("full", "logit"))
    until = None if deadline is None else Deadline(deadline)
    return Call(encodings, np.arange(len(counts)), steps, lambda ended: ended, until)


def scheduler(token_budget: int = 16, **more) -> Scheduler:
    return Scheduler(token_budget, pace=SteadyPace(), **more)


def answers(batch) -> np.ndarray:
    return np.array([[row] for _, row in batch.rows], np.float32)


def drain(queue: Scheduler, idle: int = 1, now: float = 0.0) -> list:
    """Every batch that comes, each done before the next."""
    batches = []
    while batch := queue.next(now, idle):
        batches.append(batch)
        queue.done(batch, answers(batch), now)
    return batches
