"""For tests of the scheduler alone: calls whose rows are numbers, and a pace that does not change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from resift.artifact.resolved_plans import Step
from resift.artifact.signature import Split
from resift.encoding.encodings import Encodings
from resift.scheduling.call import Call
from resift.scheduling.deadline import Deadline
from resift.scheduling.halves import Documents, Phase
from resift.scheduling.pace import Pace
from resift.scheduling.scheduler import Scheduler
from resift.states.document_states import Found


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


SPLIT = Split(layers=1, query_tokens=8, document_tokens=20, multiple=4, size=2, query_operations=4, reading_operations=1)
"""How the first look reads, where it is split."""


def split_call(*contents: int, length: int = 5, query: int = 3, **more) -> Call:
    """A call whose first look is split: a row for each of `contents`, of which equal ones are equal documents.

    `length`: tokens of a document, to which a content's hundreds are added. `query`: tokens before it. `more`: as for `call`.
    """
    lengths = [query + length + content // 100 for content in contents]
    one = call(*lengths, query_tokens=(query,) * len(contents), graph="first-look", **more)
    ids = np.repeat(np.array(contents, np.int32), lengths)
    one.encodings = replace(one.encodings, ids=ids, segment_ids=ids * 0)
    one.documents = {"first-look": Documents.of(SPLIT, one.encodings)}
    return one


def split_answers(batch, known: dict[bytes, np.ndarray] | None = None):
    """What a worker returns: states that repeat a document's content, `known` those that are looked up, or its row's content."""
    if batch.phase in (None, Phase.QUERY):
        return np.array([[call.encodings.row(row)[0][-1]] for call, row in batch.rows], np.float32)
    found = {}
    for call, rows in batch.by_call().items():
        documents = call.documents[batch.graph]
        if batch.phase is Phase.LOOKUP:
            states = [(known or {}).get(documents.digests[row]) for row in rows]
        else:
            states = [states_of(call, row) for row in rows]
        cached = 0 if batch.phase is Phase.DOCUMENT else sum(each is not None for each in states)
        found[call] = Found(states, 0, cached)
    return found


def states_of(call: Call, row: int) -> np.ndarray:
    """The states of a row's document: its content in every component."""
    ids, _ = call.encodings.document(row, SPLIT.document_tokens)
    return np.repeat(ids[:, None] % 256, SPLIT.size, axis=1).astype(np.uint8)


def known_of(call: Call, *rows: int) -> dict[bytes, np.ndarray]:
    """The states of the documents of those rows, by digest."""
    return {call.documents["first-look"].digests[row]: states_of(call, row) for row in rows}


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
