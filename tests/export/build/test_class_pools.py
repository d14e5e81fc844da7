"""Pools of each length class, by which frozen graphs are judged."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from resift.artifact.coverage import LEAST_PAIRS, LEAST_RANKED
from resift_export.build import class_pools
from resift_export.checkpoint import load as checkpoints
from resift_export.recipe import Recipe


@pytest.fixture(scope="module")
def loaded(source, toolchain):
    return checkpoints.load(source)


def test_each_class_has_pairs_enough_of_its_own_length(loaded):
    tokenizer, gate = loaded.pair_tokenizer(), Recipe().gate_pools()
    made = class_pools.class_pools(gate, tokenizer, loaded.max_length, longer_than=32)
    by_end = {}
    for pool in made:
        lengths = tokenizer.encode(pool.query, pool.documents).lengths
        assert len(lengths) >= LEAST_RANKED
        by_end.setdefault(int(pool.qid.split()[-2]), []).append(lengths)
    assert list(by_end) == [64, 128, 192]
    for low, (end, lengths) in zip((32, 64, 128), by_end.items(), strict=True):
        found = np.concatenate(lengths)
        assert low < found.min() <= found.max() <= end
        assert found.min() < low + (end - low) / 4 < end - (end - low) / 4 < found.max(), "the lengths are spread"
        assert len(found) >= LEAST_PAIRS
    assert all(len(lengths) >= class_pools.QUERIES - 2 for lengths in by_end.values())
    assert len(by_end[64]) > 2 * len(gate), "of short pairs, each pool is taken again"


def test_pools_are_made_until_they_have_queries_and_tokens_enough(loaded, monkeypatch):
    tokenizer, gate = loaded.pair_tokenizer(), Recipe().gate_pools()
    large = [msgspec.structs.replace(pool, documents=pool.documents * 3) for pool in gate]
    for queries, tokens, expected in ((3, 1, 3), (3, 10_000, 6), (99, 1, 40), (3, 10**9, 120)):
        monkeypatch.setattr(class_pools, "QUERIES", queries)
        monkeypatch.setattr(class_pools, "TOKENS", tokens)
        made = class_pools.class_pools(large, tokenizer, 192, longer_than=128)
        assert len(made) == expected
        assert max(len(pool.documents) for pool in made) <= class_pools.DOCUMENTS


def test_a_document_stays_the_beginning_of_what_is_made_of_it(loaded):
    gate = Recipe().gate_pools()
    made = class_pools.class_pools(gate, loaded.pair_tokenizer(), 192, longer_than=128)
    texts = {(pool.query, document) for pool in gate for document in pool.documents}
    begins = [
        any(query == pool.query and document.startswith(text) for query, text in texts)
        for pool in made
        for document in pool.documents
    ]
    assert sum(begins) > 0.7 * len(begins), "the others are cut"
