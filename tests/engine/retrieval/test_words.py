"""Words are found in any script, and what differs only in form is the same."""

from __future__ import annotations

import re
import unicodedata

import pytest

from resift.retrieval.words import LONG_WORD, key_of, singular, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What's a 2-day Tide?", ["what", "s", "a", "2", "day", "tide"]),
        ("\ufb01ne \uff34ide", ["fine", "tide"]),
        ("iPhone手机", ["iphone", "手", "机"]),
        ("น้ำขึ้น", list("น้ำขึ้น".replace("ำ", "\u0e4d\u0e32"))),
        ("मौसम कैसा है?", ["मौसम", "कैसा", "है"]),
        ("மழை எப்போது", ["மழை", "எப்போது"]),
        ("שָׁלוֹם", [unicodedata.normalize("NFKC", "שָׁלוֹם")]),
        ("1\ufe0f\u20e3 ❤\ufe0f", ["1"]),
        ("…!", []),
    ],
)
def test_words_are_found_in_any_script(text, expected):
    assert words(text) == expected


def test_long_words_have_two_letters_or_more():
    assert re.findall(LONG_WORD, "a 2-day tide, मौसम है") == ["day", "tide", "मौसम"]
    assert re.findall(LONG_WORD, "x\u0302y x\u0302 手") == ["x\u0302y", "手"]


def test_words_that_differ_in_a_vowel_sign_are_different():
    assert key_of("दिन") != key_of("दान")


def test_texts_without_words_have_their_own_keys():
    assert key_of("  Ebb,  and FLOW! ") == key_of("ebb and flow") == "ebb and flow"
    assert key_of("Sort in C++!") == "sort in c++"
    assert len({key_of(f"sort in {name}?") for name in ("C", "C++", "C#")}) == 3
    assert key_of(" ?? ") == "??"
    assert key_of("") == ""


def test_plurals_become_singulars_and_other_words_stay():
    given = ["tides", "queries", "buses", "glass", "virus", "shoes", "is", "trees", "tide"]
    assert list(singular(given)) == ["tide", "query", "buse", "glass", "virus", "shoes", "is", "trees", "tide"]
