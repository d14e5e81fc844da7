"""The methods for asyncio: the loop stays free, and a cancelled wait stops its work."""

from __future__ import annotations

import asyncio
import threading

import pytest

from resift.scheduling.submission import Submission
from tests.support import tiny

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


def test_the_failure_of_one_pool_ends_the_waits_for_the_others(one_at_a_time, gate, monkeypatch):
    """A held batch keeps them from ending by themselves."""
    encode = Submission.encode

    def failing(self, pools, *terms, **limits):
        if pools[0].query == "fails":
            raise MemoryError
        return encode(self, pools, *terms, **limits)

    async def ask():
        with pytest.raises(MemoryError):
            await one_at_a_time.arerank_many([QUERY, "fails"], [DOCUMENTS[:2]] * 2)
        if waits := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(waits, timeout=30)  # the gate opens by itself after 60
        assert all(each.done() for each in waits)

    monkeypatch.setattr(Submission, "encode", failing)
    asyncio.run(ask())


def test_a_cancelled_wait_stops_tokenization_between_two_parts(one_at_a_time, monkeypatch):
    tokenizer, yielded, go_on = one_at_a_time.tokenizer, threading.Event(), threading.Event()
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


def test_the_two_halves_of_a_call_are_the_whole(reranker):
    async def ask():
        encoded = await reranker.aencode(QUERY, [*DOCUMENTS, DOCUMENTS[0]])
        return encoded, await asyncio.wrap_future(reranker.submit_encoded(encoded))

    encoded, scored = asyncio.run(ask())
    expected = reranker.submit(QUERY, [*DOCUMENTS, DOCUMENTS[0]]).result()
    assert scored.logits.tobytes() == expected.logits.tobytes()
    assert encoded.lengths.tolist() == scored.lengths.tolist() == expected.lengths.tolist()
    assert encoded.tokens_cut.tolist() == scored.tokens_cut.tolist()
    assert len(encoded.encodings) == len(DOCUMENTS)  # the document that occurs twice is encoded once
    assert scored.waited >= 0


def test_no_documents_have_two_halves_too(reranker):
    encoded = asyncio.run(reranker.aencode(QUERY, []))
    assert (len(encoded.lengths), len(encoded.tokens_cut), encoded.query_tokens_cut) == (0, 0, 0)
    assert len(reranker.submit_encoded(encoded).result().logits) == 0


@pytest.mark.parametrize("documents", [DOCUMENTS, []], ids=["documents", "none"])
def test_a_call_is_submitted_once_and_a_second_time_changes_nothing(one_at_a_time, gate, documents):
    from resift import InputError

    opened, _, _ = gate
    encoded = asyncio.run(one_at_a_time.aencode(QUERY, documents))
    answer = one_at_a_time.submit_encoded(encoded)
    with pytest.raises(InputError, match="submitted before"):
        one_at_a_time.submit_encoded(encoded)
    opened.set()
    assert answer.result().logits.tolist() == one_at_a_time.logits(QUERY, documents).tolist()


def test_a_callback_of_a_call_without_rows_may_wait_for_another_thread(reranker):
    ended = []

    def wait(_):
        other = threading.Thread(target=lambda: ended.append(len(reranker.logits(QUERY, DOCUMENTS[:1]))))
        other.start()
        other.join(60)

    encoded = asyncio.run(reranker.aencode(QUERY, []))
    encoded.future.add_done_callback(wait)
    reranker.submit_encoded(encoded)
    assert ended == [1]


def test_nothing_is_submitted_after_close(artifact):
    from resift import ClosedError, Reranker

    reranker = Reranker.load(artifact)
    encoded = [asyncio.run(reranker.aencode(QUERY, documents)) for documents in (DOCUMENTS, [])]
    reranker.close()
    for call in encoded:
        with pytest.raises(ClosedError):
            reranker.submit_encoded(call)
        assert call.future.cancelled()
    for documents in (DOCUMENTS, []):
        with pytest.raises(ClosedError):
            reranker.rerank(QUERY, documents)
        with pytest.raises(ClosedError):
            asyncio.run(reranker.arerank(QUERY, documents))


@pytest.mark.parametrize("most", [1, 2, 7])
def test_documents_are_cut_to_so_many_tokens(reranker, most):
    encoded = asyncio.run(reranker.aencode(QUERY, DOCUMENTS, document_tokens=most))
    whole = asyncio.run(reranker.aencode(QUERY, DOCUMENTS, document_tokens=10**6))
    empty = asyncio.run(reranker.aencode(QUERY, [""]))
    assert encoded.lengths.tolist() == [empty.lengths[0] + most] * len(DOCUMENTS)
    assert (encoded.lengths + encoded.tokens_cut).tolist() == (whole.lengths + whole.tokens_cut).tolist()
    for row in range(len(DOCUMENTS)):
        kept = encoded.encodings.row(row)[0].tolist()
        assert kept[:-1] == whole.encodings.row(row)[0].tolist()[: len(kept) - 1]


def test_what_cannot_be_encoded_is_refused(reranker):
    from resift import InputError

    with pytest.raises(InputError, match="document_tokens is 0"):
        asyncio.run(reranker.aencode(QUERY, DOCUMENTS, document_tokens=0))
    with pytest.raises(TypeError, match="document_tokens is str"):
        asyncio.run(reranker.aencode(QUERY, DOCUMENTS, document_tokens="1"))
    with pytest.raises(TypeError, match=r"documents\[0\]"):
        asyncio.run(reranker.aencode(QUERY, [None]))


def test_what_waits_runs_and_is_dropped_is_told(one_at_a_time, gate):
    opened, begun, _ = gate
    ran, done = [], threading.Event()
    one_at_a_time.observe(lambda batch, seconds: (ran.append((len(batch.rows), batch.tokens, seconds)), done.set()))
    first = one_at_a_time.submit(QUERY, DOCUMENTS[:1])
    assert begun.wait(60)
    second = one_at_a_time.submit("bread", DOCUMENTS)
    second.cancel()
    opened.set()
    first.result()
    assert len(one_at_a_time.submit("water", DOCUMENTS[:2]).result().logits) == 2
    queued = one_at_a_time.queued
    assert (queued.rows, queued.tokens, queued.seconds, queued.dropped) == (0, 0, 0.0, len(DOCUMENTS))
    assert sum(rows for rows, _, _ in ran) == 3
    assert all(tokens > 0 and seconds >= 0 for _, tokens, seconds in ran)


@pytest.mark.parametrize("limit", [{"waiting_tokens": 1}, {"waiting_seconds": 1e-9}], ids=str)
def test_a_call_beyond_the_limits_of_the_settings_is_refused(artifact, gate, limit):
    from resift import OverloadedError, Reranker, Settings

    opened, begun, _ = gate
    with Reranker.load(artifact, settings=Settings(threads=1, **limit)) as limited:
        running = limited.submit("sand", DOCUMENTS[:1])
        assert begun.wait(60)
        waiting = [limited.submit(QUERY, DOCUMENTS) for _ in range(3)]
        opened.set()
        assert len(running.result().logits) == 1
        assert len(waiting[0].result().logits) == len(DOCUMENTS)
        assert isinstance(waiting[2].exception(), OverloadedError)
        assert limited.queued.dropped == 0
