"""Documents with more than text: what the model reads of them, and that they come back as they were given."""

from __future__ import annotations

import datetime as dt
import enum
import json
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resift import InputError, Settings
from resift.documents import DocumentTemplate, document_id, plain
from tests.support import tiny

QUERY = "how do tides work"
TEXTS = tiny.texts()[1:16:2]
TITLED = [{"id": number, "title": f"part {number}", "text": text} for number, text in enumerate(TEXTS)]
TEMPLATE = "{title}\n{text}"


class Colour(str, enum.Enum):  # noqa: UP042 - str() of a StrEnum is its value, of this one its name
    RED = "red"


@pytest.mark.parametrize(
    ("template", "document", "expected"),
    [
        (TEMPLATE, {"title": "A", "text": "B"}, "A\nB"),
        (TEMPLATE, {"text": "B"}, "B"),
        (TEMPLATE, {"title": "", "text": "B"}, "B"),
        (TEMPLATE, {"title": None, "text": "B"}, "B"),
        (TEMPLATE, {"title": float("nan"), "text": "B"}, "B"),
        (TEMPLATE, {"title": np.float32("nan"), "text": "B"}, "B"),
        (TEMPLATE, {"title": pd.NA, "text": "B"}, "B"),
        (TEMPLATE, {"title": pd.NaT, "text": "B"}, "B"),
        (TEMPLATE, {"title": "A"}, "A"),
        (TEMPLATE, {"title": " ", "text": "B"}, " \nB"),
        ("{title}\n\n{text}", {"text": "B"}, "B"),
        ("{title}\n\n{text}", {"title": "A", "text": "B"}, "A\n\nB"),
        ("Title: {title}\nText: {text}", {"title": "A", "text": "B"}, "Title: A\nText: B"),
        ("Title: {title}\nText: {text}", {"text": "B"}, "Text: B"),
        ("Title: {title}\nText: {text}", {"title": "A"}, "Title: A"),
        ("{title} ({year})\n{text}", {"title": "A", "year": 1999, "text": "B"}, "A (1999)\nB"),
        ("{title} ({year})\n{text}", {"title": "A", "text": "B"}, "A\nB"),
        ("{a}-{b}+{c}", {"a": "1", "c": "3"}, "1-3"),
        ("{a}-{b}+{c}", {"b": "2", "c": "3"}, "2+3"),
        ("{a}-{b}+{c}", {"a": "1", "b": "2"}, "1-2"),
        ("passage: {title} {text}", {"text": "B"}, "passage: B"),
        ("Document:\n{title}\n{text}.\nEnd", {"text": "B"}, "Document:\nB.\nEnd"),
        ("Document:\n{title}\n{text}.\nEnd", {"title": "A"}, "Document:\nA"),
        ("{{x}} {text}", {"text": "{B}"}, "{x} {B}"),
        ("{ text }", {"text": "B"}, "B"),
        ("{page title}: {text}", {"page title": "A", "text": "B"}, "A: B"),
        ("{n} {f} {day}", {"n": 3, "f": np.float32(0.5), "day": dt.date(2024, 2, 29)}, "3 0.5 2024-02-29"),
        ("{colour}", {"colour": Colour.RED}, "red"),
        ("{text}", {"text": ""}, ""),
        ("{text}", {"content": "B"}, "B"),
        ("{text}", {"page_content": "B", "metadata": {"text": "other"}}, "B"),
        ("{text}", {"text": "B", "content": "other"}, "B"),
        ("{text}", {"text": None, "content": "B"}, "B"),
        ("{text}", {"text": "", "content": "B"}, "B"),
        ("{content}", {"text": "other", "content": "B"}, "B"),
        ("{title}|{text}", {"title": "A", "content": "B", "meta": {"title": "other"}}, "A|B"),
        ("{title}|{text}", {"content": "B", "meta": {"title": "A"}}, "A|B"),
        ("{title}|{text}", {"page_content": "B", "metadata": {"title": "A"}}, "A|B"),
        ("{meta.title}|{text}", {"text": "B", "meta": {"title": "A"}}, "A|B"),
        ("{meta.title}|{text}", {"text": "B", "meta.title": "A"}, "A|B"),
        ("{meta.title}|{text}", {"text": "B", "meta": "no mapping"}, "B"),
        ("{a.b.c}", {"a": {"b": {"c": "A"}}}, "A"),
    ],
)
def test_a_template_says_what_the_model_reads(template, document, expected):
    parsed = DocumentTemplate.parse(template)
    assert parsed.text(document, "documents[0]") == expected
    assert parsed.text(MappingProxyType(document), "documents[0]") == expected
    assert str(parsed) == template


@given(st.text(max_size=20).filter(lambda text: "{" not in text and "}" not in text), st.text(min_size=1), st.text(min_size=1))
def test_fields_and_the_text_between_them_are_kept_as_they_are(joint, title, text):
    template = DocumentTemplate.parse("{title}" + joint + "{text}")
    assert template.text({"title": title, "text": text}, "documents[0]") == title + joint + text
    assert template.text("a str", "documents[0]") == "a str"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("", "names no field"),
        ("text", "names no field"),
        ("{{text}}", "names no field"),
        ("{}", "does not only name a field"),
        ("{0}", "does not only name a field"),
        ("{text!r}", "does not only name a field"),
        ("{text:>9}", "does not only name a field"),
        ("{text[0]}", "does not only name a field"),
        ("{meta..title}", "does not only name a field"),
        ("{text", "malformed"),
        ("text}", "malformed"),
        ("{te\nxt}", "malformed"),
    ],
)
def test_a_template_that_is_none_is_refused_where_it_is_set(template, said):
    with pytest.raises(InputError, match=rf"document template .*{said}.*such as"):
        Settings(document_template=template)


@pytest.mark.parametrize(
    ("document", "kind", "said"),
    [
        ({"id": 1, "body": "B"}, InputError, r"documents\[3\] has the fields id, body, and no value in text or content or page_"),
        ({}, InputError, r"documents\[3\] has the fields none, and no value in text"),
        ({"text": None}, InputError, r"documents\[3\] has the fields text, and no value in text"),
        ({"text": float("nan")}, InputError, r"no value in text"),
        ({"text": ["a", "b"]}, TypeError, r"documents\[3\] has list in its field text; expected text or a number"),
        ({"text": b"B"}, TypeError, r"documents\[3\] has bytes in its field text"),
        ({"text": {"a": "B"}}, TypeError, r"documents\[3\] has dict in its field text"),
        (None, TypeError, r"documents\[3\] is NoneType; expected str, or a mapping such as"),
        (pd.NA, TypeError, r"documents\[3\] is NAType; expected str"),
        (b"B", TypeError, r"documents\[3\] is bytes; expected str"),
        (pd.Series({"text": "B"}), TypeError, r"documents\[3\] is Series; expected str"),
        ([("text", "B")], TypeError, r"documents\[3\] is list; expected str"),
    ],
)
def test_a_document_that_cannot_be_read_is_named_with_its_position(reranker, document, kind, said):
    documents = [*TITLED[:3], document]
    for call in (reranker.rerank, reranker.logits, reranker.score, reranker.submit):
        with pytest.raises(kind, match=said):
            call(QUERY, documents)
    with pytest.raises(kind, match=said.replace(r"documents\[3\]", r"pools\[1\]\[3\]")):
        reranker.rerank_many([QUERY, QUERY], [TEXTS, documents])
    with pytest.raises(kind, match=said.replace(r"documents\[3\]", r"pairs\[3\]\[1\]")):
        reranker.score_pairs([(QUERY, each) for each in documents])


def test_a_mapping_in_place_of_a_query_or_of_the_documents_is_refused(reranker):
    with pytest.raises(TypeError, match="query is dict; expected str"):
        reranker.rerank(TITLED[0], TITLED)
    with pytest.raises(TypeError, match=r"pairs\[0\]\[0\] is dict; expected str"):
        reranker.score_pairs([(TITLED[0], "text")])
    with pytest.raises(TypeError, match="documents is dict; expected a list of str, or of mappings with a text"):
        reranker.rerank(QUERY, TITLED[0])


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("text", None),
        ({"text": "B"}, None),
        ({"id": "d1", "_id": "other"}, "d1"),
        ({"_id": "d1", "docid": "other"}, "d1"),
        ({"docid": "d1", "doc_id": "other"}, "d1"),
        ({"doc_id": 7}, 7),
        ({"id": None, "_id": "d1"}, "d1"),
        ({"id": float("nan"), "docid": "d1"}, "d1"),
        ({"id": 0}, 0),
        ({"id": ""}, ""),
        ({"id": np.int64(7)}, 7),
        ({"id": 7.0}, 7),
        ({"id": 10**400}, 10**400),
        ({"id": 7.5}, "7.5"),
        ({"id": float("inf")}, "inf"),
        ({"meta": {"id": "nested"}}, None),
    ],
)
def test_the_id_of_a_document(document, expected):
    found = document_id(document)
    assert (found, type(found)) == (expected, type(expected))


def test_the_documents_of_haystack_and_langchain_are_read_as_they_are():
    haystack = pytest.importorskip("haystack")
    langchain = pytest.importorskip("langchain_core.documents")
    document = haystack.Document(id="d1", content="B", meta={"title": "A"})
    template = DocumentTemplate.parse(TEMPLATE)
    for found in (
        document.to_dict(),
        document.to_dict(flatten=False),
        langchain.Document(id="d1", page_content="B", metadata={"title": "A"}).model_dump(),
    ):
        assert (template.text(found, "documents[0]"), document_id(found)) == ("A\nB", "d1")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["\ud800", "\udc00x"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
        max_leaves=10,
    )
)
def test_any_value_becomes_json_and_values_that_json_has_stay(value):
    found = plain(value)
    content = json.dumps(found, allow_nan=False, ensure_ascii=False)
    content.encode()
    assert json.loads(content) == found == plain(found)
