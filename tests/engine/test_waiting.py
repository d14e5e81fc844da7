from __future__ import annotations

import asyncio
import threading

import pytest

import tiny
from resift import Reranker, Settings
from resift.session import Session

QUERY, DOCUMENTS = "how do tides work", tiny.texts()[1:40:2]


@pytest.fixture
def gate(monkeypatch):
    """Holds every batch until it is opened, and counts those that began."""
    opened, begun = threading.Event(), []
    run = Session.run

    def held(self, batch):
        begun.append(batch)
        assert opened.wait(60)
        return run(self, batch)

    monkeypatch.setattr(Session, "run", held)
    return opened, begun


@pytest.fixture
def one_at_a_time(artifact):
    with Reranker.load(artifact, settings=Settings(threads=1)) as loaded:
        yield loaded


def test_the_answers_are_those_of_the_plain_calls(reranker):
    async def ask():
        return await asyncio.gather(
            reranker.arerank(QUERY, DOCUMENTS, top_k=2),
            reranker.arerank_many([QUERY, "bread"], [DOCUMENTS[:3], DOCUMENTS[3:5]]),
            reranker.ascore(QUERY, DOCUMENTS),
            reranker.ascore_pairs([(QUERY, DOCUMENTS[0])]),
        )

    ranking, rankings, scores, pair = asyncio.run(ask())
    assert ranking == reranker.rerank(QUERY, DOCUMENTS, top_k=2)
    assert rankings == reranker.rerank_many([QUERY, "bread"], [DOCUMENTS[:3], DOCUMENTS[3:5]])
    assert scores.tolist() == reranker.score(QUERY, DOCUMENTS).tolist()
    assert pair.tolist() == scores[:1].tolist()


def test_errors_reach_the_one_who_waits(reranker):
    with pytest.raises(TypeError, match=r"documents\[0\]"):
        asyncio.run(reranker.arerank(QUERY, [None]))


def test_the_loop_is_free_while_a_batch_runs(reranker, gate):
    opened, begun = gate

    async def ask():
        waiting = asyncio.create_task(reranker.arerank(QUERY, DOCUMENTS))
        while not begun:
            await asyncio.sleep(0.001)
        assert not waiting.done()  # the loop got here although a batch is held
        opened.set()
        return await waiting

    assert len(asyncio.run(ask())) == len(DOCUMENTS)


def test_a_cancelled_wait_ends_at_once_and_the_work_at_the_next_batch(one_at_a_time, gate):
    opened, begun = gate
    reranker = one_at_a_time
    finished = threading.Event()
    inner = reranker.rerank

    def watched(*args, **kwargs):
        try:
            return inner(*args, **kwargs)
        finally:
            finished.set()

    async def ask():
        reranker.rerank = watched
        waiting = asyncio.create_task(reranker.arerank(QUERY, DOCUMENTS))
        while not begun:
            await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not finished.is_set()  # the wait ended while the batch was still held
        opened.set()
        return await asyncio.to_thread(finished.wait, 60)

    try:
        assert asyncio.run(ask())
    finally:
        del reranker.rerank
    assert len(begun) == 1
    assert len(reranker.rerank(QUERY, DOCUMENTS)) == len(DOCUMENTS)
