"""Generated pairs: of all kinds and lengths, the same each time, and none whose query a model has to cut."""

from __future__ import annotations

import numpy as np
import pytest

from resift.artifact.agreement import Pool
from resift.artifact.coverage import LEAST_PAIRS, script_of
from resift.artifact.folder import Artifact
from resift.encoding.artifact_tokenizer import open_tokenizer
from resift.encoding.generated_pairs import DOCUMENTS, generated_pools, words_of
from resift.encoding.tokenizer import PairTokenizer

WORDS = ["moon", "tide", "bread", "yeast"]


@pytest.fixture(scope="module")
def tokenizer(artifact):
    return open_tokenizer(Artifact.open(artifact))


def test_they_are_the_same_for_the_same_arguments(tokenizer):
    first, again, other = (generated_pools(WORDS, tokenizer, 192, 95, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert [len(pool.documents) for pool in first] == [DOCUMENTS] * 10


def test_they_are_of_all_kinds_and_lengths(tokenizer):
    pools = generated_pools(WORDS, tokenizer, 192, 2000)
    texts = [text for pool in pools for text in (pool.query, *pool.documents)]
    assert {script_of(text) for text in texts} >= {"latin", "cyrillic", "cjk", "arabic", "thai", "none"}
    assert "" in texts
    assert any(len(set(text.split())) == 1 and len(text.split()) > 9 for text in texts)
    assert any(text.replace(".", "").replace(" ", "").isdigit() for text in texts)
    assert any(set(text.split()) <= set(WORDS) and len(set(text.split())) == 4 for text in texts)
    lengths = np.concatenate([tokenizer.encode(pool.query, pool.documents).lengths for pool in pools])
    assert all(
        (lengths[(lengths > low) & (lengths <= high)]).size for low, high in ((2, 8), (8, 16), (16, 32), (32, 64), (64, 191))
    )
    assert np.count_nonzero(lengths == 192) >= 5


def test_they_end_with_their_tokens_but_are_enough_for_figures(tokenizer):
    every = generated_pools(WORDS, tokenizer, 192, 1000)
    limited = generated_pools(WORDS, tokenizer, 192, 1000, tokens=6000)
    assert LEAST_PAIRS < len(limited) * DOCUMENTS < 1000
    assert limited == every[: len(limited)]
    tokens = [int(tokenizer.encode(pool.query, pool.documents).lengths.sum()) for pool in limited]
    assert sum(tokens[:-1]) < 6000 <= sum(tokens)
    assert len(generated_pools(WORDS, tokenizer, 192, 1000, tokens=1)) * DOCUMENTS == LEAST_PAIRS


def test_a_pair_of_a_model_with_thousands_of_tokens_is_not_filled(artifact):
    tokenizer = PairTokenizer((artifact / "tokenizer.json").read_bytes(), 8192)
    pools = generated_pools(WORDS, tokenizer, 8192, 1000)
    lengths = np.concatenate([tokenizer.encode(pool.query, pool.documents).lengths for pool in pools])
    assert 512 <= lengths.max() < 8192


@pytest.mark.parametrize("max_length", [192, 16])
def test_no_query_is_cut(artifact, max_length):
    tokenizer = PairTokenizer((artifact / "tokenizer.json").read_bytes(), max_length)
    pools = generated_pools(WORDS, tokenizer, max_length, 1000)
    assert not any(tokenizer.encode(pool.query, []).query_tokens_cut for pool in pools)


def test_words_are_those_of_queries_and_documents_once():
    assert words_of([Pool(qid="1", query="b a", documents=["a c", ""]), Pool(qid="2", query="", documents=["d\ta"])]) == list(
        "abcd"
    )
