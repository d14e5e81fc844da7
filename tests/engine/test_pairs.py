from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from resift.errors import ArtifactError, InputError
from resift.pairs import PairTokenizer

MAX_LENGTH = 24
KINDS = ["bert", "roberta", "xlm-roberta", "modernbert"]
# Pieces that meet every seam of a tokenizer: spaces, accents, scripts, emoji, control characters, its own special tokens.
PIECES = st.sampled_from(
    ["tides", "Água", "東京", "🌊", " ", "\t", "\x00", "\u200d", "don't", "[SEP]", "</s>", "<mask>", "1,000.5", "ß", "e\u0301"]
)
TEXT = st.lists(PIECES | st.text(max_size=4), max_size=30).map("".join)


@pytest.fixture(scope="module", params=KINDS)
def fast(request):
    """A tokenizer of transformers: its pair encoding is what the engine's must equal."""
    return tiny.tokenizer(request.param)


@pytest.fixture(scope="module")
def ours(fast):
    return PairTokenizer(fast.backend_tokenizer.to_str().encode(), MAX_LENGTH)


def own_pair(fast, query, document, **cut):
    """transformers takes an empty text of a single pair for a missing one, of a batch not."""
    return {name: rows[0] for name, rows in fast([query], [document], **cut).items()}


@settings(max_examples=200, deadline=None)
@given(query=TEXT, documents=st.lists(TEXT, min_size=1, max_size=4))
def test_pairs_are_encoded_as_the_tokenizer_itself_does_with_only_second(fast, ours, query, documents):
    encodings = ours.encode([query] * len(documents), documents)
    if encodings.query_tokens_cut[0]:
        return  # only_second has no answer there: see the long query's own tests
    for row, document in enumerate(documents):
        own = own_pair(fast, query, document, truncation="only_second", max_length=MAX_LENGTH)
        assert encodings.ids[row].tolist() == own["input_ids"]
        assert encodings.segment_ids[row].tolist() == own["token_type_ids"]
        assert encodings.lengths[row] == len(own["input_ids"])
        assert encodings.tokens_cut[row] == len(own_pair(fast, query, document)["input_ids"]) - len(own["input_ids"])


def test_a_long_query_leaves_the_document_a_quarter_of_the_room(fast, ours):
    special = len(own_pair(fast, "", "")["input_ids"])
    room = MAX_LENGTH - special
    tokens = fast("tides " * 40, add_special_tokens=False)["input_ids"]
    encodings = ours.encode(["tides " * 40], ["water " * 40])
    assert encodings.lengths[0] == MAX_LENGTH
    assert encodings.query_tokens_cut[0] == len(tokens) - (room - room // 4)
    assert encodings.tokens_cut[0] == len(fast("water " * 40, add_special_tokens=False)["input_ids"]) - room // 4


def test_a_query_is_cut_the_same_whatever_its_document(ours):
    encodings = ours.encode(["tides " * 40] * 2, ["", "water " * 40])
    assert encodings.query_tokens_cut[0] == encodings.query_tokens_cut[1] > 0


def test_lone_surrogates_are_read_as_replacement_characters(ours):
    broken, mended = ours.encode(["a \ud800 b"] * 2, ["x\udfffy", "x\ufffdy"]), ours.encode(["a \ufffd b"], ["x\ufffdy"])
    assert broken.ids[0].tolist() == broken.ids[1].tolist() == mended.ids[0].tolist()


def test_a_megabyte_document_is_cut_and_counted(ours):
    encodings = ours.encode(["tides"], ["water " * 170_000])
    assert encodings.lengths[0] == MAX_LENGTH
    assert encodings.tokens_cut[0] > 160_000


def test_threads_share_one_tokenizer(ours):
    texts = tiny.texts()[:80]
    expected = [ours.encode([text], [text[::-1]]).ids[0].tolist() for text in texts]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            found = list(pool.map(lambda text: ours.encode([text], [text[::-1]]).ids[0].tolist(), texts))
            assert found == expected


def test_truncation_and_padding_of_the_file_are_not_obeyed(fast, ours):
    content = json.loads(fast.backend_tokenizer.to_str())
    content["truncation"] = {"direction": "Left", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    sides = {"direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    content["padding"] = {"strategy": {"Fixed": 99}, **sides}
    spoilt = PairTokenizer(json.dumps(content).encode(), MAX_LENGTH)
    assert spoilt.encode(["tides"], ["water rises"]).ids[0].tolist() == ours.encode(["tides"], ["water rises"]).ids[0].tolist()


def test_no_room_for_two_texts_is_refused(fast):
    with pytest.raises(InputError, match="max_length is 5 tokens"):
        PairTokenizer(fast.backend_tokenizer.to_str().encode(), 5)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"version": "1.0", "model": {"type": "Nonsense"}}'])
def test_a_file_that_is_no_tokenizer_is_refused(content):
    with pytest.raises(ArtifactError, match=r"tokenizer\.json cannot be read"):
        PairTokenizer(content, MAX_LENGTH)
