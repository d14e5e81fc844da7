"""Another engine's scores: runs and ranked pools, whole or in part, and what is refused."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from resift.errors import InputError
from resift.evaluate.scoresfile import read_scores
from resift.pools.reading import CandidatePool

NAN = float("nan")


def pool(qid, docids):
    return CandidatePool("why", [f"text {docid}" for docid in docids], qid, [{"docid": docid} for docid in docids])


POOLS = [pool("q", ["a", "b", "c"]), pool("7", ["x", "y"])]


@pytest.fixture
def read(file):
    """read(content): keys and scores as lists, by query."""

    def parse(content, name="scores", pools=POOLS):
        found = read_scores(file(content, name), pools)
        return {qid: (keys.tolist(), scores.tolist()) for qid, (keys, scores) in found.items()}

    return parse


def same(found, expected):
    assert found.keys() == expected.keys()
    for qid, columns in expected.items():
        assert np.array_equal(found[qid], columns, equal_nan=True), qid


def test_a_run_ranks_by_score_then_by_rank(read):
    run = b"q Q0 a 2 0.5 x\nq Q0 b 1 0.5 x\n7 Q0 x 1 -2 x\nq Q0 c 9 8e1 x\n7 Q0 y 2 -1 x\n"
    same(read(run), {"q": ([-2, -1, 0], [0.5, 0.5, 80]), "7": ([-1, 0], [-2, -1])})


def test_ranked_pools_rank_as_they_are_listed(read):
    # Saturated scores tie; the list does not.
    lines = b"""{"qid": "q", "results": [{"docid": "c", "score": 1.0}, {"docid": "a", "score": 1.0}, {"docid": "b", "score": null}]}
{"qid": 7, "query": "?", "results": [{"index": 1, "score": 2}, {"index": 0, "score": 1}]}
"""
    same(read(lines), {"q": ([-1, -2, 0], [1, NAN, 1]), "7": ([-1, 0], [1, 2])})


def test_an_index_is_a_position_in_the_file_though_a_candidate_was_left_out(read):
    lines = b"""{"qid": "q", "results": [{"index": 2, "score": 3}, {"index": 1, "score": 2}, {"index": 0, "score": 1}]}
{"qid": "7", "results": [{"docid": "y", "score": 2}, {"docid": "x", "score": 1}]}
"""
    same(read(lines, pools=[POOLS[0].select([0, 2]), POOLS[1]]), {"q": ([-1, 0], [1, 3]), "7": ([-1, 0], [1, 2])})


def test_candidates_without_a_score_rank_last_in_the_order_given(read):
    run = b"q Q0 c 1 -5 x\n7 Q0 y 1 3 x\n"
    same(read(run), {"q": ([-1, -2, 0], [NAN, NAN, -5]), "7": ([-1, 0], [NAN, 3])})


def test_other_queries_and_documents_do_not_matter(read):
    run = b"p Q0 a 1 3 x\nq Q0 zzz 1 3 x\nq Q0 a 2 2 x\n7 Q0 x 1 1 x\np Q0 a 1 3 x\n"
    same(read(run), {"q": ([0, -1, -2], [2, NAN, NAN]), "7": ([0, -1], [1, NAN])})
    lines = (
        b'{"qid": "p", "results": [{"docid": "a"}]}\n{"qid": "q", "results": [{"docid": "zzz"}, {"docid": "b"}, {"index": 99}]}\n'
    )
    same(read(lines, pools=POOLS[:1]), {"q": ([-1, 0, -2], [NAN, NAN, NAN])})


def test_a_compressed_file(read):
    same(read(gzip.compress(b"q Q0 b 1 1 x\n"), "run.gz", POOLS[:1]), {"q": ([-1, 0, -2], [NAN, 1, NAN])})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no candidate of query 'q'"),
        (b"q Q0 a 1 1 x\n", "holds no candidate of query '7'"),
        (b"q Q0 zzz 1 1 x\n7 Q0 x 1 1 x\n", "holds no candidate of query 'q'"),
        (b"q Q0 a 1 1 x\nq Q0 a 1\n", "line 2: 4 columns; expected 'qid Q0 docid rank score tag'.*, or {\"qid\""),
        (b"q Q0 a 1 high x\n", "line 1: the score is 'high'; expected a number"),
        (b"q Q0 a 1 nan x\n", "line 1: the score is 'nan'; expected a number"),
        (b"q Q0 a -inf 1 x\n", "line 1: the rank is '-inf'; expected an integer"),
        (b"q Q0 a 1 1 x\nq Q0 a 2 1 x\n", "line 2: this document occurs again for this query"),
        (b"q Q0 \xff 1 1 x\n", "line 1: .*UTF-8"),
        (b'{"qid": "q", "results": []}\n{"qid": "q", "results": []}\n', "line 2: query 'q' again"),
        (b'{"query": "?", "results": []}\n', 'line 1: expected {"qid", "results"'),
        (b'{"qid": true, "results": []}\n', "line 1: expected"),
        (b'{"qid": "q", "candidates": []}\n', "line 1: expected"),
        (b'{"qid": "q", "results": ["a"]}\n', r"line 1: results\[0\] has neither a 'docid' nor an 'index'"),
        (b'{"qid": "q", "results": [{"index": -1}]}\n', r"line 1: results\[0\] has neither"),
        (
            b'{"qid": "q", "results": [{"docid": "a"}, {"index": 0}]}\n',
            r"line 1: results\[1\]: this document occurs again for this query",
        ),
        (b'{"qid": "q", "results": [{"docid": "a", "score": "1"}]}\n', r"line 1: results\[0\] has the score '1'"),
        (
            b'{"qid": "q", "results": [{"docid": "a", "score": 1%b}]}\n' % (b"0" * 400),
            r"line 1: results\[0\] has the score 1000.*; expected a number or null",
        ),
        (b'{"qid": "q", "results": [\n', "line 1: not JSON"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_line(read, content, message):
    with pytest.raises(InputError, match=message):
        read(content)
