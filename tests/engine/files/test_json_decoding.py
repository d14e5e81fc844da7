"""JSON decoding: half of a surrogate pair is read as the tokenizer reads it."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resift.files.json_decoding import decode_json

HALVES = st.sampled_from(["\ud83d", "\ude00", "\udfff", "\\", "u", "d83d", '"', "\n", "a", "\U0001f600", "\u6f6e"])


@given(st.lists(HALVES).map("".join))
@example("\\\ud83d\ude00\\ude00")
@example("\ude00\ud83d\ud83d\ude00")
def test_half_a_pair_is_read_as_the_replacement_character(text):
    expected = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert decode_json(json.dumps({text: [text]}).encode()) == {expected: [expected]}


def test_an_escape_may_have_capitals():
    assert decode_json(rb'"\uD83D\uDE00 \uD83D \uDE00"') == "\U0001f600 \ufffd \ufffd"


def test_bytes_of_half_a_pair_are_not_utf8():
    with pytest.raises(ValueError, match="byte 1 is not UTF-8"):
        decode_json('"\ud83d"'.encode(errors="surrogatepass"))
