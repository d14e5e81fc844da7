"""A store is filled from documents: each once, resumably, by one process or several."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor

import numpy as np
import pytest

from resift.errors import InferenceError, InputError
from resift.pools import preparation
from resift.pools.preparation import fill_store, find_digests
from resift.states.writer import StoreWriter
from tests.support.stores import SIZE, SplitEngine, header, reading, unsynchronized  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("unsynchronized")
TEXTS = [f"document number {number} {'word ' * (number % 5)}".strip() for number in range(40)]


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setattr(preparation, "CHUNK_DOCUMENTS", 8)
    return SplitEngine()


def fill(store, engine, texts, *, part=(1, 1), **options):
    with StoreWriter(store, header(), part=part) as writer:
        return fill_store(engine, texts, writer, **options)


def prepared(store, engine, texts):
    """The texts whose own states are in the store."""
    digests = engine.document_digests(texts)
    answer = reading(store).find(digests).states
    for text, digest, each in zip(texts, digests, answer, strict=True):
        assert each is None or np.array_equal(each, engine.states_of(digest, len(text.split()) + 1))
    return [text for text, each in zip(texts, answer, strict=True) if each is not None]


def test_every_document_is_computed_once_and_kept(tmp_path, engine):
    done = fill(tmp_path, engine, [*TEXTS, *TEXTS[:20]])
    assert (done.documents, done.new) == (60, 40)
    assert done.bytes == sum((len(text.split()) + 1) * SIZE for text in TEXTS)
    assert sorted(engine.computed) == sorted(TEXTS)
    assert prepared(tmp_path, engine, TEXTS) == TEXTS


def test_a_second_run_computes_what_is_missing(tmp_path, engine):
    fill(tmp_path, engine, TEXTS[:25])
    engine.computed.clear()
    done = fill(tmp_path, engine, TEXTS)
    assert (done.documents, done.new) == (40, 15)
    assert sorted(engine.computed) == sorted(TEXTS[25:])
    assert fill(tmp_path, engine, TEXTS).new == 0
    assert fill(tmp_path, engine, []).documents == 0


def test_documents_are_read_as_they_are_needed(tmp_path, engine):
    read = []
    source = (read.append(text) or text for text in itertools.chain(TEXTS, TEXTS))
    most = []
    compute = engine.prepare
    engine.prepare = lambda texts: most.append(len(read) - len(engine.computed)) or compute(texts)
    fill(tmp_path, engine, source)
    assert max(most) <= 5 * 8


def test_long_documents_are_computed_in_smaller_parts(tmp_path, engine, monkeypatch):
    monkeypatch.setattr(preparation, "CHUNK_CHARACTERS", 50)
    parts = []
    compute = engine.prepare
    engine.prepare = lambda texts: parts.append(len(texts)) or compute(texts)
    fill(tmp_path, engine, TEXTS)
    assert max(parts) < 4


def test_progress_tells_what_is_on_the_disk(tmp_path, engine, monkeypatch):
    monkeypatch.setattr(preparation, "KEEP_BYTES", 1)
    told = []

    def progress(done):
        told.append((done.documents, done.new))
        assert len(prepared(tmp_path, engine, TEXTS)) == done.new

    fill(tmp_path, engine, [*TEXTS, *TEXTS], progress=progress)
    assert told[-1] == (80, 40)
    assert len(told) >= 10
    assert told == sorted(told)


def test_documents_before_one_that_cannot_be_read_are_kept(tmp_path, engine):
    def source():
        yield from TEXTS[:13]
        raise InputError("line 14: no text")

    with pytest.raises(InputError, match="line 14"):
        fill(tmp_path, engine, source())
    assert prepared(tmp_path, engine, TEXTS) == TEXTS[:13]
    with pytest.raises(InputError, match="line 14"):
        find_digests(engine, source())
    assert find_digests(engine, TEXTS) == set(engine.document_digests(TEXTS))


def test_an_interrupted_run_goes_on(tmp_path, engine, monkeypatch):
    monkeypatch.setattr(preparation, "KEEP_BYTES", 1)

    def source():
        yield from TEXTS[:36]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, engine, source())
    there = prepared(tmp_path, engine, TEXTS)
    assert 0 < len(there) < 40
    engine.computed.clear()
    assert fill(tmp_path, engine, TEXTS).new == 40 - len(there)
    assert sorted([*there, *engine.computed]) == sorted(TEXTS)


def test_parts_of_the_store_are_filled_apart(tmp_path, engine):
    first = fill(tmp_path, engine, TEXTS, part=(1, 2))
    assert 0 < first.new < 40
    assert first.documents == 40
    second = fill(tmp_path, engine, TEXTS, part=(2, 2))
    assert first.new + second.new == 40
    assert sorted(engine.computed) == sorted(TEXTS)
    assert prepared(tmp_path, engine, TEXTS) == TEXTS


def test_an_artifact_without_a_split_graph_is_refused(tmp_path, engine):
    engine.document_states = None
    with pytest.raises(InputError, match="org/model has no split graph, so nothing of a document can be computed before its query"):
        fill(tmp_path, engine, TEXTS)


def test_processes_share_the_work(tmp_path, engine):
    done = fill(tmp_path, engine, [*TEXTS, *TEXTS], workers=2)
    assert (done.documents, done.new) == (80, 40)
    assert engine.computed == [], "the other processes have computed"
    assert prepared(tmp_path, engine, TEXTS) == TEXTS


class Mortal(SplitEngine):
    """Ends its process when it meets a document."""

    def prepare(self, texts):
        import os

        if any("number 20 " in text or text.endswith("number 20") for text in texts):
            os._exit(9)
        return super().prepare(texts)

    def __reduce__(self):
        return Mortal, ()


def test_a_worker_that_ends_is_said_and_the_rest_goes_on_later(tmp_path, engine, monkeypatch):
    monkeypatch.setattr(preparation, "KEEP_BYTES", 1)
    with pytest.raises(InferenceError, match="a worker process ended: memory may be short for so many; use fewer --workers"):
        fill(tmp_path, Mortal(), TEXTS, workers=2)
    there = prepared(tmp_path, engine, TEXTS)
    assert fill(tmp_path, engine, TEXTS).new == 40 - len(there)


def test_a_worker_that_ended_while_documents_were_read_is_said_too(tmp_path, engine):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        with pytest.raises(BrokenExecutor):
            executor.submit(os._exit, 9).result()
        with pytest.raises(InferenceError, match="a worker process ended"):
            fill(tmp_path, engine, TEXTS, submit=lambda texts: executor.submit(list, texts))
