"""The methods for asyncio: the loop stays free, and a cancelled wait stops its work."""

from __future__ import annotations

import asyncio
import threading

import pytest

import tiny

QUERY, DOCUMENTS = "how do tides work", tiny.texts()[1:40:2]


def test_asyncio_gets_the_answers_of_the_plain_calls(reranker):
    async def ask():
        return await asyncio.gather(
            reranker.arerank(QUERY, DOCUMENTS, top_k=2),
            reranker.arerank_many([QUERY, "bread"], [DOCUMENTS[:3], DOCUMENTS[3:5]]),
            reranker.ascore(QUERY, DOCUMENTS),
            reranker.ascore_pairs([(QUERY, DOCUMENTS[0])]),
            reranker.arerank(QUERY, []),
        )

    ranking, rankings, scores, pair, nothing = asyncio.run(ask())
    assert ranking == reranker.rerank(QUERY, DOCUMENTS, top_k=2)
    assert rankings == reranker.rerank_many([QUERY, "bread"], [DOCUMENTS[:3], DOCUMENTS[3:5]])
    assert scores.tolist() == reranker.score(QUERY, DOCUMENTS).tolist()
    assert pair.tolist() == scores[:1].tolist()
    assert len(nothing) == 0


def test_errors_reach_the_one_who_waits(reranker):
    with pytest.raises(TypeError, match=r"documents\[0\]"):
        asyncio.run(reranker.arerank(QUERY, [None]))


def test_the_loop_is_free_while_a_batch_runs(reranker, gate):
    opened, begun, _ = gate

    async def ask():
        waiting = asyncio.create_task(reranker.arerank(QUERY, DOCUMENTS))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        assert not waiting.done()  # the loop got here although a batch is held
        opened.set()
        return await waiting

    assert len(asyncio.run(ask())) == len(DOCUMENTS)


def test_waiting_calls_leave_the_loops_own_executor_alone(reranker, gate):
    opened, begun, _ = gate

    async def ask():
        waiting = [asyncio.create_task(reranker.arerank(f"{QUERY} {number}", DOCUMENTS[:2])) for number in range(200)]
        while not begun.is_set():
            await asyncio.sleep(0.001)
        # A name look-up runs in the default executor; it returns although no batch can.
        await asyncio.wait_for(asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80), 30)
        opened.set()
        return await asyncio.gather(*waiting)

    assert len(asyncio.run(ask())) == 200


def test_a_cancelled_wait_ends_at_once_and_drops_the_rows_that_have_not_begun(one_at_a_time, gate):
    opened, begun, rows = gate

    async def ask():
        waiting = asyncio.create_task(one_at_a_time.arerank(QUERY, DOCUMENTS))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting  # ends while the batch is still held
        opened.set()

    asyncio.run(ask())
    assert len(one_at_a_time.rerank("bread", DOCUMENTS[:1])) == 1
    assert rows == [rows[0], 1]


def test_a_cancelled_wait_stops_tokenization_between_two_parts(one_at_a_time, monkeypatch):
    tokenizer, yielded, go_on = one_at_a_time._tokenizer, threading.Event(), threading.Event()
    parts, counted = type(tokenizer).parts, []

    def slow(self, query, documents, **limits):
        for document in documents:
            yield from parts(self, query, [document], **limits)
            counted.append(document)
            yielded.set()
            assert go_on.wait(60)

    monkeypatch.setattr(type(tokenizer), "parts", slow)

    async def ask():
        waiting = asyncio.create_task(one_at_a_time.arerank(QUERY, DOCUMENTS))
        while not yielded.is_set():
            await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go_on.set()
        return await one_at_a_time.ascore("bread", DOCUMENTS[:1])

    assert len(asyncio.run(ask())) == 1
    assert counted == [DOCUMENTS[0]] * 2  # one of the cancelled call and the whole of the next
