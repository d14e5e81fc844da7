from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resift import InputError, Ranking
from resift.pools import reading as pools
from resift.pools.documents import read_documents
from resift.pools.reading import CandidatePool, decode_pool, read_lines
from resift.pools.source import read_pools
from tests.support.columns import columns_of

GOOD = b'{"query": "q", "documents": ["a"]}\n'


def ranking(documents, logits, **keywords):
    values = np.array(logits, np.float32)
    top_k = keywords.pop("top_k", None)
    return Ranking.of(documents, columns_of(values, scores=values / 2, **keywords), top_k=top_k)


def test_pools_of_both_formats_are_read_and_blank_lines_passed_over(file):
    content = (
        b'{"qid": 7, "query": "q", "documents": ["a", "b"]}\n\n  \r\n'
        b'{"qid": "x", "query": "r", "candidates": [{"docid": "d1", "text": "c", "rank": 1}, {"text": "d"}]}\r\n'
        b'{"query": "s", "documents": []}'
    )
    assert list(read_pools(file(content))) == [
        CandidatePool("q", ["a", "b"], 7),
        CandidatePool("r", ["c", "d"], "x", [{"docid": "d1", "rank": 1}, {}]),
        CandidatePool("s", []),
    ]


def test_gzip_is_read_by_name(file):
    path = file(gzip.compress(GOOD * 3), "pools.jsonl.gz")
    assert [pool.documents for pool in read_pools(path)] == [["a"]] * 3


def test_a_dash_is_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(GOOD + b"[]\n")))
    found = read_pools("-")
    assert next(found) == CandidatePool("q", ["a"])
    with pytest.raises(InputError, match="-, line 2: a list; expected a JSON object"):
        next(found)


@given(st.text(), st.lists(st.text()), st.none() | st.text() | st.integers(-(2**63), 2**63 - 1))
def test_any_text_survives(query, documents, qid):
    line = json.dumps({"qid": qid, "query": query, "documents": documents}).encode()
    assert decode_pool(line, "here") == CandidatePool(query, documents, qid)


BAD = {
    "not JSON": (b"query", "not JSON"),
    "cut off": (GOOD[:-3], "not JSON"),
    "two objects": (b"{} {}", "not JSON"),
    "NaN": (
        b'{"query": "q", "candidates": [{"text": "a", "score": NaN}]}',
        "not JSON: NaN at byte 53 (JSON has no such number: write null",
    ),
    "infinity": (b'{"query": "q", "candidates": [{"text": "a", "score": Infinity}]}', "not JSON: Infinity at byte 53 (JSON"),
    "minus infinity": (b'{"query": "\\"NaN", "documents": [-Infinity]}', "not JSON: -Infinity at byte 33 (JSON"),
    "NaN in a text": (b'{"query": "NaN \\\\", "documents": x}', "not JSON: JSON is malformed"),
    "NaN where the fault is another's": (b'{"query": tru, "score": NaN}', "not JSON: JSON is malformed"),
    "NaN where nothing is JSON": (b"the NaN value", "not JSON: JSON is malformed"),
    "NaN in a text that does not end": (b'{"query": "NaN', "not JSON: JSON is malformed"),
    "invalid UTF-8 in a text": (b'{"query": "q\xff\xfe", "documents": []}', "not JSON: byte 12 is not UTF-8; expected"),
    "invalid UTF-8 in a key": (b'{"\xff": 1, "query": "q", "documents": []}', "not JSON: byte 2 is not UTF-8; expected"),
    "invalid UTF-8 between texts": (b'{"query": "q",\xa0"documents": []}', "not JSON: byte 14 is not UTF-8; expected"),
    "half a character at the end": (b'{"query": "\xc3', "not JSON: byte 11 is not UTF-8; expected"),
    "nested too deep for Python": (b"[" * 100_000, "not JSON: nested deeper than 100 levels"),
    "nested too deep": (b"[" * 101 + b"]" * 101, "nested deeper than 100 levels"),
    "fields nested too deep": (
        b'{"query": "q", "candidates": [{"text": "a", "m": ' + b'{"a":[' * 49 + b"]}" * 49 + b"}]}",
        "nested deeper than 100 levels",
    ),
    "a lone surrogate at the end": (rb'{"query": "\ud800', "not JSON: "),
    "an escaped backslash": (rb'{"query": "\\ud800" x', "not JSON: JSON is malformed"),
    "a NUL": (b'{"query": "a\0", "documents": []}', "not JSON: a NUL at byte 12"),
    "a number beyond float": (b'{"query": "q", "candidates": [{"text": "a", "x": 1e999}]}', "not JSON: Number out of range"),
    "an integer beyond any": (b'{"query": "q", "candidates": [{"text": "a", "x": 1' + b"0" * 5000 + b"}]}", "out of range"),
    "no object": (b"[1]", "a list; expected a JSON object"),
    "null": (b"null", "missing or null; expected a JSON object"),
    "no query": (b'{"documents": []}', "'query' is missing or null; expected a string"),
    "query is a number": (b'{"query": 1.5, "documents": []}', "'query' is a number; expected a string"),
    "qid is a boolean": (b'{"qid": true, "query": "q", "documents": []}', "'qid' is a boolean; expected a string or an integer"),
    "qid is a fraction": (b'{"qid": 1.5, "query": "q", "documents": []}', "'qid' is a number; expected a string or an integer"),
    "no documents": (b'{"query": "q", "docs": []}', "expected either 'documents' or 'candidates'; found the keys query, docs"),
    "both": (b'{"query": "q", "documents": [], "candidates": []}', "expected either 'documents' or 'candidates'"),
    "documents is a string": (b'{"query": "q", "documents": "a"}', "'documents' or 'candidates' is a string; expected a list"),
    "candidates is null": (b'{"query": "q", "candidates": null}', "'documents' or 'candidates' is missing or null"),
    "a document is an object": (
        b'{"query": "q", "documents": ["a", {"text": "b"}]}',
        "documents[1] is an object; expected a string",
    ),
    "a candidate is a string": (b'{"query": "q", "candidates": [{"text": "a"}, "b"]}', "candidates[1]: a string; expected {"),
    "a candidate without text": (
        b'{"query": "q", "candidates": [{"docid": 1}]}',
        "candidates[0]: an object whose 'text' is missing or null",
    ),
    "a candidate's text is a list": (b'{"query": "q", "candidates": [{"text": []}]}', "an object whose 'text' is a list"),
}


@pytest.mark.parametrize(("line", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_line_is_an_input_error_naming_file_and_line(file, line, message):
    path = file(GOOD + b"\n" + line + b"\n" + GOOD)
    found = read_pools(path)
    assert next(found).query == "q"
    with pytest.raises(InputError) as caught:
        next(found)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert message in str(caught.value)


def test_the_deepest_line_that_is_read_can_be_written_again():
    line = b'{"query": "q", "candidates": [{"text": "a", "m": ' + b"[" * 97 + b"]" * 97 + b"}]}"
    pool = decode_pool(line, "here")
    assert b"[" * 97 + b"]" * 97 in msgspec.json.encode(pool.ranked(ranking(pool.documents, [1])))


def test_of_a_name_that_comes_twice_the_last_value_counts():
    line = b'{"query": "q", "query": "r", "documents": ["a"], "documents": ["b"]}'
    assert decode_pool(line, "here") == CandidatePool("r", ["b"])


TEXT = "low tide\nhigh tide\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%b\nsize 5000000\n" % (b"0" * 64)
OTHER_KINDS = {
    "UTF-16 little-endian": (TEXT.encode("utf-16-le"), "UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8"),
    "UTF-16 big-endian": (TEXT.encode("utf-16-be"), "UTF-16 text; convert it"),
    "UTF-16 with a mark": (codecs.BOM_UTF16_LE + "潮\n".encode("utf-16-le"), "UTF-16 text; convert it"),
    "UTF-16 with the other mark": (codecs.BOM_UTF16_BE + "潮\n".encode("utf-16-be"), "UTF-16 text; convert it"),
    "UTF-16 of one line": ("a".encode("utf-16-le"), "UTF-16 text; convert it"),
    "UTF-16 that begins with a blank line": ("\r\na\n".encode("utf-16-le"), "UTF-16 text; convert it"),
    "UTF-16 JSON": ('{"text": "a"}\n'.encode("utf-16-le"), "UTF-16 text; convert it"),
    "UTF-32 little-endian": (TEXT.encode("utf-32-le"), "UTF-32 text; convert it: iconv -f UTF-32 -t UTF-8"),
    "UTF-32 big-endian": (TEXT.encode("utf-32-be"), "UTF-32 text; convert it"),
    "UTF-32 with a mark": (codecs.BOM_UTF32_LE + "潮\n".encode("utf-32-le"), "UTF-32 text; convert it"),
    "UTF-32 with the other mark": (codecs.BOM_UTF32_BE + "潮\n".encode("utf-32-be"), "UTF-32 text; convert it"),
    "gzip": (gzip.compress(TEXT.encode()), "compressed with gzip; give it a name that ends in .gz"),
    "xz": (lzma.compress(TEXT.encode()), "compressed with xz; unpack it"),
    "bzip2": (bz2.compress(TEXT.encode()), "compressed with bzip2; unpack it"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x58", "compressed with zstd; unpack it"),
    "zip": (b"PK\x03\x04\x14\0\0\0", "a zip archive"),
    "parquet": (
        b"PAR1\x15\x04\x15\x40",
        "a parquet file; rank its rows with --pools, under a name that ends in .parquet",
    ),
    "Git LFS": (POINTER, "a Git LFS pointer, not the file itself, which was not downloaded; fetch it with `git lfs pull`"),
}


@pytest.mark.parametrize("name", ["documents.txt", "documents.gz"])
@pytest.mark.parametrize(
    "read", [lambda path: read_documents(path, "q"), lambda path: list(read_pools(path))], ids=["documents", "pools"]
)
@pytest.mark.parametrize(("content", "kind"), OTHER_KINDS.values(), ids=OTHER_KINDS.keys())
def test_a_file_of_another_kind_is_called_what_it_is(file, content, kind, read, name):
    path = file(gzip.compress(content) if name.endswith(".gz") else content, name)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path} is {kind}")


def test_a_pointer_in_place_of_a_compressed_file_is_called_what_it_is(file):
    path = file(POINTER, "pools.jsonl.gz")
    with pytest.raises(InputError, match=r"pools\.jsonl\.gz is a Git LFS pointer, .* `git lfs pull`$"):
        list(read_pools(path))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"\n" + TEXT.encode("utf-16-le"), 2),
        ("潮の\n満ち\n".encode("utf-16-le"), 2),
        (b"\x7fELF\x02\x01\0\0", 1),
        (b"a\nb\0\n", 2),
        (b"SQLite format 3\0", 1),
    ],
)
def test_a_nul_is_refused_with_its_line(file, content, line):
    path = file(content)
    with pytest.raises(InputError, match=rf"{path}, line {line}: (a NUL at byte \d+|not UTF-8 at byte \d+); expected UTF-8 text"):
        read_documents(path, "q")


@pytest.mark.parametrize("content", [b"PAR1 is a gene\n", b"PK and more\n", b"BZhang wrote this\n", b"a\n", b"\t\n\na"])
def test_text_that_begins_like_another_kind_is_text(file, content):
    assert read_documents(file(content), "q").documents == [line for line in content.decode().split("\n") if line.strip()]


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_what_cannot_name_a_file_is_an_input_error(name):
    with pytest.raises(InputError, match="is not a file name; expected one, or - for standard input"):
        list(read_lines(name))


def test_a_closed_standard_input_is_an_input_error(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(InputError, match="standard input is closed"):
        list(read_lines("-"))


PACKED = gzip.compress(GOOD * 100, mtime=0)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(PACKED[:-20], id="truncated"),
        pytest.param(PACKED[:10] + b"\x07" + PACKED[11:], id="damaged"),  # a block of the reserved kind
        pytest.param(PACKED[:-8] + bytes(8), id="wrong checksum"),
        pytest.param(GOOD, id="not gzip"),
    ],
)
def test_a_broken_gzip_is_an_input_error_naming_the_file(file, content):
    path = file(content, "pools.jsonl.gz")
    with pytest.raises(InputError) as caught:
        list(read_pools(path))
    assert str(caught.value).startswith(f"{path} cannot be read: ")


@pytest.mark.parametrize("read", [read_lines, read_pools, lambda path: read_documents(path, "q")])
def test_a_file_that_cannot_be_opened_is_an_input_error_naming_it(tmp_path, read):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(InputError, match=rf"{path} cannot be read"):
            list(read(path))


def test_a_line_over_the_limit_is_an_input_error_naming_it(file, monkeypatch):
    monkeypatch.setattr(pools, "LINE_LIMIT", 10)
    lines = read_lines(file(b"0123456789"))
    assert list(lines) == [(1, b"0123456789")]
    with pytest.raises(InputError, match="line 2: longer than 10 bytes"):
        list(read_lines(file(b"short\n01234567890\n")))


def test_a_ranked_pool_keeps_every_candidates_unknown_fields():
    line = b'{"qid": "x", "query": "q", "candidates": [{"docid": 5, "text": "a", "meta": {"k": [1, null]}}, {"text": "b", "u": 2}]}'
    pool = decode_pool(line, "here")
    ranked = pool.ranked(ranking(pool.documents, [-1, 3]))
    assert json.loads(json.dumps(ranked)) == {
        "qid": "x",
        "query": "q",
        "results": [
            {"u": 2, "index": 1, "score": 1.5, "logit": 3, "scored_by": "full", "tokens_cut": 0},
            {"docid": 5, "meta": {"k": [1, None]}, "index": 0, "score": -0.5, "logit": -1, "scored_by": "full", "tokens_cut": 0},
        ],
    }


def test_a_candidates_field_of_our_name_comes_out_as_given():
    pool = decode_pool(b'{"query": "q", "candidates": [{"text": "a", "score": 99, "index": 99}]}', "here")
    assert pool.ranked(ranking(["a"], [2]))["results"] == [
        {"index": 0, "score": 1, "logit": 2, "scored_by": "full", "tokens_cut": 0, "given_score": 99, "given_index": 99}
    ]


OURS = ("index", "score", "logit", "scored_by", "tokens_cut", "document")


@given(
    st.dictionaries(
        st.tuples(st.integers(0, 3), st.sampled_from([*OURS, "docid"])).map(lambda found: "given_" * found[0] + found[1]),
        st.integers(),
    )
)
@example({"score": 1, "given_score": 2})
@example({"given_score": 2, "score": 1, "given_given_score": 3})
def test_no_field_of_a_candidate_is_lost(fields):
    pool = CandidatePool("q", ["a"], None, [fields])
    for with_documents in (False, True):
        (result,) = pool.ranked(ranking(["a"], [2]), with_documents=with_documents)["results"]
        own = OURS if with_documents else OURS[:5]
        assert [result[name] for name in own] == [0, 1, 2, "full", 0, "a"][: len(own)]
        assert {name: result[name] for name in fields if name not in own} == {
            name: value for name, value in fields.items() if name not in own
        }
        assert sorted(value for name, value in result.items() if name not in own) == sorted(fields.values())


def test_a_field_that_was_given_already_is_given_twice():
    pool = CandidatePool("q", ["a"], None, [{"score": 1, "given_score": 2}])
    assert pool.ranked(ranking(["a"], [2]))["results"] == [
        {"given_given_score": 1, "given_score": 2, "index": 0, "score": 1, "logit": 2, "scored_by": "full", "tokens_cut": 0}
    ]


def test_a_ranked_pool_of_plain_documents_has_no_more_than_was_asked_for():
    pool = CandidatePool("q", ["a", "b"])
    found = ranking(pool.documents, [1, 2], top_k=1)
    assert pool.ranked(found) == {
        "query": "q",
        "results": [{"index": 1, "score": 1, "logit": 2, "scored_by": "full", "tokens_cut": 0}],
    }
    assert [result["document"] for result in pool.ranked(found, with_documents=True)["results"]] == ["b"]


def test_a_ranked_pool_says_which_cuts_are_lower_bounds():
    found = ranking(["a", "b"], [2, 1], tokens_cut_at_least=np.array([False, True]))
    first, second = CandidatePool("q", ["a", "b"]).ranked(found, with_documents=True)["results"]
    assert list(first) == ["index", "score", "logit", "scored_by", "tokens_cut", "document"]
    assert list(second) == ["index", "score", "logit", "scored_by", "tokens_cut", "tokens_cut_at_least", "document"]
    assert second["tokens_cut_at_least"] is True


def test_a_ranked_pool_tells_of_a_cut_query():
    assert CandidatePool("q", ["a"], 0).ranked(ranking(["a"], [1], query_tokens_cut=4)) == {
        "qid": 0,
        "query_tokens_cut": 4,
        "query": "q",
        "results": [{"index": 0, "score": 0.5, "logit": 1, "scored_by": "full", "tokens_cut": 0}],
    }
