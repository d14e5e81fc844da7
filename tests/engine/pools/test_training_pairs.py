"""Files of training pairs are read as they were written, and what cannot be used is named by its line."""

from __future__ import annotations

import gzip
import json
import time
from itertools import count

import pytest

from resift import InputError, OutputError
from resift.pools.training_pairs import TrainingDocument, TrainingPairs, read_pairs, write_pairs

PAIRS = [
    TrainingPairs(
        "what causes tides",
        [TrainingDocument("The moon does.", "d1", score=4.25)],
        [TrainingDocument("Tidal is a music service.", "d2", score=-3.5, rank=11), TrainingDocument("Ebb 潮", rank=12)],
        "q1",
    ),
    TrainingPairs("why", [TrainingDocument("")], []),
]


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz"])
def test_pairs_are_read_as_they_were_written_and_are_the_same_bytes_again(tmp_path, name, monkeypatch):
    days = count(0, 86_400)
    monkeypatch.setattr(time, "time", lambda: next(days))  # gzip would write it
    paths = [tmp_path / part / name for part in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        assert write_pairs(path, PAIRS) == 2
        assert list(read_pairs(path)) == PAIRS
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert [path.name for path in paths[0].parent.iterdir()] == [name]


def test_what_is_not_known_is_left_out(tmp_path):
    write_pairs(tmp_path / "pairs.jsonl.gz", PAIRS)
    lines = gzip.decompress((tmp_path / "pairs.jsonl.gz").read_bytes()).splitlines()
    assert json.loads(lines[1]) == {"query": "why", "positive": [{"text": ""}], "negative": []}


def test_plain_texts_stand_for_documents(tmp_path):
    path = tmp_path / "triplets.jsonl"
    path.write_text('{"query": "q", "positive": "a", "negative": ["b", {"content": "c", "docid": 7, "label": 0}]}\n\n')
    (found,) = read_pairs(path)
    assert (found.positive, found.is_scored()) == ([TrainingDocument("a")], False)
    assert found.negative == [TrainingDocument("b"), TrainingDocument("c", "7")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"positive": ["a"]}', "'query' is missing or null"),
        ('{"query": "q", "negative": ["a"]}', "no 'positive'"),
        ('{"query": "q", "positive": {"text": "a"}}', "positive is an object; expected a list"),
        ('{"query": "q", "positive": [3]}', r"positive\[0\]: a number"),
        ('{"query": "q", "positive": [{"text": "a", "score": "high"}]}', r"positive\[0\]: 'score' is 'high'"),
        ('{"query": "q", "positive": [{"text": "a", "score": 1e400}]}', "not JSON|'score' is inf"),
        ('{"query": "q", "positive": [{"text": "a", "score": 1' + "0" * 400 + "}]}", r"'score' is 1000"),
        ('{"query": "q", "positive": ["a"], "negative": [{"text": "b", "rank": 0}]}', r"negative\[0\]: 'rank' is 0"),
        ('{"query": "q", "positive": [{"text": "a", "docid": ""}]}', "'docid' is ''"),
        ("query\tpositive", "not JSON"),
    ],
)
def test_what_cannot_be_used_is_named_by_its_line(tmp_path, line, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text(f'{{"query": "q", "positive": ["a"]}}\r\n{line}\n')
    with pytest.raises(InputError, match=rf"pairs\.jsonl, line 2: .*({message})"):
        list(read_pairs(path))


def test_a_failure_on_the_way_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("earlier")

    def failing():
        yield PAIRS[0]
        raise InputError("no more")

    with pytest.raises(InputError, match="no more"):
        write_pairs(path, failing())
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("pairs.jsonl", "earlier")]


def test_a_folder_is_no_file_to_write(tmp_path):
    with pytest.raises(OutputError, match="not a regular file"):
        write_pairs(tmp_path, PAIRS)
