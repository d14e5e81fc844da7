"""Documents, and queries with what answers them, are read in the forms in which people have them."""

from __future__ import annotations

import json

import pytest

from resift import InputError
from resift.mining.corpus import NO_POSITIVE, NOT_JUDGED, read_corpus, read_mining_corpus
from resift.mining.known_queries import read_known_queries
from resift.mining.labelled import read_labelled

DOCUMENTS = [
    {"docid": "moon", "title": "Moon", "text": "It pulls the sea.", "file": "sky.md"},
    {"docid": "bread", "title": "Bread", "text": "It rises by yeast.", "file": "food.md"},
    {"docid": 7, "title": "", "text": "Salt is a mineral.", "file": ""},
]


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def write(tmp_path):
    """write(name, content): a file of that name."""

    def written(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return written


def docids(collection):
    return [[collection.documents[place].docid for place in query.positives] for query in collection.queries]


def test_queries_name_their_answers_by_id_or_text(write):
    corpus = write("corpus.jsonl", lines(*DOCUMENTS))
    queries = write(
        "queries.jsonl",
        lines(
            {"qid": "q1", "query": "tides", "docids": ["moon"]},
            {"query": "yeast", "positive": ["It  rises BY yeast"]},
            {"query": "salt", "positive": [{"docid": 7}, {"docid": "moon", "text": "other words"}]},
            {"query": "ebb", "positive": [{"text": "Not in the corpus.", "docid": "ebb"}]},
            {"query": "gone", "docid": "gone"},
        ),
    )
    found = read_corpus(corpus, queries, group="file")
    assert docids(found) == [["moon"], ["bread"], ["7", "moon"], ["ebb"]]
    assert [query.row for query in found.queries] == [0, 1, 2, 3]
    assert (found.size, len(found.documents), found.rows) == (3, 4, 5)
    assert [document.group for document in found.documents] == ["sky.md", "food.md", None, None]
    assert found.left_out == {NO_POSITIVE: 1}
    assert [note.split(" ")[0] for note in found.notes] == ["1", "1"]


def test_tables_of_queries_and_plain_documents(write):
    corpus = write("documents.txt", "The moon pulls.\r\n\r\nBread rises.\r\n")
    queries = write(
        "queries.csv", "query,positive,qid\r\ntides,The moon pulls.,1\r\nwhat rises,Bread rises.,2\r\ntides,Bread rises.,1\r\n"
    )
    found = read_corpus(corpus, queries)
    assert [(query.qid, query.text, query.positives) for query in found.queries] == [
        ("1", "tides", [0, 1]),
        ("2", "what rises", [1]),
    ]


def test_parquet_holds_documents(write, tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.Table.from_pylist([{"id": "a", "text": "The moon."}, {"id": "b", "text": "Bread."}]), tmp_path / "c.parquet")
    assert [(each.docid, each.text) for each in read_mining_corpus(tmp_path / "c.parquet")] == [("a", "The moon."), ("b", "Bread.")]
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "d.parquet")
    with pytest.raises(InputError, match=r"d\.parquet: the columns are body; expected 'text'"):
        read_mining_corpus(tmp_path / "d.parquet")
    (tmp_path / "e.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_mining_corpus(tmp_path / "e.parquet")


@pytest.fixture
def beir(write, tmp_path):
    """A BEIR folder with the judgements train and dev."""
    write("beir/corpus.jsonl", lines(*({"_id": str(each["docid"]), **each} for each in DOCUMENTS)))
    write(
        "beir/queries.jsonl", lines({"_id": "q1", "text": "tides"}, {"_id": "q2", "text": "yeast"}, {"_id": "q3", "text": "salt"})
    )
    write("beir/qrels/train.tsv", "query-id\tcorpus-id\tscore\nq1\tmoon\t2\nq1\tbread\t1\nq1\t7\t0\nq3\tbread\t1\n")
    write("beir/qrels/dev.tsv", "query-id\tcorpus-id\tscore\nq2\tbread\t1\n")
    return tmp_path / "beir"


def test_a_beir_folder_has_its_judgements(beir):
    found = read_corpus(beir, relevant_from=2)
    assert [each.text for each in found.documents] == ["Moon It pulls the sea.", "Bread It rises by yeast.", "Salt is a mineral."]
    assert docids(found) == [["moon"]]
    assert found.queries[0].judged == {1: 1, 2: 0}
    assert found.left_out == {NOT_JUDGED: 2}
    assert docids(read_corpus(beir)) == [["moon", "bread"], ["bread"]]
    assert docids(read_corpus(beir, split="dev")) == [["bread"]]
    with pytest.raises(InputError, match=r"no qrels/test\.tsv; expected one of its splits: dev, train"):
        read_corpus(beir, split="test")


def test_queries_beyond_a_limit_are_still_siblings(beir):
    found = read_corpus(beir, limit=1)
    assert [query.qid for query in found.queries] == ["q1"]
    assert [query.qid for query in found.further_queries] == ["q3"]


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ("", "the file of queries holds none"),
        (
            lines({"query": "q", "docids": ["x"]}),
            r"none of 1 queries can be used: 1 with no document .*\(the queries name 'x', the corpus 'moon'\)",
        ),
        (lines({"docids": ["moon"]}), "line 1: 'query' is missing or null"),
        (lines({"query": "q"}), "line 1: nothing answers the query"),
        (lines({"query": "q", "positive": [3]}), "line 1: positive: a number"),
        (lines({"query": "q", "positive": [{"title": "x"}]}), "line 1: positive: 'text' is missing or null"),
        (lines({"query": "q", "docids": [True]}), "line 1: 'docids' is a boolean"),
        (lines({"qid": 1, "query": "a", "docid": "moon"}, {"qid": 1, "query": "b", "docid": "moon"}), "line 2: the query is 'b'"),
        ("what\n", "line 1: not JSON"),
        ("\ufeff" + lines({"query": "q", "docids": ["x"]}) + "{", "line 2: not JSON"),
        ("query\tdocid\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_queries_that_cannot_be_used_are_named(write, queries, message):
    with pytest.raises(InputError, match=message):
        read_corpus(write("corpus.jsonl", lines(*DOCUMENTS)), write("queries.jsonl", queries))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("queries.csv", "question,docid\na,b\n", "the columns are question, docid; expected 'query'"),
        ("queries.tsv", "query\tdocid\na\n", "line 2: 1 cells; expected 2"),
        ("queries.csv", "query,docid\na,\n", "line 2: nothing answers the query"),
    ],
)
def test_tables_of_queries_that_cannot_be_used_are_named(write, name, content, message):
    with pytest.raises(InputError, match=message):
        read_known_queries(write(name, content))


def test_a_corpus_that_cannot_be_used_is_named(write, tmp_path):
    queries = write("queries.jsonl", lines({"query": "q", "docids": ["a"]}))
    with pytest.raises(InputError, match="line 2: document 'a' again; it is in line 1"):
        read_corpus(write("twice.jsonl", lines({"id": "a", "text": "x"}, {"id": "a", "text": "y"})), queries)
    with pytest.raises(InputError, match="the corpus holds no documents"):
        read_corpus(write("empty.jsonl", "\n"), queries)
    with pytest.raises(InputError, match="no document has a field 'file'"):
        read_corpus(write("plain.txt", "a\n"), queries, group="file")
    with pytest.raises(InputError, match="no queries; name a file"):
        read_corpus(write("plain.txt", "a\n"))
    with pytest.raises(InputError, match="--split cannot be used"):
        read_corpus(write("plain.txt", "a\n"), queries, split="train")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"a folder without corpus\.jsonl"):
        read_corpus(tmp_path / "folder", queries)


# Labelled pools


def pool(qid, *candidates):
    return {
        "qid": qid,
        "query": f"query {qid}",
        "candidates": [dict(zip(("docid", "text", "label"), each, strict=False)) for each in candidates],
    }


def test_pools_keep_their_order_and_judgements(write):
    path = write(
        "pools.jsonl",
        lines(
            pool("a", ("d1", "one", 0), ("d2", "two", 2), ("d3", "three", 1), ("d4", "four")),
            pool("b", ("d4", "four", 0), ("d5", "five", 2)),
            pool("c", ("d1", "one", 1), ("d2", "two", 0)),
        ),
    )
    found = read_labelled(path, relevant_from=2)
    assert docids(found) == [["d2"], ["d5"]]
    assert [query.ranking for query in found.queries] == [[0, 1, 2, 3], [3, 4]]
    assert [query.judged for query in found.queries] == [{0: 0, 2: 1}, {3: 0}]
    assert found.left_out["no candidate is relevant"] == 1
    with pytest.raises(InputError, match="a label of 3 or above; lower --relevant-from"):
        read_labelled(path, relevant_from=3)


def test_ids_that_pools_count_anew_are_no_ids(write):
    rows = [pool("a", (1, "one", 1), (2, "two", 0)), pool("b", (1, "three", 1), (2, "two", 0))]
    found = read_labelled(write("pools.jsonl", lines(*rows)))
    assert [(each.text, each.docid) for each in found.documents] == [("one", None), ("two", None), ("three", None)]
