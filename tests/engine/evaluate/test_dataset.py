"""Labelled data: candidate pools, BEIR folders and TREC runs."""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
import threading

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from resift import ExtraError, InputError
from resift.evaluate.data.dataset import DEPTH, read_dataset
from resift.evaluate.data.retrieve import bm25
from resift.pools.trec import LABEL_LIMIT


def pool(qid, labels, **fields):
    """A pool of one candidate for each label; its docids are a, b, c, ..."""
    candidates = [{"docid": "abcdefgh"[place], "text": f"text {place}", "label": label} for place, label in enumerate(labels)]
    return {"qid": qid, "query": f"query {qid}", "candidates": candidates, **fields}


def lines_of(*rows):
    return b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows)


@pytest.fixture
def pools(file):
    """pools(*rows, qrels=None): the path of a file of pools, with its judgements next to it."""

    def write(*rows, qrels=None):
        if qrels is not None:
            file(qrels, "data.qrels")
        return file(lines_of(*rows), "data.v2.jsonl")

    return write


@pytest.fixture
def beir(tmp_path):
    """A BEIR folder: three documents about tides, bread and chess, two queries of the split test, one of train."""
    folder = tmp_path / "little"
    (folder / "qrels").mkdir(parents=True)
    corpus = [
        {"_id": "t", "title": "Tides", "text": "The moon pulls the sea."},
        {"_id": 2, "text": "Bread rises by yeast; sea salt slows it.", "metadata": {}},
        {"_id": "c", "title": "", "text": "A bishop moves diagonally."},
    ]
    queries = [{"_id": "1", "text": "moon and sea"}, {"_id": 2, "text": "sea salt"}, {"_id": "3", "text": "a bishop"}]
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(lines_of(*corpus)))
    (folder / "queries.jsonl").write_bytes(lines_of(*queries))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\tt\t1\n2\t2\t2\n2\tt\t0\n9\tt\t1\n")
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n3\tc\t1\n")
    return folder


RUN = "1 Q0 2 1 0.5 r\n1 Q0 t 2 0.4 r\n1 Q0 c 3 0.3 r\n2 Q0 t 1 0.1 r\n2 Q0 2 2 0.2 r\n3 Q0 c 1 1 r\n3 Q0 t 1 0 r\n"


# candidate pools


def test_labels_come_from_the_candidates(pools):
    found = read_dataset(pools(pool("x", [0, 2, None, -1]), pool(7, [1, 0], extra=1)))
    assert (found.name, found.format, found.left_out) == ("data", "pools", {})
    assert [each.qid for each in found.pools] == ["x", "7"]
    assert found.qrels == {"x": {"a": 0, "b": 2, "d": 0}, "7": {"a": 1, "b": 0}}
    assert [found.labels(each) for each in found.pools] == [[0, 2, 0, 0], [1, 0]]
    assert found.pools[0].documents == ["text 0", "text 1", "text 2", "text 3"]
    assert found.pools[0].fields[1] == {"docid": "b", "label": 2}


def test_judgements_next_to_the_file_come_before_the_field(pools):
    found = read_dataset(pools(pool("x", [0, 2, 5]), pool(12, [0, 0]), qrels=b"x 0 a 3\nx 0 b 0\nx 0 elsewhere 1\n12 0 b 1\n"))
    assert [found.labels(each) for each in found.pools] == [[3, 0, 0], [0, 1]]
    assert found.qrels == {"x": {"a": 3, "b": 0, "elsewhere": 1}, "12": {"b": 1}}


def test_judgements_named_by_the_caller_come_before_those_next_to_the_file(pools, file):
    path = pools(pool("x", [0, 0]), qrels=b"x 0 a 1\n")
    assert read_dataset(path).labels(read_dataset(path).pools[0]) == [1, 0]
    found = read_dataset(path, qrels=file(b"x 0 b 2\n", "other"))
    assert found.labels(found.pools[0]) == [0, 2]


def test_ids_are_made_where_labels_need_none(pools):
    rows = [{"query": "q", "candidates": [{"text": "a", "label": 1}, {"text": "b", "docid": None}]}]
    found = read_dataset(pools(b"", *rows, *rows))
    assert [each.qid for each in found.pools] == ["2", "3"]
    assert [fields["docid"] for fields in found.pools[0].fields] == ["0", "1"]
    assert found.qrels == {"2": {"0": 1}, "3": {"0": 1}}


def test_a_query_left_out_is_counted_with_its_reason(pools):
    rows = [
        pool("kept", [1, 0]),
        pool("all zero", [0, 0, -1]),
        pool("unlabelled", [None, None]),
        {"qid": "plain", "query": "q", "documents": ["a", "b"]},
        pool("one", [1]),
        pool("none", []),
    ]
    found = read_dataset(pools(*rows))
    assert [each.qid for each in found.pools] == ["kept"]
    assert found.qrels == {"kept": {"a": 1, "b": 0}}
    assert found.left_out == {"no relevant document judged": 1, "not judged": 2, "one candidate": 1, "no candidates": 1}


def test_queries_of_the_judgements_without_a_pool_are_counted(pools):
    qrels = b"kept 0 a 1\nother 0 a 1\nthird 0 b 0\nzero 0 a 0\n"
    found = read_dataset(pools(pool("kept", [0, 0]), pool("zero", [0, 0]), pool("new", [1, 0]), qrels=qrels))
    assert found.left_out == {"no relevant document judged": 1, "not judged": 1, "in the judgements only": 2}
    assert list(found.qrels) == ["kept"]


def test_a_query_whose_relevant_documents_are_outside_its_pool_stays(pools):
    found = read_dataset(pools(pool("hit", [0, 0]), pool("missed", [0, 0]), qrels=b"hit 0 a 1\nmissed 0 z 2\n"))
    assert [found.labels(each) for each in found.pools] == [[1, 0], [0, 0]]


def test_the_means_are_trec_evals_over_the_queries_kept(pools):
    qrels = b"1 0 a 1\n1 0 z 3\n2 0 b 2\n2 0 a -1\n"
    found = read_dataset(pools(pool(1, [0, 0, 0]), pool(2, [0, 0]), qrels=qrels))
    run = {each.qid: {fields["docid"]: -rank for rank, fields in enumerate(each.fields)} for each in found.pools}
    measured = pytrec_eval.RelevanceEvaluator(found.qrels, {"ndcg_cut.10"}).evaluate({q: dict(d) for q, d in run.items()})
    assert measured["1"]["ndcg_cut_10"] == pytest.approx(1 / (3 + 1 / np.log2(3)))
    assert measured["2"]["ndcg_cut_10"] == pytest.approx((2 / np.log2(3)) / 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (pool("y", ["2"]), "candidates[0]: 'label' is a string, '2'; expected an integer"),
        (pool("y", [0, 2.5]), "candidates[1]: 'label' is a number, 2.5; expected an integer"),
        (pool("y", [2.0]), "'label' is a number, 2.0"),
        (pool("y", [True]), "'label' is a boolean, True"),
        (pool("y", [[1]]), "'label' is a list, [1]"),
        (pool("y", [LABEL_LIMIT + 1]), f"at most {LABEL_LIMIT}"),
        (pool("x", [1]), "qid 'x' again; it is in line 1"),
        ({**pool("y", [1, 0]), "qid": ""}, "'qid' is ''; expected an id"),
        ({**pool("y", [1, 0]), "qid": "y\0z"}, "'qid' is 'y\\x00z'; expected an id"),
        (
            {"query": "q", "candidates": [{"docid": 1, "text": "a"}, {"docid": "1", "text": "b"}]},
            "docid '1' is also candidates[0]'s",
        ),
        ({"query": "q", "candidates": [{"docid": "1", "text": "a"}, {"text": "b"}]}, "candidates[1]: 'docid' is missing or null"),
        ({"query": "q", "candidates": [{"docid": 1.5, "text": "a"}]}, "'docid' is a number"),
        ({"query": "q", "candidates": [{"docid": True, "text": "a"}]}, "'docid' is a boolean"),
        ({"query": "q", "candidates": [{"docid": "\ufeffa", "text": "a"}]}, "byte order mark"),
        ({"query": "q", "candidates": [{"label": 1}]}, "'text' is missing or null"),
        ({"qid": "y", "candidates": []}, "'query' is missing or null"),
        ({"qid": "y", "query": "q"}, "expected either 'documents' or 'candidates'"),
        (json.dumps(pool("y", [1, 0])).encode().replace(b"query y", b"caf\xe9"), "byte 26 is not UTF-8"),
        (json.dumps(pool("y", [1, 0])).encode().replace(b"query y", b"a\0b"), "a NUL"),
        (b"y Q0 a 1 1 t", "not JSON"),
    ],
)
def test_a_bad_pool_names_file_and_line(pools, line, message):
    path = pools(pool("x", [1, 0]), b"", line, pool("z", [1, 0]))
    with pytest.raises(InputError) as caught:
        read_dataset(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "q", "candidates": [{"docid": "a", "text": "t"}]}, "'qid' is missing or null"),
        ({"qid": 1, "query": "q", "candidates": [{"text": "t"}]}, "candidates[0]: 'docid' is missing or null"),
        ({"qid": 1, "query": "q", "documents": ["t"]}, "'documents' have no ids for the judgements to name"),
    ],
)
def test_ids_are_required_where_judgements_name_them(pools, row, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_dataset(pools(row, qrels=b"1 0 a 1\n"))
    assert "data.v2.jsonl, line 1: " in str(caught.value)


def test_a_number_made_for_a_query_does_not_take_anothers_qid(pools):
    with pytest.raises(InputError, match="line 2: qid '2' again; it is in line 1"):
        read_dataset(pools(pool(2, [1, 0]), {"query": "q", "documents": ["a"]}))


def test_data_of_which_no_query_can_be_evaluated_says_why(pools):
    with pytest.raises(InputError) as caught:
        read_dataset(pools(pool("x", [None, None]), pool("y", [0, 0]), pool("z", [1])))
    assert "no query can be evaluated: 1 not judged, 1 no relevant document judged, 1 one candidate" in str(caught.value)
    assert "(the first query is 'x')" in str(caught.value)


def test_judgements_of_other_queries_or_other_documents_are_an_error(pools):
    with pytest.raises(InputError, match="1 not judged, 1 in the judgements only"):
        read_dataset(pools(pool("x", [1, 0]), qrels=b"y 0 a 1\n"))
    with pytest.raises(InputError, match=r"no candidate is judged.*query 'x' has the candidate 'a', but 'D1' is judged"):
        read_dataset(pools(pool("x", [1, 0]), qrels=b"x 0 D1 1\n"))


def test_depth_and_first_cut_pools_and_keep_judgements(pools):
    path = pools(pool("x", [0, 1, 2]), pool("y", [1, 0]))
    whole = read_dataset(path)
    for cut in (whole.first(2), read_dataset(path, depth=2)):
        assert [cut.labels(each) for each in cut.pools] == [[0, 1], [1, 0]]
        assert cut.qrels == whole.qrels
        assert cut.pools[0].fields == whole.pools[0].fields[:2]
    assert len(whole.pools[0].documents) == 3
    with pytest.raises(InputError, match="n is 0"):
        whole.first(0)


def test_it_is_known_where_pools_were_cut(pools, beir, file):
    path = pools(pool("x", [0, 1, 2]), pool("y", [1, 0]))
    assert [read_dataset(path, depth=depth).cut_at for depth in (None, 2, 3)] == [None, 2, None]
    assert [read_dataset(path).first(size).cut_at for size in (2, 3)] == [2, None]
    assert read_dataset(path, depth=2).first(5).cut_at == 2
    run = file(RUN.encode(), "x.run")
    assert [read_dataset(beir, run=run, depth=depth).cut_at for depth in (2, 3)] == [2, None]
    own = b"t Q0 t 1 9 r\nt Q0 2 1 8 r\nt Q0 c 1 7 r\n"
    runs = file(own, "own.run"), file(own + b"t Q0 further 1 6 r\n", "longer.run")
    texts = {"texts": beir / "corpus.jsonl.gz", "queries": file(b"t\ttides\n", "q.tsv"), "qrels": file(b"t 0 2 1\n", "q.qrels")}
    assert [read_dataset(run, depth=2, **texts).cut_at for run in runs] == [None, 2]


def test_limit_ends_the_reading_at_so_many_judged_queries(pools):
    path = pools(pool("un", [None, None]), pool("x", [1, 0]), pool("y", [1, 0]), b"not read")
    found = read_dataset(path, limit=2)
    assert [each.qid for each in found.pools] == ["x", "y"]
    assert found.left_out == {"not judged": 1}
    with pytest.raises(InputError, match="line 4: not JSON"):
        read_dataset(path, limit=3)


def test_with_a_limit_judgements_of_what_was_not_read_are_not_counted(pools):
    path = pools(pool("x", [1, 0]), pool("y", [1, 0]), qrels=b"x 0 a 1\ny 0 a 1\nz 0 a 1\n")
    assert read_dataset(path, limit=1).left_out == {}
    assert read_dataset(path, limit=5).left_out == {"in the judgements only": 1}


# files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.jsonl", b"\xef\xbb\xbf" + lines_of(pool("x", [1, 0])).replace(b"\n", b"\r\n") + b"\r\n"),
        ("data.jsonl.gz", gzip.compress(lines_of(pool("x", [1, 0])), mtime=0)),
        ("data", b"\n \n" + lines_of(pool("x", [1, 0]))),
    ],
)
def test_pools_are_recognized_whatever_the_file_is_called(file, name, content):
    found = read_dataset(file(content, name))
    assert (found.name, found.format, len(found.pools)) == ("data", "pools", 1)


def test_a_named_pipe_is_read_once_from_its_start(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(daemon=True, target=path.write_bytes, args=[lines_of(pool("x", [1, 0]), pool("y", [0, 1]))])
    writer.start()
    assert [each.qid for each in read_dataset(path).pools] == ["x", "y"]
    writer.join()


def test_standard_input_is_read(monkeypatch, tmp_path, file):
    monkeypatch.chdir(tmp_path)
    file(b"x 0 b 1\n", "-.qrels")  # no judgements of standard input
    with file(lines_of(pool("x", [1, 0])), "given").open("rb") as given:
        monkeypatch.setattr("sys.stdin", type("Stream", (), {"buffer": given}))
        found = read_dataset("-")
    assert found.labels(found.pools[0]) == [1, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no lines; expected candidate pools"),
        (b"\n\n", "holds no lines"),
        (b"a,b,c\n", "line 1: neither a JSON object nor 6 columns, but 1; expected candidate pools"),
        (b"1 0 d 1\n", "but 4; expected candidate pools"),
        (b'["q"]\n', "neither a JSON object"),
        (gzip.compress(b"{}", mtime=0), "compressed with gzip"),
        ("{}".encode("utf-16"), "UTF-16"),
        (b"caf\xe9", "line 1: not UTF-8"),
        (b"1 Q0 d\x001 1 1 t", "UTF-16"),
        (b"1 Q0 \xc3\xa9\0 1 1 t", "line 1: a NUL at byte 7"),
    ],
)
def test_what_is_none_of_the_three_formats_is_an_error(file, content, message):
    path = file(content, "data.txt")
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_dataset(path)
    assert str(path) in str(caught.value)
    if "expected candidate pools" in message:
        assert all(words in str(caught.value) for words in ("BEIR folder", "TREC run"))


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing", "missing cannot be read"), ("missing.gz", "cannot be read"), ("a\0b", "not a file name"), ("", "not a file name")],
)
def test_a_file_that_is_not_there_is_an_error(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        read_dataset(name)


def test_the_null_device_and_an_empty_folder_are_errors(tmp_path):
    with pytest.raises(InputError, match="/dev/null holds no lines"):
        read_dataset("/dev/null")
    with pytest.raises(InputError, match=r"without corpus\.jsonl or queries\.jsonl; expected .*BEIR folder.*TREC run"):
        read_dataset(tmp_path)


def test_a_gzip_that_is_none_and_a_folder_as_judgements_are_errors(pools, file, tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_dataset(file(b"{}", "data.jsonl.gz"))
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_dataset(pools(pool("x", [1, 0])), qrels=tmp_path)


@pytest.mark.parametrize("option", ["depth", "limit"])
def test_a_count_below_1_or_of_another_type_is_refused(pools, option):
    path = pools(pool("x", [1, 0]))
    with pytest.raises(InputError, match=f"{option} is 0"):
        read_dataset(path, **{option: 0})
    with pytest.raises(TypeError, match=f"{option} is str"):
        read_dataset(path, **{option: "5"})


def test_an_option_that_the_format_has_no_use_for_is_refused(pools, file, beir):
    for name in ("run", "retrieve", "split", "texts", "queries"):
        with pytest.raises(InputError, match=f"holds candidate pools; --{name} cannot be used with it"):
            read_dataset(pools(pool("x", [1, 0])), **{name: "bm25"})
    with pytest.raises(InputError, match="is a TREC run; --run, --split cannot"):
        read_dataset(file(RUN.encode(), "x.run"), run="x", split="dev")
    with pytest.raises(InputError, match="is a folder; --texts, --queries cannot"):
        read_dataset(beir, retrieve="bm25", texts="x", queries="y")


# BEIR folders and TREC runs


def test_bm25_makes_the_pools_of_a_beir_folder(beir):
    found = read_dataset(beir, retrieve="bm25")
    assert (found.name, found.format) == ("little", "beir")
    assert [(each.qid, each.query, [own["docid"] for own in each.fields]) for each in found.pools] == [
        ("1", "moon and sea", ["t", "2"]),
        ("2", "sea salt", ["2", "t"]),
    ]
    assert found.pools[0].documents == ["Tides The moon pulls the sea.", "Bread rises by yeast; sea salt slows it."]
    assert found.qrels == {"1": {"t": 1}, "2": {"2": 2, "t": 0}}
    assert [found.labels(each) for each in found.pools] == [[1, 0], [2, 0]]
    assert found.left_out == {"not judged": 1, "in the judgements only": 1}


def test_a_run_makes_the_pools_of_a_beir_folder(beir, file):
    found = read_dataset(beir, run=file(RUN.encode(), "x.run"), depth=2)
    assert [[own["docid"] for own in each.fields] for each in found.pools] == [["2", "t"], ["2", "t"]]
    assert found.left_out == {"not judged": 1, "in the judgements only": 1}
    assert found.format == "beir"


def test_a_trec_run_is_read_with_its_texts(beir, file):
    file(b"1 0 t 1\n2 0 2 1\n9 0 t 1\n", "x.qrels")
    queries = file(b"1\tmoon\tand sea\n2\tsea salt\n", "queries.tsv")
    found = read_dataset(file(RUN.encode(), "x.run"), texts=beir / "corpus.jsonl.gz", queries=queries)
    assert (found.name, found.format) == ("x", "trec")
    assert [(each.qid, each.query) for each in found.pools] == [("1", "moon\tand sea"), ("2", "sea salt")]
    assert [[own["docid"] for own in each.fields] for each in found.pools] == [["2", "t", "c"], ["2", "t"]]
    assert found.pools[0].documents[1] == "Tides The moon pulls the sea."
    assert [found.labels(each) for each in found.pools] == [[0, 1, 0], [1, 0]]
    assert found.left_out == {"not judged": 1, "in the judgements only": 1}


def test_texts_that_no_pool_needs_are_not_held_nor_checked(beir, file):
    corpus = file(b'{"_id": "t", "text": "a"}\n{"docid": 2, "text": "b"}\n{"_id": "u"}\n{"_id": "u"}\n', "corpus.jsonl")
    found = read_dataset(
        file(b"1 Q0 2 1 1 r\n1 Q0 t 2 0 r\n", "x.run"),
        texts=corpus,
        queries=beir / "queries.jsonl",
        qrels=beir / "qrels" / "test.tsv",
    )
    assert found.pools[0].documents == ["b", "a"]


def test_a_run_without_its_texts_says_which_options_name_them(file):
    with pytest.raises(InputError, match="is a TREC run; its evaluation also needs --qrels FILE, --texts FILE, --queries FILE"):
        read_dataset(file(RUN.encode(), "x.run"))
    file(b"1 0 t 1\n", "x.qrels")
    with pytest.raises(InputError, match="also needs --queries FILE"):
        read_dataset(file(RUN.encode(), "x.run"), texts="corpus.jsonl")


def test_a_folder_without_a_source_of_pools_says_which_options_make_them(beir):
    with pytest.raises(
        InputError, match=r"neither --run nor --retrieve is given; .*\(--run FILE\) or from BM25 \(--retrieve bm25\)"
    ):
        read_dataset(beir)
    with pytest.raises(InputError, match="both --run and --retrieve are given"):
        read_dataset(beir, run="x", retrieve="bm25")
    with pytest.raises(InputError, match="--retrieve is 'dense'; expected bm25"):
        read_dataset(beir, retrieve="dense")


@pytest.fixture
def duplicates(tmp_path):
    """A BEIR folder like ArguAna's: each of three queries is a document of the corpus, and its answer shares its words."""
    folder = tmp_path / "duplicates"
    (folder / "qrels").mkdir(parents=True)
    texts = {"k": "kettle coil boils water", "w": "wool traps warm air", "s": "salt melts road ice"}
    corpus = [{"_id": f"{name}{end}", "text": f"{text} {end}"} for name, text in texts.items() for end in ("", "-a", "-b")]
    (folder / "corpus.jsonl").write_bytes(lines_of(*corpus))
    (folder / "queries.jsonl").write_bytes(lines_of(*({"_id": name, "text": text} for name, text in texts.items())))
    (folder / "qrels" / "test.tsv").write_text("".join(f"{name}\t{name}-a\t1\n" for name in texts))
    return folder


def docids_of(found):
    return [[fields["docid"] for fields in each.fields] for each in found.pools]


@pytest.mark.parametrize(("depth", "ends"), [(2, ["-a", "-b"]), (10, ["-a", "-b"])])
def test_a_query_that_is_a_document_of_its_corpus_is_not_its_own_candidate(duplicates, file, depth, ends):
    expected = [[f"{name}{end}" for end in ends] for name in "kws"]
    found = read_dataset(duplicates, retrieve="bm25", depth=depth)
    assert (docids_of(found), found.self_candidates) == (expected, 3)
    run = file("".join(f"{n} Q0 {n}{e} 1 {s} r\n" for n in "kws" for e, s in (("", 3), ("-a", 2), ("-b", 1))).encode(), "x.run")
    found = read_dataset(duplicates, run=run, depth=depth)
    assert (docids_of(found), found.self_candidates) == (expected, 3)
    texts = {"texts": duplicates / "corpus.jsonl", "queries": duplicates / "queries.jsonl"}
    found = read_dataset(run, qrels=duplicates / "qrels" / "test.tsv", depth=depth, **texts)
    assert (docids_of(found), found.self_candidates) == (expected, 3)


def test_the_depth_counts_what_is_left_of_a_run_and_the_rest_needs_no_text(duplicates, file):
    lines = ("k Q0 k-a 1 3 r", "k Q0 k-b 1 2 r", "k Q0 lost 1 1 r")
    found = read_dataset(duplicates, run=file("\n".join(lines).encode(), "x.run"), depth=2)
    assert (docids_of(found), found.self_candidates) == ([["k-a", "k-b"]], 0)


def own_pool(qid, *others, **own):
    """A pool whose first candidate is its query, then `others`."""
    candidates = [{"docid": qid, "text": f"query {qid}", **own}, *others]
    return {"qid": qid, "query": f"query {qid}", "candidates": candidates}


RELEVANT, OTHER = {"docid": "r", "text": "text", "label": 1}, {"docid": "o", "text": "text", "label": 0}


@pytest.mark.parametrize("qrels", [None, b"b 0 r 1\n5 0 r 2\n"])
def test_a_query_among_the_candidates_of_its_pool_is_left_out(pools, qrels):
    numbered = own_pool(5, RELEVANT, {"docid": 7, "text": "t", "label": 0}, docid="5")
    found = read_dataset(pools(own_pool("b", OTHER, RELEVANT, label=0), numbered, qrels=qrels), depth=2)
    assert (docids_of(found), found.self_candidates) == ([["o", "r"], ["r", "7"]], 2)
    assert [found.labels(each)[-1] > 0 for each in found.pools] == [True, False]


@pytest.mark.parametrize(
    ("text", "is_left_out"),
    [
        ("query b", True),
        ("Query\n b ", True),
        ("Its title query b", True),
        ("query b with the text it is the title of", True),
        ("query bees", False),
        ("no query b in its middle", False),
        ("text", False),
        ("", False),
    ],
)
def test_in_a_pool_a_document_with_the_id_of_the_query_is_the_query_if_its_text_agrees(pools, text, is_left_out):
    found = read_dataset(pools(own_pool("b", OTHER, RELEVANT, text=text)))
    assert (docids_of(found), found.self_candidates) == ([["o", "r"] if is_left_out else ["b", "o", "r"]], int(is_left_out))


def test_ids_that_count_the_candidates_of_each_pool_are_no_queries(pools):
    rows = [
        {"qid": qid, "query": f"query {qid}", "candidates": [{"docid": n, "text": f"t {n}", "label": n // 3} for n in range(4)]}
        for qid in range(4)
    ]
    found = read_dataset(pools(*rows))
    assert (docids_of(found), found.self_candidates) == ([["0", "1", "2", "3"]] * 4, 0)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (own_pool("b", OTHER, {**RELEVANT, "label": "2"}), "candidates[2]: 'label' is a string"),
        (own_pool("b", OTHER, {**RELEVANT, "label": LABEL_LIMIT + 1}), "candidates[2]: the label is 1000001"),
        (own_pool("b", OTHER, {**RELEVANT, "docid": None}), "candidates[2]: 'docid' is missing"),
        (own_pool("b", RELEVANT, RELEVANT), "candidates[2]: docid 'r' is also candidates[1]'s"),
        (own_pool("b", OTHER, RELEVANT, label="2"), "candidates[0]: 'label' is a string"),
        (own_pool("b", OTHER, RELEVANT, label=False), "candidates[0]: 'label' is a boolean"),
        (own_pool("True", OTHER, RELEVANT, docid=True), "candidates[0]: 'docid' is a boolean"),
        (own_pool("[1]", OTHER, RELEVANT, docid=[1]), "candidates[0]: 'docid' is a list"),
        (own_pool("b", {"docid": "b", "text": "query b"}, RELEVANT), "candidates[1]: docid 'b' is also candidates[0]'s"),
    ],
)
def test_bad_data_in_a_pool_with_its_own_query_is_refused_where_it_is_in_the_file(pools, row, said):
    with pytest.raises(InputError, match=re.escape(f"line 1: {said}")):
        read_dataset(pools(row))


def test_a_candidate_judged_relevant_is_another_document_than_the_query(pools):
    assert docids_of(read_dataset(pools(own_pool("b", OTHER, label=1)))) == [["b", "o"]]
    found = read_dataset(pools(own_pool("b", OTHER, RELEVANT), qrels=b"b 0 b 1\n"))
    assert (docids_of(found), found.self_candidates) == ([["b", "o", "r"]], 0)


def test_an_id_that_was_made_is_no_query(pools):
    rows = [{"query": "q", "candidates": [{"docid": "1", "text": "q"}, {"docid": "2", "text": "t", "label": 1}]}]
    rows += [{"qid": "0", "query": "q", "candidates": [{"text": "q"}, {"text": "t", "label": 1}]}]
    found = read_dataset(pools(*rows))
    assert ([len(each.documents) for each in found.pools], found.self_candidates) == ([2, 2], 0)


def test_one_candidate_beside_the_query_itself_is_evaluated_and_none_is_not(pools):
    qrels = b"b 0 r 1\na 0 c 1\nd 0 a 1\n"
    found = read_dataset(pools(own_pool("b", RELEVANT), own_pool("a"), pool("d", [0]), qrels=qrels))
    assert ([each.qid for each in found.pools], docids_of(found), found.self_candidates) == (["b"], [["r"]], 1)
    assert found.left_out == {"no candidates": 1, "one candidate": 1}


def test_a_depth_of_one_leaves_nothing_to_rank_beside_the_query_itself_either(duplicates, pools):
    with pytest.raises(InputError, match="no query can be evaluated: 3 one candidate"):
        read_dataset(duplicates, retrieve="bm25", depth=1)
    with pytest.raises(InputError, match="no query can be evaluated: 2 one candidate"):
        read_dataset(pools(own_pool("b", RELEVANT, OTHER), pool("c", [1, 0])), depth=1)


def test_a_split_is_chosen_by_name(beir):
    with pytest.raises(InputError, match=r"has no qrels/dev\.tsv; expected one of its splits: test, train"):
        read_dataset(beir, retrieve="bm25", split="dev")
    with pytest.raises(InputError, match="1 one candidate"):
        read_dataset(beir, retrieve="bm25", split="train")
    for file in (beir / "qrels").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="name a file of judgements: qrels=FILE"):
        read_dataset(beir, retrieve="bm25")


def test_what_a_run_names_must_have_a_text(beir, file):
    judged = {"qrels": beir / "qrels" / "test.tsv", "texts": beir / "corpus.jsonl.gz", "queries": beir / "queries.jsonl"}
    with pytest.raises(InputError, match=r"x\.run, line 2: document 'lost' is not in .*corpus\.jsonl\.gz"):
        read_dataset(file(b"1 Q0 t 1 1 r\n1 Q0 lost 2 0 r\n", "x.run"), **judged)
    with pytest.raises(InputError, match=r"x\.run, line 1: query '9' is not in .*queries\.jsonl"):
        read_dataset(file(b"9 Q0 t 1 1 r\n9 Q0 c 2 0 r\n", "x.run"), **judged)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("corpus.jsonl", b'{"text": "a"}', "'_id' or 'docid' is missing or null"),
        ("corpus.jsonl", b'{"_id": "d1"}', "'text' is missing or null"),
        ("corpus.jsonl", b'{"_id": "d1", "text": "a", "title": 0}', "'title' is a number"),
        ("corpus.jsonl", b'{"_id": 0, "text": "a"}', "document '0' again; it is in line 1"),
        ("corpus.jsonl", b"plain", "not JSON"),
        ("corpus.jsonl", b'{"_id": "d1", "text": "caf\xe9"}', "not JSON"),
        ("queries.jsonl", b'{"_id": "0", "text": "a"}', "query '0' again; it is in line 1"),
        ("queries.jsonl", b'{"_id": "q"}', "'text' or 'query' is missing or null"),
        ("queries.jsonl", b'{"text": "a"}', "'_id' or 'qid' is missing or null"),
        ("queries.jsonl", b"1\tquery", "not JSON"),
    ],
)
def test_a_bad_line_of_a_beir_folder_names_file_and_line(beir, name, line, message):
    (beir / "corpus.jsonl.gz").unlink()
    first = b'{"_id": 0, "text": "moon"}\n'
    (beir / "corpus.jsonl").write_bytes(first + (line if name == "corpus.jsonl" else b""))
    (beir / "queries.jsonl").write_bytes(first + (line if name == "queries.jsonl" else b""))
    (beir / "qrels" / "test.tsv").write_text("0\t0\t1\n")
    with pytest.raises(InputError, match=re.escape(f"{beir / name}, line 2: ")) as caught:
        read_dataset(beir, retrieve="bm25")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"), [(b"no tab", "no tab; expected 'qid query'"), (b"\tq", "the qid is ''"), (b"1\t\xe9", "not UTF-8")]
)
def test_a_bad_line_of_tab_separated_queries_names_file_and_line(beir, file, line, message):
    path = file(b"1\tmoon\n" + line, "queries.tsv")
    with pytest.raises(InputError, match=re.escape(f"{path}, line 2: {message}")):
        read_dataset(file(RUN.encode(), "x.run"), qrels=beir / "qrels" / "test.tsv", texts=beir / "corpus.jsonl.gz", queries=path)


# BM25


def test_bm25_breaks_ties_by_the_corpus_order_and_finds_no_more_than_match():
    documents = [(f"d{number}", "moon" if number % 2 else "sun") for number in range(20)] + [("best", "moon moon moon")]
    found = bm25(documents, {"q": "the moon", "none": "quark", "stop": "the"}, 5)
    assert found == {"q": ["best", "d1", "d3", "d5", "d7"], "none": [], "stop": []}
    assert bm25(documents, {"q": "moon"}, 50)["q"] == ["best", *(f"d{number}" for number in range(1, 20, 2))]


def test_bm25_scores_as_the_formula_says():
    """Lucene's BM25: idf = ln(1 + (n - df + 0.5) / (df + 0.5)); tf / (tf + k1 (1 - b + b length / mean length))."""
    texts = ["moon tides", "moon moon sun sun sun sun", "tides bread", "bread", "sun moon tides bread yeast"]
    words = [text.split() for text in texts]
    mean = np.mean([len(each) for each in words])

    def score(query, document):
        total = 0.0
        for word in query.split():
            frequency = sum(word in each for each in words)
            idf = np.log(1 + (len(words) - frequency + 0.5) / (frequency + 0.5))
            count = document.count(word)
            total += idf * count / (count + 1.5 * (1 - 0.75 + 0.75 * len(document) / mean))
        return total

    for query in ("moon", "tides sun", "bread yeast moon"):
        scores = [score(query, document) for document in words]
        expected = [str(place) for place in np.argsort(-np.array(scores), kind="stable") if scores[place] > 0]
        assert bm25(((str(place), text) for place, text in enumerate(texts)), {"q": query}, DEPTH)["q"] == expected


def test_bm25_needs_documents_but_not_words():
    with pytest.raises(InputError, match="the corpus holds no documents"):
        bm25([], {"q": "moon"}, 5)
    assert bm25([("a", ""), ("b", "the")], {"q": "moon"}, 5) == {"q": []}


def test_without_bm25s_the_extra_is_named(monkeypatch, beir):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ExtraError, match=r"pip install 'resift\[eval\]'"):
        read_dataset(beir, retrieve="bm25")


SAMPLES = {
    "pools": lines_of(pool("x", [1, 0]), pool("y", [0, 2, None])),
    "run": RUN.encode(),
    "qrels": b"x 0 a 1\ny 0 c 2\n1 0 t 1\n2 0 2 1\n",
    "corpus": lines_of({"_id": "t", "text": "a"}, {"_id": 2, "text": "b"}, {"_id": "c", "title": "d", "text": "c"}),
    "queries": b"1\tmoon\n2\tsea\n",
}


@settings(max_examples=100)
@given(st.sampled_from(sorted(SAMPLES)), st.integers(0, 400), st.integers(0, 3), st.binary(max_size=4))
def test_damaged_data_is_read_or_refused(tmp_path_factory, name, place, length, other):
    """Whatever bytes of whichever file are replaced, the outcome is a Dataset that holds together, or an InputError."""
    folder = tmp_path_factory.mktemp("damaged", numbered=True)
    for file, content in SAMPLES.items():
        damaged = content[:place] + other + content[place + length :] if file == name else content
        (folder / file).write_bytes(damaged)
    run = {"texts": folder / "corpus", "queries": folder / "queries"}
    for source, options in (("pools", {}), ("run", run)):
        try:
            found = read_dataset(folder / source, qrels=folder / "qrels", **options)
        except InputError as error:
            assert str(folder) in str(error)
            continue
        for each in found.pools:
            assert len(found.labels(each)) == len(each.documents) == len({fields["docid"] for fields in each.fields}) > 1
            assert max(found.qrels[each.qid].values()) > 0
