from __future__ import annotations

import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resift.artifact.folder import Artifact
from resift.artifact.manifest import TOKENIZER
from resift.encoding import tokenizer as pairs
from resift.encoding.extent import SHORT_TEXT_CHARACTERS
from resift.encoding.tokenizer import PART_CHARACTERS, PairTokenizer
from resift.errors import ArtifactError, InputError
from tests.support import children, tiny
from tests.support.forks import can_fork

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


@settings(max_examples=200)
@given(query=TEXT, documents=st.lists(TEXT, min_size=1, max_size=4))
def test_pairs_are_encoded_as_the_tokenizer_itself_does_with_only_second(fast, ours, query, documents):
    encodings = ours.encode(query, documents)
    if encodings.query_tokens_cut:
        return  # only_second has no answer there: see the long query's own tests
    for row, document in enumerate(documents):
        own = own_pair(fast, query, document, truncation="only_second", max_length=MAX_LENGTH)
        ids, segment_ids = encodings.row(row)
        assert ids.tolist() == own["input_ids"]
        assert segment_ids.tolist() == own["token_type_ids"]
        assert encodings.lengths[row] == len(own["input_ids"])
        assert encodings.tokens_cut[row] == len(own_pair(fast, query, document)["input_ids"]) - len(own["input_ids"])


LONG_TEXT = st.lists(PIECES, max_size=60).map(" ".join)


@settings(max_examples=200)
@given(query=LONG_TEXT, documents=st.lists(LONG_TEXT, min_size=1, max_size=4), most=st.integers(9, MAX_LENGTH))
def test_pairs_are_encoded_as_the_tokenizer_itself_does_with_longest_first(fast, query, documents, most):
    longest = PairTokenizer(fast.backend_tokenizer.to_str().encode(), most, truncation="longest_first")
    encodings = longest.encode(query, documents)
    whole = [len(fast([text], add_special_tokens=False)["input_ids"][0]) for text in (query, *documents)]
    special = len(own_pair(fast, "", "")["input_ids"])
    query_cut = 0
    for row, document in enumerate(documents):
        own = own_pair(fast, query, document, truncation="longest_first", max_length=most)
        ids, segment_ids = encodings.row(row)
        assert ids.tolist() == own["input_ids"]
        assert segment_ids.tolist() == own["token_type_ids"]
        lost = special + whole[0] + whole[row + 1] - len(own["input_ids"])
        query_cut = max(query_cut, lost - encodings.tokens_cut[row])
    assert encodings.query_tokens_cut == query_cut


@pytest.mark.parametrize("query", ["tides", "tides " * 6, "tides " * 40])
@pytest.mark.parametrize("truncation", ["only_second", "longest_first"])
def test_overhead_is_what_a_pair_has_besides_a_document_that_was_cut(fast, query, truncation):
    tokenizer = PairTokenizer(fast.backend_tokenizer.to_str().encode(), MAX_LENGTH, truncation=truncation)
    encodings = tokenizer.encode(query, ["water " * 200])
    whole = len(fast(["water " * 200], add_special_tokens=False)["input_ids"][0])
    assert tokenizer.overhead(query) == MAX_LENGTH - (whole - encodings.tokens_cut[0])


def test_with_longest_first_a_document_is_cut_to_its_own_limit_before(fast):
    longest = PairTokenizer(fast.backend_tokenizer.to_str().encode(), MAX_LENGTH, truncation="longest_first")
    (short,) = longest.parts("tides " * 40, ["water " * 40], document_tokens=3)
    room = MAX_LENGTH - len(own_pair(fast, "", "")["input_ids"])
    tokens = len(fast(["tides " * 40], add_special_tokens=False)["input_ids"][0])
    assert short.lengths.tolist() == [MAX_LENGTH]
    assert short.query_tokens_cut == tokens - (room - 3)


def test_a_long_query_leaves_the_document_a_quarter_of_the_room(fast, ours):
    special = len(own_pair(fast, "", "")["input_ids"])
    room = MAX_LENGTH - special
    tokens = fast("tides " * 40, add_special_tokens=False)["input_ids"]
    encodings = ours.encode("tides " * 40, ["water " * 40])
    assert encodings.lengths[0] == MAX_LENGTH
    assert encodings.query_tokens_cut == len(tokens) - (room - room // 4)
    assert encodings.tokens_cut[0] == len(fast("water " * 40, add_special_tokens=False)["input_ids"]) - room // 4


def test_a_query_is_cut_the_same_whatever_its_documents(ours):
    cuts = [ours.encode("tides " * 40, documents).query_tokens_cut for documents in ([], [""], ["water " * 40])]
    assert cuts[0] == cuts[1] == cuts[2] > 0


def test_lone_surrogates_are_read_as_replacement_characters(ours):
    broken, mended = ours.encode("a \ud800 b", ["x\udfffy", "x\ufffdy"]), ours.encode("a \ufffd b", ["x\ufffdy"])
    assert broken.row(0)[0].tolist() == broken.row(1)[0].tolist() == mended.ids.tolist()


def test_tokens_are_counted_up_to_100_000_characters_and_at_least_as_many_beyond(fast, ours):
    text = ("water " * 17_000)[:100_000]
    encodings = ours.encode("tides", [text, text + "s", "water " * 170_000])
    assert encodings.lengths.tolist() == [MAX_LENGTH] * 3
    assert encodings.tokens_cut_at_least.tolist() == [False, True, True]
    exact = [len(own_pair(fast, "tides", document)["input_ids"]) - MAX_LENGTH for document in (text, text + "s")]
    assert encodings.tokens_cut[0] == exact[0]
    assert exact[1] - 10 < encodings.tokens_cut[1] <= exact[1]
    assert exact[0] - 10 < encodings.tokens_cut[2] <= exact[0]


class Marked(str):
    """A str of another type, as numpy.str_ is."""

    __slots__ = ()


@pytest.mark.parametrize("text", ["tides rise", "潮 \ud800", "the tides rise " * 20_000], ids=["short", "surrogate", "long"])
def test_a_subclass_of_str_is_read_as_the_str_it_holds(ours, text):
    expected = ours.encode(text, [text])
    for kind in (Marked, np.str_):
        found = ours.encode(kind(text), [kind(text)])
        assert found.ids.tolist() == expected.ids.tolist()
        assert (found.query_tokens_cut, found.tokens_cut.tolist()) == (expected.query_tokens_cut, expected.tokens_cut.tolist())


def test_a_text_whose_first_part_has_few_tokens_is_read_further(fast, ours):
    # Blanks are no tokens to BERT: the words begin beyond what is counted.
    for blanks, exact in ((150_000, True), (250_000, True), (395_000, False)):
        text = " " * blanks + "the tides rise " * 1_000
        [own] = fast([""], [text], truncation="only_second", max_length=MAX_LENGTH)["input_ids"]
        encodings = ours.encode("", [text])
        assert encodings.ids.tolist() == own
        assert exact or encodings.tokens_cut_at_least[0]


def test_threads_share_one_tokenizer(ours):
    texts = tiny.texts()[:80]
    expected = [ours.encode(text, [text[::-1]]).ids.tolist() for text in texts]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            found = list(pool.map(lambda text: ours.encode(text, [text[::-1]]).ids.tolist(), texts))
            assert found == expected


@given(query=TEXT, documents=st.lists(TEXT, max_size=8), characters=st.integers(1, 60), size=st.integers(1, 4))
@settings(max_examples=50)
def test_parts_are_the_encodings_in_steps(ours, query, documents, characters, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "PART_CHARACTERS", characters)
        patch.setattr(pairs, "PART_DOCUMENTS", size)
        parts = list(ours.parts(query, documents))
        joined = ours.encode(query, documents)
    alone = [ours.encode(query, [document]) for document in documents]
    assert [part.lengths.tolist() for part in alone] == [[length] for length in joined.lengths.tolist()]
    for name in ("ids", "segment_ids", "tokens_cut", "tokens_cut_at_least"):
        expected = [value for part in alone for value in getattr(part, name).tolist()]
        assert getattr(joined, name).tolist() == expected
        assert [value for part in parts for value in getattr(part, name).tolist()] == expected
    assert {part.query_tokens_cut for part in parts} <= {joined.query_tokens_cut}
    assert all(1 <= len(part) <= size for part in parts)
    start, enough = 0, characters * ours._cores
    for part in parts:
        # A part ends with the document that reaches the bound.
        assert sum(len(document) for document in documents[start : start + len(part) - 1]) < enough
        start += len(part)


def test_no_documents_are_no_parts_and_an_empty_encoding(ours):
    assert list(ours.parts("tides", [])) == []
    empty = ours.encode("tides", [])
    assert (len(empty), empty.ids.tolist(), empty.token_offsets.tolist()) == (0, [], [0])


def test_encodings_are_flat_int32_and_rows_are_views(ours):
    encodings = ours.encode("tides", ["water", "", "the moon pulls"])
    for name in ("ids", "segment_ids", "lengths", "tokens_cut"):
        assert getattr(encodings, name).dtype == "int32"
    assert encodings.tokens_cut_at_least.dtype == "bool"
    assert len(encodings.ids) == len(encodings.segment_ids) == encodings.lengths.sum()
    for number in range(3):
        for view in encodings.row(number):
            assert len(view) == encodings.lengths[number]
            assert view.base is not None


def test_truncation_and_padding_of_the_file_are_not_obeyed(fast, ours):
    content = json.loads(fast.backend_tokenizer.to_str())
    content["truncation"] = {"direction": "Left", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    sides = {"direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    content["padding"] = {"strategy": {"Fixed": 99}, **sides}
    spoilt = PairTokenizer(json.dumps(content).encode(), MAX_LENGTH)
    assert spoilt.encode("tides", ["water rises"]).ids.tolist() == ours.encode("tides", ["water rises"]).ids.tolist()


SCRIPT = """
import os, resource, signal, sys, time
from resift.artifact.folder import Artifact
from resift.artifact.manifest import TOKENIZER
from resift.artifact.folder import Artifact
from resift.artifact.manifest import TOKENIZER
from resift.encoding.extent import SHORT_TEXT_CHARACTERS
from resift.encoding.tokenizer import PART_CHARACTERS, PairTokenizer
ours = PairTokenizer(Artifact.find(None).read(TOKENIZER), 512)
"""
"""How the processes below begin. Artifact.find reads no graph."""


def run(script, **environment):
    done = children.run(
        [sys.executable, "-c", SCRIPT + script],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FORK = """
import threading
texts = ["the moon pulls at the water " * 40] * 200
def encode():
    return ours.encode("tides", texts).ids.tolist()
if {before}:
    encode()
thread = threading.Thread(target=lambda: [encode() for _ in range({beside})])
thread.start()
if (child := os.fork()) == 0:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(60)
    found = encode()
    if (grandchild := os.fork()) == 0:
        signal.alarm(60)
        os._exit(found != encode())
    print(len(found), sum(found))
    sys.stdout.flush()
    os._exit(os.waitpid(grandchild, 0)[1])
status = os.waitpid(child, 0)[1]
thread.join()
found = encode()
print(len(found), sum(found))
print(status)
"""


@can_fork
@pytest.mark.parametrize("parallelism", ["true", "false", None])
@pytest.mark.parametrize(("before", "beside"), [(True, 0), (True, 5), (False, 0)])
def test_a_forked_child_can_tokenize_whatever_the_parent_did(monkeypatch, parallelism, before, beside):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    environment = {} if parallelism is None else {"TOKENIZERS_PARALLELISM": parallelism}
    child, parent, status = run(FORK.format(before=before, beside=beside), **environment).splitlines()
    assert (child, status) == (parent, "0")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/status")
@pytest.mark.parametrize("unit", ["the tides rise ", "a", "東京", "\\u0301", " ", "QUJDREVG+0/", "word\\n", "é, "])
def test_a_text_of_50_megabytes_takes_little_memory(unit):
    script = f"""
text = "{unit}"
text = (text * (50_000_000 // len(text.encode()) + 1))
for encodings in (ours.encode("tides", [text]), ours.encode(text, ["tides"])):
    assert 3 <= encodings.lengths[0] <= 512
    assert encodings.ids[0] == 101
[peak] = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(peak // 1024)  # in megabytes; getrusage would count the process that this one was started from, too
"""
    assert int(run(script)) < 500


def test_an_interrupt_is_seen_between_two_parts_and_a_part_is_bounded(monkeypatch):
    """Python sees a signal once the tokenizers library returns, so what one call of it is given bounds how late that is."""
    tokenizer = PairTokenizer(Artifact.find(None).read(TOKENIZER), 512)
    whole, given = PairTokenizer._encode_whole, []

    def interrupted(self, texts):
        given.append(sum(map(len, texts)))
        if len(given) == 40:
            signal.raise_signal(signal.SIGINT)
        return whole(self, texts)

    monkeypatch.setattr(PairTokenizer, "_encode_whole", interrupted)
    texts = ["the tides rise " * 3_000_000] * 3 + ["the tides rise " * 6_000] * 5000 + ["tides"] * 5000
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            tokenizer.encode("tides", texts)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(given) == 40
    assert max(given) <= PART_CHARACTERS * tokenizer._cores + SHORT_TEXT_CHARACTERS


def test_no_room_for_two_texts_is_refused(fast):
    with pytest.raises(InputError, match="max_length is 5 tokens"):
        PairTokenizer(fast.backend_tokenizer.to_str().encode(), 5)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"version": "1.0", "model": {"type": "Nonsense"}}'])
def test_a_file_that_is_no_tokenizer_is_refused(content):
    with pytest.raises(ArtifactError, match=r"tokenizer\.json cannot be read"):
        PairTokenizer(content, MAX_LENGTH)
