"""Bodies that ask for far more work than their size says: each field has a length and a count, before anything is made of it."""

from __future__ import annotations

import json

import pytest

from tests.support import tiny

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from resift.serve.api_table import PATHS
from resift.serve.config import Config
from resift.serve.documents import FIELDS_LIMIT
from tests.support.serving import serving

QUERY, DOCUMENTS = "how do tides work", tiny.texts()[1:9:2]
LIMIT = 200


@pytest.fixture(scope="module")
def served(reranker):
    with serving({"org/tiny": reranker}, max_client_batch_size=LIMIT) as running:
        yield running


def refused(served, content: bytes, path: str = "/v1/rerank", status: int = 400) -> str:
    """The words of a refusal."""
    reply = served.post(path, content=content)
    assert reply.status_code == status
    found = reply.json()
    return found["error"] if "error_type" in found else found["message"]


def document(fields: str, more: str = "") -> bytes:
    """A body of one document with these fields."""
    return f'{{"query": "a", "return_documents": true{more}, "documents": [{{{fields}}}]}}'.encode()


@pytest.mark.parametrize("path", PATHS)
def test_documents_are_counted_before_they_are_read(served, path):
    names = {"/score": ("text_1", "text_2"), "/v1/score": ("text_1", "text_2")}
    names |= dict.fromkeys(("/rerank", "/reranking", "/v1/reranking"), ("query", "texts"))
    query, documents = names.get(path, ("query", "documents"))
    # The last one is no document, which a server that read them would say.
    rows = [f'"{number}"' for number in range(LIMIT)] + (["1"] if documents == "documents" else ['"1"'])
    said = refused(
        served, f'{{"{query}": "a", "{documents}": [{",".join(rows)}]}}'.encode(), path, 413 if documents == "texts" else 400
    )
    assert said == f"batch size {LIMIT + 1} > maximum allowed batch size {LIMIT}"


@pytest.mark.parametrize("sides", [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")])
def test_pairs_are_counted_before_they_are_made(served, sides):
    many = [str(number) for number in range(LIMIT + 1)]
    for left, right in ((many, many), (many, "a"), ("a", many)):
        said = refused(served, json.dumps({sides[0]: left, sides[1]: right}).encode(), "/score")
        assert said == f"batch size {LIMIT + 1} > maximum allowed batch size {LIMIT}"


@pytest.mark.parametrize(
    ("field", "content", "said"),
    [
        ("rank_fields", json.dumps(["text"] * 2), "rank_fields names 'text' more than once; expected each field once"),
        ("rank_fields", json.dumps([str(n) for n in range(65)]), "Expected `array` of length <= 64 - at `$.rank_fields`"),
        ("rank_fields", json.dumps(["a" * 201]), "Expected `str` of length <= 200 - at `$.rank_fields[0]`"),
        ("plan", json.dumps("," * 501), "Expected `str` of length <= 500 - at `$.plan`"),
        ("plan", json.dumps("," * 500), "the plan ',,,"),
        ("model", json.dumps("m" * 201), "Expected `str` of length <= 200 - at `$.model`"),
        ("top_n", "9" * 100_000, "Integer value out of range - at `$.top_n`"),
        ("budget_ms", "1" * 100_000, "$.budget_ms"),
    ],
)
def test_a_field_that_is_too_long_is_named(served, field, content, said):
    assert said in refused(served, document('"text": "a"', f', "{field}": {content}'))


def test_a_document_of_too_many_fields_is_named(served):
    fields = [f'"f{number}": 1' for number in range(FIELDS_LIMIT)]
    said = refused(served, document(", ".join(['"text": "a"', *fields])))
    assert said == f"documents[0] has {FIELDS_LIMIT + 1} fields; expected at most {FIELDS_LIMIT}"
    assert served.post("/v1/rerank", content=document(", ".join(['"text": "a"', *fields[1:]]))).status_code == 200


UNREAD = {
    "nested lists": "[" * 400 + "]" * 400,
    "nested objects": '{"a": ' * 400 + "1" + "}" * 400,
    "a number of many digits": "9" * 5000,
    "a number out of range": "-1e999",
    "many lists": "[" + "[]," * 1000 + "{}]",
    "escapes": r'"\u00e9\ud83d\ude00\\\""',
    "spaces": '[ 1 ,\n {"b"\t: null } ]',
}


@pytest.mark.parametrize("value", UNREAD.values(), ids=UNREAD)
@pytest.mark.parametrize("text", ['"text": "tides"', '"content": "tides"', '"text": null, "content": "tides"'])
@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_a_field_that_is_not_read_is_returned_as_it_was_sent(served, path, value, text):
    reply = served.post(path, content=document(f'"n": {value}, {text}'))
    assert reply.status_code == 200
    assert f'"n":{value}' in reply.text
    assert '"text":"tides"' in reply.text
    assert reply.text.count('"text":') == 1


def test_fields_that_are_read_are_decoded_wherever_they_stand(served, reranker):
    documents = [
        {"text": DOCUMENTS[0], "unread": [[]] * 100},
        {"meta": {"text": DOCUMENTS[1], "unread": {"a": {}}}},
        {"text": "", "metadata": {"page_content": DOCUMENTS[2]}},
        DOCUMENTS[3],
        {"text": 12.5},
    ]
    found = served.post("/v2/rerank", {"query": QUERY, "documents": documents}).json()
    texts = [*DOCUMENTS[:4], "12.5"]
    assert [row["index"] for row in found["results"]] == [row.index for row in reranker.rerank(QUERY, texts)]
    joined = [{"a": DOCUMENTS[0], "b": DOCUMENTS[1], "c": [1]}, {"b": DOCUMENTS[2]}]
    found = served.post("/v1/rerank", {"query": QUERY, "documents": joined, "rank_fields": ["b", "a"], "raw_scores": True}).json()
    ranking = reranker.rerank(QUERY, [f"{DOCUMENTS[1]}\n{DOCUMENTS[0]}", DOCUMENTS[2]])
    assert [row["relevance_score"] for row in found["results"]] == [row.logit for row in ranking]


def test_half_a_surrogate_pair_is_replaced_wherever_it_stands(served):
    reply = served.post("/v1/rerank", content=document(r'"text": "a\ud83d", "n": ["\udc00", "\ud83d\ude00"]'))
    assert reply.status_code == 200
    assert reply.json()["results"][0]["document"] == {"text": "a\ufffd", "n": ["\ufffd", "\U0001f600"]}


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ('["a", 1]', "Expected `str | object`, got `int` - at `$.documents[1]`"),
        ('["a", null]', "Expected `str | object`, got `null` - at `$.documents[1]`"),
        ('["a", ["b"]]', "Expected `str | object`, got `array` - at `$.documents[1]`"),
        ('[{"text": 1e999}]', "$.documents[0]"),
        ('[{"text": ["a"]}]', "documents[0] has list in its field text; expected text or a number"),
        ('[{"text": {"a": "b"}}]', "documents[0] has JsonObject in its field text; expected text or a number"),
        ('[{"a": {}}]', "documents[0] has the fields a, and no value in text or content or page_content"),
    ],
)
def test_a_document_that_cannot_be_read_is_named(served, documents, said):
    assert said in refused(served, f'{{"query": "a", "documents": {documents}}}'.encode())


def test_a_body_of_more_than_2_mib_needs_the_setting(served):
    assert Config().max_body_bytes == 2 << 20
    assert refused(served, b'{"query": "' + b"a" * (2 << 20), status=413) == "the body has 2097163 bytes; expected at most 2097152"
