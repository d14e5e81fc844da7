from __future__ import annotations

import collections
import contextlib
import json
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resift import ClosedError, InputError, ProviderError, Ranking, Reranker, Settings
from resift.runtime.session import Session
from tests.support import children, tiny
from tests.support.forks import beside_threads, can_fork

QUERY = "how do tides work"
DOCUMENTS = tiny.texts()[1:25:2]
TEXT = st.text(max_size=40) | st.sampled_from(["", " ", "\x00", "\ud800", "🌊" * 30, "tides " * 300, "[SEP]"])


def test_rerank_sorts_by_logit_and_keeps_the_callers_indices(reranker):
    ranking = reranker.rerank(QUERY, DOCUMENTS)
    assert isinstance(ranking, Ranking)
    assert sorted(result.index for result in ranking) == list(range(len(DOCUMENTS)))
    assert [result.logit for result in ranking] == sorted((result.logit for result in ranking), reverse=True)
    assert all(result.document is DOCUMENTS[result.index] for result in ranking)
    json.dumps([[result.score, result.logit, result.tokens_cut] for result in ranking])


def test_score_is_in_the_callers_order_and_agrees_with_rerank(reranker):
    scores = reranker.score(QUERY, DOCUMENTS)
    assert scores.dtype == np.float32
    assert scores.shape == (len(DOCUMENTS),)
    assert {result.index: result.score for result in reranker.rerank(QUERY, DOCUMENTS)} == dict(enumerate(scores.tolist()))


def test_scores_are_on_the_models_declared_scale(reranker):
    assert reranker.artifact.manifest.full.activation == "sigmoid"
    for result in reranker.rerank(QUERY, DOCUMENTS):
        assert result.score == pytest.approx(1 / (1 + np.exp(-result.logit)), rel=1e-6)


def test_top_k_keeps_the_best(reranker):
    assert list(reranker.rerank(QUERY, DOCUMENTS, top_k=3)) == list(reranker.rerank(QUERY, DOCUMENTS))[:3]
    assert len(reranker.rerank(QUERY, DOCUMENTS, top_k=1000)) == len(DOCUMENTS)


def test_many_pools_are_ranked_as_each_alone(reranker):
    queries, pools = [QUERY, "bread", QUERY], [DOCUMENTS[:5], [], DOCUMENTS[3:]]
    assert reranker.rerank_many(queries, pools) == [
        reranker.rerank(query, pool) for query, pool in zip(queries, pools, strict=True)
    ]


def test_score_pairs_scores_every_pair_with_its_own_query(reranker):
    pairs = [(QUERY, DOCUMENTS[0]), ("bread", DOCUMENTS[1]), (QUERY, DOCUMENTS[1])]
    assert reranker.score_pairs(pairs).tolist() == [float(reranker.score(query, [document])[0]) for query, document in pairs]
    assert reranker.score_pairs([]).shape == (0,)


def test_no_documents_give_an_empty_ranking(reranker):
    assert len(reranker.rerank(QUERY, [])) == 0
    assert reranker.score(QUERY, []).shape == (0,)


def test_equal_documents_tie_in_the_callers_order_and_are_run_once(reranker, monkeypatch):
    rows = []
    run = Session.run
    monkeypatch.setattr(Session, "run", lambda self, batch: rows.append(len(batch["input_ids"])) or run(self, batch))
    ranking = reranker.rerank(QUERY, ["same", DOCUMENTS[0], "same", "same"])
    assert sum(rows) == 2
    assert [result.index for result in ranking if result.document == "same"] == [0, 2, 3]


@settings(max_examples=40)
@given(query=TEXT, documents=st.lists(TEXT, max_size=6))
def test_any_text_is_scored_and_no_logit_depends_on_batch_mates(reranker, query, documents):
    together = reranker.score(query, documents)
    assert np.isfinite(together).all()
    assert together.tolist() == [float(reranker.score(query, [document])[0]) for document in documents]


def test_logits_do_not_depend_on_thread_counts_or_token_budgets(artifact, reranker):
    expected = reranker.score(QUERY, DOCUMENTS).tolist()
    for threads, token_budget in ((1, 1), (1, 4096), (5, 64)):
        with Reranker.load(artifact, settings=Settings(threads=threads, token_budget=token_budget)) as other:
            assert other.score(QUERY, DOCUMENTS).tolist() == expected


def test_no_more_batches_run_at_once_than_there_are_threads(artifact, monkeypatch):
    running, most, lock, three, run = 0, 0, threading.Lock(), threading.Barrier(3, timeout=60), Session.run

    def counted(self, batch):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        with contextlib.suppress(threading.BrokenBarrierError):
            three.wait()  # a fourth beside them would be counted; the last ones find the barrier broken
        try:
            return run(self, batch)
        finally:
            with lock:
                running -= 1

    monkeypatch.setattr(Session, "run", counted)
    with Reranker.load(artifact, settings=Settings(threads=3, token_budget=1)) as loaded, ThreadPoolExecutor(8) as callers:
        waiting = [callers.submit(loaded.score, QUERY, DOCUMENTS) for _ in range(8)]
        waiting[0].result()
        three.abort()
        rankings = [answer.result().tolist() for answer in waiting]
    assert most == 3
    assert all(ranking == rankings[0] for ranking in rankings)


def test_cut_documents_and_queries_are_reported(reranker):
    room = reranker.resolved.max_length
    ranking = reranker.rerank("tides " * 1000, ["short", "water " * 1000])
    assert ranking.query_tokens_cut > 1000 - room
    by_index = {result.index: result for result in ranking}
    assert by_index[0].tokens_cut == 0
    assert by_index[1].tokens_cut > 1000 - room


def test_a_document_too_long_to_be_counted_is_said_to_have_lost_at_least_so_much(reranker):
    ranking = reranker.rerank("tides", ["water " * 100_000, "water " * 10_000, "short"])
    assert {result.index: result.tokens_cut_at_least for result in ranking} == {0: True, 1: False, 2: False}


def test_a_shorter_max_length_cuts_more(artifact):
    with Reranker.load(artifact, settings=Settings(max_length=20)) as short:
        assert short.rerank(QUERY, ["water " * 50])[0].tokens_cut > 30


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.rerank(QUERY, "one text"), r"documents is str; expected a list of str"),
        (lambda r: r.rerank(QUERY, ["a", None]), r"documents\[1\] is NoneType; expected str"),
        (lambda r: r.rerank(QUERY, ["a", "b", b"c"]), r"documents\[2\] is bytes"),
        (lambda r: r.rerank(QUERY, {"a", "b"}), r"documents is set"),
        (lambda r: r.rerank(QUERY, {"a": "b"}), r"documents is dict"),
        (lambda r: r.rerank(QUERY, b"ab"), r"documents is bytes"),
        (lambda r: r.rerank(QUERY, np.array([["a", "b"]])), r"documents is ndarray of 2 dimensions; expected one column"),
        (lambda r: r.rerank(QUERY, pd.DataFrame({"text": ["a"]})), r"documents is DataFrame of 2 dimensions"),
        (lambda r: r.rerank(QUERY, pd.Series(["a", None], dtype=object)), r"documents\[1\] is NoneType"),
        (lambda r: r.rerank_many([QUERY], {"q": ["a"]}), r"pools is dict; expected a list of lists of str"),
        (lambda r: r.rerank(QUERY, (text for text in DOCUMENTS)), r"documents is generator"),
        (lambda r: r.rerank(7, DOCUMENTS), r"query is int; expected str"),
        (lambda r: r.score(None, DOCUMENTS), r"query is NoneType; expected str"),
        (lambda r: r.rerank_many([QUERY, 7], [["a"], ["b"]]), r"queries\[1\] is int"),
        (lambda r: r.rerank_many([QUERY, QUERY], [["a"], ["b", 3.0]]), r"pools\[1\]\[1\] is float"),
        (lambda r: r.rerank_many([QUERY, QUERY], [["a"], "b"]), r"pools\[1\] is str"),
        (lambda r: r.rerank_many(QUERY, [["a"]]), r"queries is str"),
        (lambda r: r.score_pairs([("a", "b"), "cd"]), r"pairs\[1\] is 'cd'; expected a \(query, document\) tuple"),
        (lambda r: r.score_pairs([("a", "b"), ("c", 1)]), r"pairs\[1\]\[1\] is int"),
        (lambda r: r.score_pairs([7]), r"pairs\[0\] is 7"),
        (lambda r: r.score_pairs("ab"), r"pairs is a str"),
        (lambda r: r.rerank(QUERY, DOCUMENTS, top_k="3"), r"top_k is str"),
        (lambda r: r.rerank(QUERY, DOCUMENTS, top_k=True), r"top_k is bool"),
    ],
)
def test_wrong_types_are_named_with_their_position(reranker, call, message):
    with pytest.raises(TypeError, match=message):
        call(reranker)


@pytest.mark.parametrize(
    "container",
    [
        tuple,
        collections.deque,
        lambda texts: dict(enumerate(texts)).values(),
        lambda texts: np.array(texts, object),
        lambda texts: pd.Series(texts, index=range(len(texts), 0, -1)),
        lambda texts: pd.Series(texts * 2, index=["x"] * (2 * len(texts)))[: len(texts)],
        lambda texts: pd.Series(["filtered", *texts])[1:],
    ],
    ids=["tuple", "deque", "dict values", "array", "series", "series of one label", "filtered series"],
)
def test_documents_of_any_ordered_container_are_read_by_position(reranker, container):
    assert reranker.rerank(QUERY, container(DOCUMENTS)) == reranker.rerank(QUERY, DOCUMENTS)
    assert reranker.rerank_many([QUERY], [container(DOCUMENTS)])[0] == reranker.rerank(QUERY, DOCUMENTS)
    assert reranker.logits(QUERY, container(DOCUMENTS)).tolist() == reranker.logits(QUERY, DOCUMENTS).tolist()


def test_values_out_of_range_are_refused(reranker):
    with pytest.raises(InputError, match="top_k is 0"):
        reranker.rerank(QUERY, DOCUMENTS, top_k=0)
    with pytest.raises(InputError, match="2 queries and 1 pools"):
        reranker.rerank_many([QUERY, QUERY], [DOCUMENTS])


def test_more_tokens_than_the_model_has_positions_are_refused(artifact):
    with pytest.raises(InputError, match=f"takes at most {tiny.MAX_LENGTH}"):
        Reranker.load(artifact, settings=Settings(max_length=tiny.MAX_LENGTH + 1))


def test_cuda_without_cuda_is_refused_and_auto_takes_the_cpu(artifact):
    with Reranker.load(artifact) as loaded:
        assert (loaded.provider, loaded.precision) == ("cpu", "int8")
    with pytest.raises(ProviderError, match="CUDA"):
        Reranker.load(artifact, provider="cuda")


def test_the_provider_is_a_setting_with_a_shorthand(artifact):
    with Reranker.load(artifact, settings=Settings(provider="cpu")) as loaded:
        assert loaded.settings.provider == loaded.provider == "cpu"
    with Reranker.load(artifact, provider="cpu", settings=Settings(provider="cpu", threads=1)) as loaded:
        assert loaded.settings == Settings(provider="cpu", threads=1)
    with pytest.raises(InputError, match=r"provider is 'cpu' but Settings\.provider is 'cuda'"):
        Reranker.load(artifact, provider="cpu", settings=Settings(provider="cuda"))
    with pytest.raises(InputError, match=r"Settings\.provider is 'tpu'; expected 'auto' or one of cpu, cuda"):
        Reranker.load(artifact, provider="tpu")


def test_threads_share_one_reranker(reranker):
    jobs = [(f"{QUERY} {number}", DOCUMENTS[number % 5 :]) for number in range(60)]
    expected = [reranker.score(*job).tolist() for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        assert [scores.tolist() for scores in pool.map(lambda job: reranker.score(*job), jobs)] == expected


def test_a_closed_reranker_refuses(artifact):
    with Reranker.load(artifact) as loaded:
        loaded.score(QUERY, DOCUMENTS)
    for call in (lambda: loaded.rerank(QUERY, DOCUMENTS), lambda: loaded.score(QUERY, []), lambda: loaded.score_pairs([])):
        with pytest.raises(ClosedError, match="load another"):
            call()


def test_it_pickles_as_its_source_and_settings(artifact):
    with Reranker.load(artifact, provider="cpu", settings=Settings(threads=1, max_length=50)) as loaded:
        content = pickle.dumps(loaded)
        assert len(content) < 2000
        with pickle.loads(content) as twin:
            assert twin.settings == loaded.settings
            assert twin.score(QUERY, DOCUMENTS).tolist() == loaded.score(QUERY, DOCUMENTS).tolist()


def _score(loaded: Reranker, documents: list[str]) -> list[float]:
    return loaded.score(QUERY, documents).tolist()


def test_a_process_pool_takes_it_as_an_argument(reranker):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply_async(_score, (reranker, DOCUMENTS)).get(timeout=60) == _score(reranker, DOCUMENTS)


@can_fork
@beside_threads
def test_a_forked_child_answers_and_exits(reranker):
    expected = _score(reranker, DOCUMENTS)
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        signal.alarm(60)  # a child that hangs is killed, which the exit status shows
        answer = _score(reranker, DOCUMENTS)
        os.write(writing, json.dumps(answer).encode())
        reranker.close()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    assert json.loads(answer) == expected
    assert _score(reranker, DOCUMENTS) == expected


@can_fork
def test_forked_workers_answer_and_end_as_a_preloading_server_has_them(artifact):
    # A whole interpreter's life and end, which os._exit would leave out: the parent's session must not be joined there.
    code = """
import os, sys, warnings
warnings.simplefilter("ignore")
from resift import Reranker
reranker = Reranker.load(sys.argv[1])
expected = reranker.score("how do tides work", ["the moon", "bread"]).tolist()
used, unused = os.fork(), 0
if used:
    unused = os.fork()
if not used:
    assert reranker.score("how do tides work", ["the moon", "bread"]).tolist() == expected
    sys.exit(0)
if not unused:
    sys.exit(0)
assert os.waitpid(used, 0)[1] == 0 and os.waitpid(unused, 0)[1] == 0
print("done")
"""
    done = children.run([sys.executable, "-c", code, str(artifact)], capture_output=True, text=True)
    assert done.stdout == "done\n", done.stderr


def test_two_labels_rank_on_their_log_odds(artifact_of, checkpoint_of, toolchain):
    from resift_export.checkpoint import load as checkpoint

    with Reranker.load(artifact_of("bert", 2), settings=Settings(precision="float32")) as loaded:
        assert loaded.artifact.manifest.full.activation == "identity"
        scores = loaded.score(QUERY, DOCUMENTS)
    model = checkpoint.load(str(checkpoint_of("bert", 2)))
    encoded = model.tokenizer([QUERY] * len(DOCUMENTS), DOCUMENTS, padding=True, return_tensors="pt")
    both = model.model(**encoded).logits.detach().numpy()
    np.testing.assert_allclose(scores, both[:, 1] - both[:, 0], rtol=0, atol=2e-5)
