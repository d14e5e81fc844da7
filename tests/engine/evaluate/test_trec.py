"""TREC's formats: judgements and runs."""

from __future__ import annotations

import gzip
import re

import pytest

from resift import InputError
from resift.pools.reading import read_lines
from resift.pools.trec import LABEL_LIMIT, read_qrels, read_run


def run_of(path, depth=100):
    return list(read_run(path, read_lines(path), depth))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"1 0 a 2\n1 0 b 0\nx 0 a 1\n", id="spaces"),
        pytest.param(b"1\t0\ta\t2\n1\tQ0\tb\t0\nx\t0\ta\t1", id="tabs"),
        pytest.param(b"  1 \t 0  a\t2 \n\n1 0 b +0\nx 0\ta 1\n", id="both, and blank lines"),
        pytest.param(b"\xef\xbb\xbf1 0 a 2\r\n1 0 b 0\r\nx 0 a 1\r\n", id="BOM and CRLF"),
        pytest.param(b"query-id\tcorpus-id\tscore\r\n1\ta\t2\r\n1\tb\t0\r\nx\ta\t1\r\n", id="BEIR"),
        pytest.param(b"\xef\xbb\xbfquery-id\tcorpus-id\tscore\n1\ta\t2\n1\tb\t0\nx\ta\t1\n", id="BEIR and BOM"),
        pytest.param(b"1\ta\t2\n1\tb\t0\nx\ta\t1\n", id="BEIR without a header"),
    ],
)
def test_judgements_are_read_in_every_form(file, content):
    expected = {"1": {"a": 2, "b": 0}, "x": {"a": 1}}
    assert read_qrels(file(content, "some.qrels")) == expected
    assert read_qrels(file(gzip.compress(content), "some.qrels.gz")) == expected


def test_a_docid_with_a_space_is_one_docid_under_beirs_header(file):
    assert read_qrels(file(b"query-id\tcorpus-id\tscore\n1\tdoc 7\t1\n", "test.tsv")) == {"1": {"doc 7": 1}}


def test_labels_below_0_are_not_relevant(file):
    assert read_qrels(file(b"1 0 a -1\n1 0 b -2\n1 0 c 1\n", "q.qrels")) == {"1": {"a": 0, "b": 0, "c": 1}}


@pytest.mark.parametrize(
    ("lines", "number", "message"),
    [
        ([b"1 0 a"], 2, "3 columns; expected 'qid 0 docid label'"),
        ([b"1 0 a 1 x"], 2, "5 columns"),
        ([b"1 0 a 1.0"], 2, "the label is '1.0'; expected an integer"),
        ([b"1 0 a true"], 2, "the label is 'true'"),
        ([b"1 0 a \xd9\xa3"], 2, "expected an integer"),  # a digit, but Arabic
        ([b"1 0 a " + b"9" * 5000], 2, "expected an integer"),
        ([b"1 0 a %d" % (LABEL_LIMIT + 1)], 2, f"at most {LABEL_LIMIT}"),
        ([b"", b"1 0 b 0"], 3, "document 'b' is judged again for query '1'"),
        ([b"1 0 caf\xe9 1"], 2, "not UTF-8 at byte 7"),
        ([b"1 0 a\0 1"], 2, "a NUL at byte 5"),
        ([b"1\ta\t1"], 2, "3 columns"),
    ],
)
def test_a_bad_judgement_names_file_and_line(file, lines, number, message):
    path = file(b"\n".join([b"1 0 b 1", *lines]), "q.qrels")
    with pytest.raises(InputError) as caught:
        read_qrels(path)
    assert str(caught.value).startswith(f"{path}, line {number}: ")
    assert message in str(caught.value)


def test_the_first_of_beirs_judgements_is_no_header_because_its_label_is_bad(file):
    with pytest.raises(InputError, match=r"line 1: the label is '2\.5'"):
        read_qrels(file(b"1\ta\t2.5\n1\tb\t1\n", "test.tsv"))


@pytest.mark.parametrize("line", [b"1\ta\tb\t1", b"1 0 a 1", b"1\t\t1"])
def test_beirs_judgements_have_three_columns(file, line):
    with pytest.raises(InputError, match=r"line 2: \d columns"):
        read_qrels(file(b"query-id\tcorpus-id\tscore\n" + line, "test.tsv"))


@pytest.mark.parametrize("content", [b"", b"\n \n", b"query-id\tcorpus-id\tscore\n"])
def test_no_judgements_are_an_error(file, content):
    with pytest.raises(InputError, match=r"q\.qrels holds no judgements; expected"):
        read_qrels(file(content, "q.qrels"))


def test_a_run_is_sorted_by_score_then_by_rank_then_as_given(file):
    rows = [("low", 1, 0.5), ("tied later", 7, 3), ("high", 9, 1e1), ("tied", 2, 3.0), ("z", 5, -1), ("a", 5, -1.0)]
    lines = "".join(f"q\tQ0\t{docid.replace(' ', '-')} {rank} {score} tag\n" for docid, rank, score in rows)
    path = file(lines.encode(), "x.run")
    assert run_of(path) == [("q", {"high": 3, "tied": 4, "tied-later": 2, "low": 1, "z": 5, "a": 6})]
    assert [list(found.items()) for _, found in run_of(path, depth=2)] == [[("high", 3), ("tied", 4)]]


def test_each_query_of_a_run_comes_as_soon_as_its_lines_end():
    def lines():
        yield 1, b"a Q0 d 1 2 t\n"
        yield 2, b"b Q0 d 1 2 t\n"
        raise AssertionError("read too far")

    assert next(read_run("x.run", lines(), 100)) == ("a", {"d": 1})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"1 Q0 b 2 1.0", "5 columns; expected 'qid Q0 docid rank score tag'"),
        (b"1 Q0 b 2 1.0 my tag", "7 columns"),
        (b"1 Q0 b first 1.0 t", "the rank is 'first'; expected an integer"),
        (b"1 Q0 b 2 high t", "the score is 'high'; expected a number"),
        (b"1 Q0 b 2 nan t", "the score is 'nan'"),
        (b"1 Q0 b 2 1e999 t", "the score is '1e999'"),
        (b"1 Q0 a 2 1.0 t", "document 'a' again for query '1'; it is in line 1"),
        (b"0 Q0 a 1 1.0 t\n1 Q0 b 2 1.0 t", "query '1' again, after others; sort the run by query: sort -s -k1,1"),
        (b"1 Q0 b\xe9 2 1.0 t", "not UTF-8"),
        (b"1 Q0 b\0 2 1.0 t", "a NUL"),
    ],
)
def test_a_bad_line_of_a_run_names_file_and_line(file, line, message):
    path = file(b"1 Q0 a 1 2.0 t\n" + line, "x.run")
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        run_of(path, depth=1)
    assert str(caught.value).startswith(f"{path}, line {2 + line.count(10)}: ")
