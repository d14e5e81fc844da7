"""Threads that outlive the main one, programs that end while batches run, and forks."""

from __future__ import annotations

import asyncio
import sys

from resift import ClosedError
from tests.support import children, tiny
from tests.support.forks import beside_threads, can_fork, in_child

QUERY, DOCUMENTS = "how do tides work", tiny.texts()[1:40:2]


def python(code: str, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return children.run(command, capture_output=True, text=True)


def test_a_thread_that_outlives_the_main_one_gets_its_answers(artifact):
    code = """
import asyncio, sys, threading
from resift import Reranker
reranker = Reranker.load(sys.argv[1])
def work():
    threading.main_thread().join()
    for number in range(20):
        assert len(reranker.rerank(f"tides {number}", ["the moon", "bread"])) == 2
    assert len(asyncio.run(reranker.arerank("tides", ["the moon", "bread"]))) == 2
    print("done", flush=True)
threading.Thread(target=work).start()
"""
    done = python(code, artifact)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


def test_a_program_that_forgets_to_close_ends_in_good_order_while_batches_run(artifact):
    code = """
import sys
from resift import Reranker
reranker = Reranker.load(sys.argv[1])
reranker.score("tides", ["the moon"])
futures = [reranker.submit(f"tides {number}", ["the moon " * 30] * 9) for number in range(50)]
print("end", flush=True)
"""
    done = python(code, artifact)
    assert (done.stdout, done.stderr, done.returncode) == ("end\n", "", 0)


@can_fork
@beside_threads
def test_a_child_forked_while_batches_run_answers_and_refuses_the_parents_futures(reranker, gate):
    opened, begun, _ = gate
    waiting = reranker.submit(QUERY, DOCUMENTS)
    assert begun.wait(60)

    def work():
        opened.set()
        try:
            waiting.result(50)
        except ClosedError as error:
            said = str(error)
        return [said, reranker.logits(QUERY, DOCUMENTS).tolist(), asyncio.run(reranker.ascore(QUERY, DOCUMENTS)).tolist()]

    said, logits, scores = in_child(work)
    assert "submitted before the process was forked" in said
    opened.set()
    assert waiting.result().logits.tolist() == logits
    assert scores == reranker.score(QUERY, DOCUMENTS).tolist()


@can_fork
@beside_threads
def test_a_future_that_was_done_before_a_fork_is_readable_in_the_child(reranker):
    done = reranker.submit(QUERY, DOCUMENTS)
    expected = done.result().logits.tolist()
    assert in_child(done.result().logits.tolist) == expected
