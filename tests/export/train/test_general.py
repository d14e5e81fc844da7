"""General pairs against forgetting, and guards: which queries are left out of them, and how often each pair is drawn."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from resift.encoding.tokenizer import PairTokenizer
from resift.errors import InputError
from resift.retrieval.words import key_of
from resift_export.train.general import draw, read_general
from resift_export.train.judge import GUARD, read_guards
from resift_export.train.pairs import document_key
from tests.support import tiny, trainings


@pytest.fixture(scope="module")
def tokenizer():
    return PairTokenizer(tiny.backend("bert").to_str().encode(), 48)


def pools(tmp_path, queries):
    rows = [{"query": query, "documents": [f"{number} of {query}" for number in range(3)]} for query in queries]
    return trainings.write(tmp_path / "pools.jsonl", rows)


def test_held_out_and_long_queries_are_not_among_the_general_pairs(tmp_path, tokenizer):
    path = pools(tmp_path, ["Why tides?", "what is rain", "why " * 60])
    general = read_general([path], {key_of("why TIDES")}, set(), tokenizer)
    assert [query for query, _ in general.pairs] == ["what is rain"] * 3
    assert (general.files[0].name, general.files[0].rows) == ("pools.jsonl", 3)
    with pytest.raises(InputError, match=r"pools\.jsonl: no pair to keep"):
        read_general([path], {key_of("why tides"), key_of("what is rain")}, set(), tokenizer)


def test_answers_of_held_out_queries_are_not_among_the_general_pairs(tmp_path, tokenizer):
    path = pools(tmp_path, ["what is rain"])
    general = read_general([path], set(), {document_key("1 of What is rain?")}, tokenizer)
    assert [document for _, document in general.pairs] == ["0 of what is rain", "2 of what is rain"]


def test_the_built_in_pairs(tokenizer):
    """Texts of the package's own, none of which is of a query of the built-in guard."""
    (guard,) = read_guards([], tokenizer)
    keys = {key_of(pool.query) for pool in guard.pools}
    general = read_general([], keys, set(), tokenizer)
    assert general.files == []
    assert len(general.pairs) > 100
    assert keys.isdisjoint(key_of(query) for query, _ in general.pairs)


def test_every_pair_is_drawn_as_often_as_any_other():
    pairs = [(f"q{number}", "d") for number in range(7)]
    drawn = draw(pairs, 24, seed=3)
    assert sorted(Counter(drawn).values()) == [3, 3, 3, 3, 4, 4, 4]
    assert drawn == draw(pairs, 24, seed=3) != draw(pairs, 24, seed=4)
    assert len(set(draw(pairs, 5, seed=0))) == 5


def test_guards_without_queries_that_are_too_long(tmp_path, tokenizer):
    rows = [
        {
            "qid": str(number),
            "query": query,
            "candidates": [{"docid": "a", "text": "a", "label": 1}, {"docid": "b", "text": "b", "label": 0}],
        }
        for number, query in enumerate(["tides", "why " * 60])
    ]
    path = tmp_path / "guard.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    built_in, own = read_guards([path], tokenizer)
    assert (built_in.name, own.name) == (GUARD, "guard")
    assert [pool.query for pool in own.pools] == ["tides"]
    path.write_text(json.dumps(rows[1]) + "\n")
    with pytest.raises(InputError, match="guard has no query to guard that the model reads whole"):
        read_guards([path], tokenizer)
