"""Questions are found in whatever form an answer has them."""

from __future__ import annotations

import pytest

from resift.questions.prompt import LONGEST, messages, questions_of


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"questions": ["What is a tide?", "Why?"]}', ["What is a tide?", "Why?"]),
        ('Here you are:\n```json\n{"questions": ["What is\\n a tide?"]}\n```', ["What is a tide?"]),
        ('["a tide", "b tide"]', ["a tide", "b tide"]),
        ('[{"question": "a tide"}, {"query": "b tide"}, {"x": 1}, 3]', ["a tide", "b tide"]),
        ('{"question": "one"}', ["one"]),
        ("1. What is a tide?\n2) “Why is it?”\nThat is all.", ["What is a tide?", "Why is it?"]),
        ("- 潮汐是什么\uff1f\n", ["潮汐是什么\uff1f"]),
        ('{"questions": ["Ebb?", "ebb", " ", 7, null]}', ["Ebb?"]),
        ('{"questions": ["' + "long " * LONGEST + '"]}', []),
        ('{"questions": ["The text itself"]}', []),
        ('{"questions": 5}', []),
        ("I cannot answer that.", []),
        ('{"questions": ["half', []),
        ("[" * 1000, []),
        ('{"questions": ["1", "2", "3", "4"]}', ["1", "2", "3"]),
    ],
)
def test_questions_are_found(answer, expected):
    assert questions_of(answer, 3, "The text, itself!") == expected


def test_a_text_is_cut_before_it_is_sent():
    system, user = messages("abcdef", 2, 3)
    assert user["content"] == "abc"
    assert "2 different questions" in system["content"]
    assert '{"questions"' in system["content"]
