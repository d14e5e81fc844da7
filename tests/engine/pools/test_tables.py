"""Pools from CSV, TSV and Parquet with a row for each pair, and from Parquet with a pool in each row."""

from __future__ import annotations

import csv
import gzip
import io
import subprocess
import sys

import pytest

from resift import InputError
from resift.documents import DocumentTemplate
from resift.pools.reading import CandidatePool
from resift.pools.source import Source, read_pools

ROWS = [
    {"qid": "q1", "query": "what causes tides", "docid": "a", "text": 'The "moon", they say,\r\n\r\npulls.', "label": "2"},
    {"qid": "q1", "query": "what causes tides", "docid": "b", "text": "", "label": ""},
    {"qid": "q2", "query": "a, b", "docid": "a", "text": "潮 🌊\ttide", "label": " 0 "},
]
POOLS = [
    CandidatePool(
        "what causes tides",
        ['The "moon", they say,\r\n\r\npulls.', ""],
        "q1",
        [{"docid": "a", "label": 2}, {"docid": "b", "label": None}],
    ),
    CandidatePool("a, b", ["潮 🌊\ttide"], "q2", [{"docid": "a", "label": 0}]),
]


def csv_of(rows) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def found_in(path):
    """The pools, and the reasons of what cannot be used, in order."""
    source = Source(path)
    source.check()
    try:
        return [str(item.pool) if isinstance(item.pool, InputError) else item.pool for item in source]
    finally:
        source.close()


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a byte order mark"])
@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"], ids=["no more", "blank lines"])
def test_csv_is_grouped_by_query(file, mark, end):
    assert list(read_pools(file(mark + csv_of(ROWS) + end, "pairs.csv"))) == POOLS


def test_csv_may_be_compressed(file):
    assert list(read_pools(file(gzip.compress(csv_of(ROWS)), "pairs.csv.gz"))) == POOLS


def test_a_cell_may_be_of_any_length(file):
    long = "tide " * 100_000
    path = file(csv_of([{"query": "q", "document": long}]), "pairs.csv")
    assert list(read_pools(path)) == [CandidatePool("q", [long], None, [{}])]


@pytest.mark.parametrize("text", ["text", "content", "page_content", "document"])
@pytest.mark.parametrize("qid", ["qid", "query_id", "query-id"])
def test_columns_have_the_names_that_people_give_them(file, text, qid):
    path = file(f" {qid} ,query,{text},id\n7,q,a,x\n7,q,b,y\n".encode(), "pairs.csv")
    assert list(read_pools(path)) == [CandidatePool("q", ["a", "b"], "7", [{"id": "x"}, {"id": "y"}])]


def test_with_a_template_no_column_need_be_the_text(file):
    path = file(b"query,title,body\nq,Tides,The moon.\nq,,Yeast.\n", "pairs.csv")
    [pool] = read_pools(path, DocumentTemplate.parse("{title}: {body}"))
    assert pool.documents == ["Tides: The moon.", "Yeast."]
    with pytest.raises(InputError, match="the columns are query, title, body; expected 'query' and 'document'"):
        list(read_pools(path))


def test_without_ids_the_query_itself_tells_rows_apart(file):
    path = file(b"query,document\nq,a\nq,b\nr,a\n", "pairs.csv")
    assert list(read_pools(path)) == [CandidatePool("q", ["a", "b"], None, [{}, {}]), CandidatePool("r", ["a"], None, [{}])]


def test_quotation_marks_mean_nothing_in_tsv(file):
    path = file(b'qid\tquery\tdocument\n1\t"tides\t"The moon" pulls\n1\t"tides\tNo, "it\n', "pairs.tsv")
    assert list(read_pools(path)) == [CandidatePool('"tides', ['"The moon" pulls', 'No, "it'], "1", [{}, {}])]


def test_a_template_says_what_the_model_reads_of_a_row(file):
    path = file(b"query,title,text\nq,Tides,The moon\nq,,The sea\n", "pairs.csv")
    (pool,) = read_pools(path, DocumentTemplate.parse("{title}: {text}"))
    assert pool == CandidatePool("q", ["Tides: The moon", "The sea"], None, [{"title": "Tides"}, {"title": ""}])


def test_a_bad_row_is_named_and_the_rows_behind_it_are_read(file):
    path = file(
        b"qid,query,document\n"
        b"1,q,a\n"
        b"1,q\n"  # 3
        b"1,r,b\n"  # 4
        b'1,q,"b\n\n' + b'c"\n'  # 5
        b" ,q,d\n"  # 8
        b'1,q,"e"x\n'  # 9
        b"1,\xff,f\n"  # 10
        b"2,s,g\n"
        b"1,q,h\n"  # 12
        b"2,s,i\n"
        b'3,t,"never\nends',  # 14
        "pairs.csv",
    )
    found = found_in(path)
    assert [item for item in found if isinstance(item, CandidatePool)] == [
        CandidatePool("q", ["a", "b\n\nc"], "1", [{}, {}]),
        CandidatePool("s", ["g", "i"], "2", [{}, {}]),
    ]
    reasons = [item for item in found if isinstance(item, str)]
    expected = [
        (3, "2 cells; expected 3"),
        (4, "the query is 'r'; expected that of '1' before, 'q'"),
        (8, "the id of the query is empty"),
        (9, "',' expected after '\"'; expected CSV"),
        (10, "not UTF-8 at byte 2"),
        (12, "query '1' again, after others; expected its rows together: sort them by query"),
        (14, "unexpected end of data; expected CSV"),
    ]
    assert len(reasons) == len(expected)
    for reason, (line, said) in zip(reasons, expected, strict=True):
        assert reason.startswith(f"{path}, line {line}: ")
        assert said in reason
    with pytest.raises(InputError, match="line 3: 2 cells"):
        list(read_pools(path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"question,answer\na,b\n", "line 1: the columns are question, answer; expected 'query' and 'document' (or 'text')"),
        (
            b"query,body\na,b\n",
            (
                "line 1: the columns are query, body; expected 'query' and 'document' (or 'text') with a pair in each row, and "
                "'qid', 'docid' and 'label' if there are any; a document template, such as '{title} {body}', reads others"
            ),
        ),
        (b"\n\nquery,text,text\n", "line 3: the column 'text' is there 2 times; expected it once"),
        (b"query,\xff\n", "line 1: not UTF-8 at byte 6"),
    ],
)
def test_a_first_line_without_the_columns_is_named(file, content, said):
    path = file(content, "pairs.csv")
    with pytest.raises(InputError) as caught:
        found_in(path)
    assert str(caught.value).startswith(f"{path}, {said}")


def test_a_table_without_rows_holds_no_pools(file):
    assert found_in(file(b"query,text\n", "pairs.csv")) == []
    assert found_in(file(b"", "pairs.csv")) == []


def test_json_lines_are_json_lines_whatever_their_name(file):
    path = file(b'{"query": "q", "documents": ["a"]}\n', "pools.csv")
    assert list(read_pools(path)) == [CandidatePool("q", ["a"])]


# Parquet


@pytest.fixture
def parquet(tmp_path):
    """parquet(rows, name): the path of a Parquet file of rows."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def write(rows, name="pools.parquet"):
        pq.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), tmp_path / name, row_group_size=2)
        return tmp_path / name

    return write


def test_parquet_of_pairs_is_grouped_by_query(parquet):
    rows = [{**row, "label": int(row["label"].strip() or -1), "qid": int(row["qid"][1:])} for row in ROWS]
    found = list(read_pools(parquet(rows)))
    assert [(pool.query, pool.documents, pool.qid) for pool in found] == [
        (pool.query, pool.documents, int(pool.qid[1:])) for pool in POOLS
    ]
    assert found[0].fields == [{"docid": "a", "label": 2}, {"docid": "b", "label": -1}]


def test_parquet_of_pools_is_read_as_json_lines_are(parquet):
    rows = [{"query": "q", "qid": 7, "candidates": [{"text": "a", "docid": 1}, {"text": "b", "docid": 2}], "other": 1.5}]
    assert list(read_pools(parquet(rows))) == [CandidatePool("q", ["a", "b"], 7, [{"docid": 1}, {"docid": 2}])]
    assert list(read_pools(parquet([{"query": "q", "documents": ["a"]}]))) == [CandidatePool("q", ["a"])]


def test_more_rows_than_are_decoded_at_once(parquet):
    path = parquet([{"query": f"q{number // 100}", "text": str(number)} for number in range(1000)])
    assert [pool.documents for pool in read_pools(path)] == [
        [str(number) for number in range(start, start + 100)] for start in range(0, 1000, 100)
    ]
    source = Source(path)
    items = iter(source)
    next(items)
    assert 0.1 <= source.share() < 0.3
    source.close()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"query": "q", "text": "a"}, {"query": "q", "text": None}], "row 1 (from 0): an object whose 'text' is missing or null"),
        ([{"query": "q", "text": "a"}, {"query": None, "text": "b"}], "row 1 (from 0): 'query' is missing or null"),
        ([{"query": "q", "documents": ["a", None]}], "row 0 (from 0): documents[1] is missing or null; expected a string"),
        ([{"query": "q", "answer": "a"}], "the columns are query, answer; expected"),
    ],
)
def test_a_bad_row_of_parquet_is_named(parquet, rows, said):
    path = parquet(rows)
    with pytest.raises(InputError) as caught:
        list(read_pools(path))
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_what_is_no_parquet_is_named(file):
    pytest.importorskip("pyarrow")
    with pytest.raises(InputError, match=r"pools\.parquet cannot be read as Parquet: "):
        list(read_pools(file(b"query,text\n", "pools.parquet")))


def test_without_pyarrow_it_is_named(file):
    path = file(b"PAR1", "pools.parquet")
    code = (
        "import sys; sys.modules['pyarrow'] = None; from resift.cli.main import main; "
        f"sys.exit(main(['rerank', '--pools', {str(path)!r}, '--out', 'out.jsonl']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (f"resift: {path}: reading Parquet needs pyarrow, which cannot be imported: pip install pyarrow\n")
