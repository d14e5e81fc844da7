"""Words are found in any script, and what differs only in form is the same."""

from __future__ import annotations

import pytest

from resift.retrieval.words import key_of, singular, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What's a 2-day Tide?", ["what", "s", "a", "2", "day", "tide"]),
        ("\ufb01ne \uff34ide", ["fine", "tide"]),
        ("iPhone手机", ["iphone", "手", "机"]),
        ("น้ำขึ้น", list("น้ำขึ้น".replace("ำ", "\u0e4d\u0e32"))),
        ("…!", []),
    ],
)
def test_words_are_found_in_any_script(text, expected):
    assert words(text) == expected


def test_texts_without_words_have_their_own_keys():
    assert key_of("  Ebb,  and FLOW! ") == key_of("ebb and flow") == "ebb and flow"
    assert key_of(" ?? ") == "??"
    assert key_of("") == ""


def test_plurals_become_singulars_and_other_words_stay():
    given = ["tides", "queries", "buses", "glass", "virus", "shoes", "is", "trees", "tide"]
    assert list(singular(given)) == ["tide", "query", "buse", "glass", "virus", "shoes", "is", "trees", "tide"]
