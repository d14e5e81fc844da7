"""Pools from TREC runs and BEIR folders, and how the form of an input is recognized."""

from __future__ import annotations

import json

import pytest

from resift import InputError
from resift.documents import DocumentTemplate
from resift.pools.reading import CandidatePool
from resift.pools.source import Source, read_pools

RUN = "q2 Q0 d3 1 9.5 bm25\nq1 0 d1 2 3 bm25\nq1 0 d2 1 4 bm25\nq1 0 d3 3 3 bm25\n"
CORPUS = [
    {"_id": "d1", "title": "Tides", "text": "The moon pulls."},
    {"_id": "d2", "text": "Bread rises."},
    {"docid": 3, "title": "", "text": "Yeast."},
    {"id": "d3", "title": "Gas", "text": ""},
]
QUERIES = [{"_id": "q1", "text": "what causes tides"}, {"qid": "q2", "query": "what is gas"}]
POOLS = [
    CandidatePool("what is gas", ["Gas"], "q2", [{"docid": "d3"}]),
    CandidatePool(
        "what causes tides",
        ["Bread rises.", "Tides The moon pulls.", "Gas"],
        "q1",
        [{"docid": "d2"}, {"docid": "d1"}, {"docid": "d3"}],
    ),
]


@pytest.fixture
def folder(tmp_path):
    """A BEIR folder, with a run next to its files."""
    for name, rows in (("corpus.jsonl", CORPUS), ("queries.jsonl", QUERIES)):
        (tmp_path / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "run.trec").write_text(RUN)
    return tmp_path


def opened(path, **options):
    """The pools of a source."""
    source = Source(path, **options)
    try:
        source.check()
        return [pool for _, _, _, pool in source.checked()]
    finally:
        source.close()


def texts_of(folder):
    return {"texts": folder / "corpus.jsonl", "queries": folder / "queries.jsonl"}


def test_a_folder_with_a_run_and_a_run_with_texts_are_the_same_pools(folder):
    assert opened(folder, run=folder / "run.trec") == POOLS
    assert opened(folder / "run.trec", **texts_of(folder)) == POOLS


def test_queries_may_be_separated_by_tabs(folder):
    (folder / "topics.tsv").write_text("q1\twhat causes tides\nq2\twhat is gas\n")
    options = {"texts": folder / "corpus.jsonl", "queries": folder / "topics.tsv"}
    assert opened(folder / "run.trec", **options) == POOLS


def test_the_best_documents_of_a_run_are_those_of_the_highest_scores(folder):
    found = opened(folder, run=folder / "run.trec", depth=2)
    assert [[fields["docid"] for fields in pool.fields] for pool in found] == [["d3"], ["d2", "d1"]]


def test_a_template_says_what_is_read_of_a_document(folder):
    found = opened(folder, run=folder / "run.trec", template=DocumentTemplate.parse("{text}"), depth=2)
    assert [pool.documents for pool in found] == [[""], ["Bread rises.", "The moon pulls."]]


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (RUN + "q1 0 d1 4 1 bm25\n", "line 5: document 'd1' again for query 'q1'; it is in line 2"),
        (RUN + "q2 0 d1 4 1 bm25\n", "line 5: query 'q2' again, after others; sort the run by query"),
        (RUN + "q3 0 d1 4 1 bm25\n", "line 5: query 'q3' is not in {folder}/queries.jsonl"),
        (RUN + "q1 0 d9 4 1 bm25\n", "line 5: document 'd9' is not in {folder}/corpus.jsonl"),
        (RUN + "q1 0 d9 4 bm25\n", "line 5: 5 columns; expected 'qid Q0 docid rank score tag'"),
    ],
)
def test_a_bad_line_of_a_run_is_named(folder, run, said):
    path = folder / "run.trec"
    path.write_text(run)
    with pytest.raises(InputError) as caught:
        opened(path, **texts_of(folder))
    assert str(caught.value).startswith(f"{path}, {said.format(folder=folder)}")


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("run.tsv", RUN.replace(" ", "\t"), "run"),
        ("run.csv", RUN, "run"),
        ("any", RUN, "run"),
        ("table.tsv", "qid\tquery\tdocument\tdocid\tlabel\ttitle\n", "tsv"),
        ("table.csv.gz.csv", "query,document\n", "csv"),
        ("pools", '  {"query": "a b c d e f"}', "jsonl"),
        ("lines.txt", "one two three 4 five six\n", "jsonl"),
        ("empty.tsv", "", "tsv"),
    ],
)
def test_a_form_is_recognized(tmp_path, name, content, form):
    (tmp_path / name).write_text(content)
    source = Source(tmp_path / name)
    source.close()
    assert source.form == form


def test_what_an_input_lacks_or_has_no_use_for_is_named(folder, file):
    pools = file(b'{"query": "q", "documents": []}\n', "pools.jsonl")
    (folder / "empty").mkdir()
    for path, options, said in [
        (folder / "run.trec", {}, "is a TREC run, which holds no texts; name them: --texts FILE and --queries FILE"),
        (folder / "run.trec", {"texts": "t"}, "holds no texts; name them: --queries FILE"),
        (pools, {"texts": "t"}, "is no TREC run; --texts cannot be used with it"),
        (folder, {"run": folder / "run.trec", "queries": "q"}, "--queries cannot be used with it"),
        (folder, {}, "is a BEIR folder, whose candidates come from a retriever; name its TREC run: --run FILE"),
        (folder / "empty", {}, "a folder without corpus.jsonl or queries.jsonl; expected candidate pools"),
        (pools, {"run": folder / "run.trec"}, "--run is for a BEIR folder, but"),
    ]:
        with pytest.raises(InputError) as caught:
            opened(path, **options)
        assert said in str(caught.value)
    with pytest.raises(InputError, match="run\\.trec is a TREC run, which holds no texts"):
        list(read_pools(folder / "run.trec"))
