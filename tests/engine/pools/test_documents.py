"""The documents of one query: plain lines, JSON Lines, and the rows of tables."""

from __future__ import annotations

import gzip

import pytest

from resift import InputError
from resift.documents import DocumentTemplate
from resift.pools.documents import DocumentSource, read_documents
from resift.pools.reading import CandidatePool


def test_documents_are_plain_lines(file):
    pool = read_documents(file("first é\r\n\n  second {x}\n[third]".encode()), "q")
    assert pool == CandidatePool("q", ["first é", "  second {x}", "[third]"])
    assert pool.lines == [1, 3, 4]


def test_documents_are_objects_where_the_first_line_is_one(file):
    pool = read_documents(file(b'\n {"text": "a", "docid": 1}\n{"text": "b"}\n'), "q")
    assert pool == CandidatePool("q", ["a", "b"], None, [{"docid": 1}, {}])
    assert pool.lines == [2, 3]
    assert pool.first(1).lines == [2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"plain", "not JSON"),
        (b"{}", "'text' is missing or null"),
        (b'["a"]', "a list; expected a JSON object"),
        (b'{"query": "q", "documents": []}', "a candidate pool; expected a document: rank pools with --pools FILE --out OUT"),
        (b'{"query": "q", "candidates": []}', "a candidate pool"),
    ],
)
def test_a_bad_document_among_objects_is_an_input_error_naming_file_and_line(file, line, message):
    path = file(b'{"text": "a"}\n\n' + line)
    with pytest.raises(InputError) as caught:
        read_documents(path, "q")
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert message in str(caught.value)


def test_a_file_without_lines_holds_no_documents(file):
    assert read_documents(file(b"\n\n"), "q") == CandidatePool("q", [])


ROWS = b'id,text,label\n7,"The moon, they say,\npulls.",2\n\n8,Bread rises.,\n'
FIELDS = [{"id": "7", "label": 2}, {"id": "8", "label": None}]
POOL = CandidatePool("q", ["The moon, they say,\npulls.", "Bread rises."], None, FIELDS)


@pytest.mark.parametrize("start", [b"", b"\n\n", b"\xef\xbb\xbf"], ids=["at once", "after blank lines", "after a byte order mark"])
def test_rows_of_a_table_are_documents(file, start):
    pool = read_documents(file(start + ROWS, "documents.csv"), "q")
    assert pool == POOL
    assert pool.lines == [number + start.count(b"\n") for number in (2, 5)]
    assert read_documents(file(gzip.compress(start + ROWS), "documents.csv.gz"), "q") == POOL


@pytest.mark.parametrize("column", ["text", "content", "page_content", "document"])
def test_the_column_of_the_text_has_the_names_that_people_give_it(file, column):
    found = read_documents(file(f'{column}\tid\na "b" c\t1\n'.encode(), "documents.tsv"), "q")
    assert found == CandidatePool("q", ['a "b" c'], None, [{"id": "1"}])


def test_with_a_template_no_column_need_be_the_text(file):
    path = file(b"title,body\nTides,The moon.\n,Yeast.\n", "documents.csv")
    pool = read_documents(path, "q", DocumentTemplate.parse("{title}: {body}"))
    assert pool.documents == ["Tides: The moon.", "Yeast."]
    with pytest.raises(InputError, match="line 2 has the fields title, body, and no value in name"):
        read_documents(path, "q", DocumentTemplate.parse("{name}"))


def test_json_lines_and_plain_lines_may_have_any_other_name(file):
    assert read_documents(file(b'{"text": "a,b"}\n', "documents.csv"), "q").documents == ["a,b"]
    for name in ("documents.txt", "documents.csv.txt", "csv"):
        assert read_documents(file(b"text,id\na,1\n", name), "q").documents == ["text,id", "a,1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"query,text\nq,a\n", "line 1: a column 'query', so that each row is a pair; rank pairs with --pools FILE --out OUT"),
        (
            b"name,id\na,1\n",
            "line 1: the columns are name, id; expected 'text' (or 'document') with a document in each row; a document template",
        ),
        (b"text,text\na,1\n", "line 1: the column 'text' is there 2 times; expected it once"),
        (b"text,id\na,1\nb\n", "line 3: 1 cells; expected 2, as in the file's first line"),
        (b'text,id\na,1\n"b,2\n', "line 3: unexpected end of data"),
        (b"text,id\na\xff,1\n", "line 2: not UTF-8 at byte 1"),
    ],
)
def test_a_table_without_documents_is_an_input_error_naming_file_and_line(file, content, message):
    path = file(content, "documents.csv")
    with pytest.raises(InputError) as caught:
        read_documents(path, "q")
    assert str(caught.value).startswith(f"{path}, {message}")


# A corpus as a stream


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("documents.txt", b"The moon, they say,\n\nBread rises.\n"),
        ("documents.jsonl", b'{"text": "The moon, they say,"}\n{"text": "Bread rises.", "id": 3}\n'),
        ("documents.csv", b'text,id\n"The moon, they say,",7\nBread rises.,8\n'),
        ("documents.jsonl.gz", gzip.compress(b'{"text": "The moon, they say,"}\n{"text": "Bread rises."}\n', mtime=0)),
    ],
)
def test_documents_of_a_file_are_a_stream_of_texts(file, name, content):
    source = DocumentSource(file(content, name))
    stream = iter(source)
    assert next(stream) == "The moon, they say,"
    assert 0 < source.share() <= 1
    assert [*stream] == ["Bread rises."]
    assert source.share() == 1


def test_documents_of_parquet_are_a_stream(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "documents.parquet"
    parquet.write_table(pa.table({"text": [f"text {number}" for number in range(100)], "title": ["t"] * 100}), path)
    source = DocumentSource(path)
    assert [*source] == [f"text {number}" for number in range(100)]
    assert source.share() == 1
    assert next(iter(DocumentSource(path, DocumentTemplate.parse("{title}: {text}")))) == "t: text 0"


def test_title_and_text_are_read_of_a_beir_folder(tmp_path):
    lines = b'{"_id": "1", "title": "Tides", "text": "The moon."}\n{"_id": "2", "text": "Bread."}\n'
    (tmp_path / "corpus.jsonl").write_bytes(lines)
    source = DocumentSource(tmp_path)
    assert [*source] == ["Tides The moon.", "Bread."]
    assert source.share() == 1
    assert [*DocumentSource(tmp_path, DocumentTemplate.parse("{text}"))] == ["The moon.", "Bread."]
    with pytest.raises(InputError, match=r"is a folder without corpus\.jsonl; expected a BEIR folder, or a file of documents"):
        DocumentSource(tmp_path.parent)


def test_a_document_that_cannot_be_read_ends_the_stream_there(file):
    stream = iter(DocumentSource(file(b'{"text": "a"}\n{"text": 7}\n', "documents.jsonl")))
    assert next(stream) == "a"
    with pytest.raises(InputError, match=r"line 2: an object whose 'text' is a number"):
        next(stream)
