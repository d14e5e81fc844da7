"""Stores with states that a test can tell from any others, and an engine that computes them."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest

from resift.states import database
from resift.states.digests import digest_of
from resift.states.document_states import DocumentStates
from resift.states.layout import Header
from resift.states.writer import StoreWriter

SIZE = 8
"""Components of a token's state."""
IDENTITY = "identity of the tests"


@pytest.fixture
def unsynchronized(monkeypatch):
    """Commits do not wait for the disk, which nothing but a power cut could tell."""
    monkeypatch.setattr(database, "SYNCHRONOUS", "OFF")


def digest(number):
    """The digest of a document with that number."""
    return digest_of(np.array([101, number, 102], np.int32), np.ones(3, np.int32))


def content(number, tokens=3):
    """The states of the document, as bytes: as many as a store would keep, different for each number."""
    seed = hashlib.blake2b(str(number).encode(), digest_size=32).digest()
    return (seed * (tokens * SIZE // 32 + 1))[: tokens * SIZE]


def states(number, tokens=3):
    return np.frombuffer(content(number, tokens), np.uint8).reshape(-1, SIZE)


def header(identity=IDENTITY, *, shards=4, size=SIZE, label="a model"):
    return Header(identity, size, shards, label)


def filled(store, numbers, *, tokens=3, **of_header):
    """A store with those documents; returns it."""
    with StoreWriter(store, header(**of_header)) as writer:
        writer.keep({digest(number): content(number, tokens) for number in numbers})
    return store


def reading(store, *, identity=IDENTITY, size=SIZE, cache=0):
    return DocumentStates(identity, size, cache_bytes=cache, store=store)


def found(document_states, numbers, tokens=3):
    """Which of the documents are found; those that are must have their own states."""
    every = document_states.find([digest(number) for number in numbers]).states
    for number, each in zip(numbers, every, strict=True):
        assert each is None or np.array_equal(each, states(number, tokens))
    return [number for number, each in zip(numbers, every, strict=True) if each is not None]


class SplitEngine:
    """What the preparation of documents needs of a Reranker: digests and states of texts, which count how often they are asked."""

    def __init__(self, identity=IDENTITY):
        self.document_states = DocumentStates(identity, SIZE, cache_bytes=0, store=None)
        self.artifact = SimpleNamespace(
            manifest=SimpleNamespace(model=SimpleNamespace(id="org/model", revision="0123456789abcdef"))
        )
        self.settings = SimpleNamespace(document_template="auto")
        self.precision = "int8"
        self.computed = []

    def document_digests(self, texts):
        return [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]

    def prepare(self, texts):
        self.computed += texts
        tokens = (len(text.split()) + 1 for text in texts)
        return [(each, self.states_of(each, count)) for each, count in zip(self.document_digests(texts), tokens, strict=True)]

    def states_of(self, digest, tokens):
        return np.frombuffer((digest * (tokens * SIZE // 16 + 1))[: tokens * SIZE], np.uint8).reshape(-1, SIZE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __reduce__(self):
        return SplitEngine, (self.document_states.identity,)
