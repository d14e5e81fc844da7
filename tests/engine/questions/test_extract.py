"""Without an endpoint, queries are words of the documents and nothing else."""

from __future__ import annotations

import pytest

from resift.questions.extract import MOST_CHARACTERS, MOST_WORDS, Extractor
from resift.retrieval.words import words

TEXTS = [
    "# Spring tides\nThe moon and the sun pull in one line. Then the tides are high. They are called spring tides.",
    "The sun is a star. The moon is not.",
    "Bread rises. " + " ".join(f"word{number}" for number in range(30)),
]


def test_queries_are_words_of_one_sentence_in_its_order():
    extractor = Extractor(TEXTS)
    for text in TEXTS:
        for query in extractor.queries(text, 9):
            rest = iter(words(text))
            assert all(word in rest for word in query.split())  # each behind the one before
            assert 2 <= len(query.split()) <= MOST_WORDS


def test_the_rarest_sentence_comes_first_and_no_query_twice():
    text = "The common words here. Zebra quagga okapi. Zebra quagga okapi. The common words here again."
    found = Extractor([text, *["The common words here again."] * 5]).queries(text, 9)
    assert found[0] == "zebra quagga okapi"
    assert len(found) == len(set(found)) == 3


@pytest.mark.parametrize("text", ["", "...", "Word.", "the of and", "Two words"])
def test_texts_that_say_too_little_have_none(text):
    assert Extractor([text]).queries(text, 3) == []


def test_scripts_without_spaces_give_the_beginning_of_a_sentence():
    text = "月亮引起潮汐。" + "面包" * 40 + "。"
    found = Extractor([text, "面包发酵。"]).queries(text, 2)
    assert "月亮引起潮汐。" in found
    assert all(len(query) <= MOST_CHARACTERS and query in text for query in found)
