"""Pairs that are longer than the model reads are added to the gate."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resift.artifact.agreement import Pool
from resift.encoding.long_pairs import with_long_pairs
from resift_export.checkpoint import load as checkpoint


@pytest.fixture(scope="module")
def loaded(source):
    return checkpoint.load(source)


POOLS = [Pool(qid=str(number), query="tides", documents=["the moon", "bread"], labels=[2, 0]) for number in range(30)]


@pytest.mark.parametrize(("length", "count"), [(192, 10), (40, 30), (100, 20)])
def test_some_pools_gain_a_pair_that_has_to_be_cut(loaded, length, count):
    cut = replace(loaded, max_length=length)
    found = with_long_pairs(POOLS, cut.pair_tokenizer(), length)
    assert len(found) == len(POOLS)
    assert [len(pool.documents) for pool in found] == [3] * count + [2] * (30 - count)
    for pool in found[:count]:
        assert pool.documents[:2] == ["the moon", "bread"]
        assert pool.documents[2].startswith("the moon bread the moon")
        assert pool.labels == [2, 0, 2]
        assert cut.pair_tokenizer().encode(pool.query, pool.documents).tokens_cut.tolist()[2] > 0


def test_a_model_that_reads_much_gets_one(loaded):
    found = with_long_pairs(POOLS, replace(loaded, max_length=4000).pair_tokenizer(), 4000)
    assert [len(pool.documents) for pool in found] == [3] + [2] * 29


@pytest.mark.parametrize("documents", [[""], ["", " "], ["\u200b"]])
def test_documents_without_tokens_end(loaded, documents):
    pool = Pool(qid="1", query="tides", documents=documents)
    [found] = with_long_pairs([pool], loaded.pair_tokenizer(), loaded.max_length)
    assert len(found.documents) == len(documents) + 1
    assert found.labels is None
