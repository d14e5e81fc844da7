"""tokenizer.json of a stranger: it loads and encodes, or is refused in one line."""

from __future__ import annotations

import base64
import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resift.encoding import tokenizer_check
from resift.encoding.tokenizer import PairTokenizer
from resift.errors import ArtifactError, InputError
from tests.support import tiny

FAMILIES = ("bert", "roberta", "xlm-roberta")
FILES = {family: json.loads(tiny.backend(family).to_str()) for family in FAMILIES}
ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
# Letters that a small vocabulary lacks, one that normalizes to several, marks, spaces, and a long word.
TEXTS = ["tides", "", "a\u0301 \uff21b", "東京 🌊", "x" * 300, "\x00 \t\n [SEP] <mask>"]
NESTED = b'{"normalizer": ' + b'{"type": "Sequence", "normalizers": [' * 300 + b"]}" * 300 + b"}"
DEEP = b'{"version": "1.0", "normalizer": ' + b'{"type": "Sequence", "normalizers": [' * 50_000


def load(content, max_length=24):
    return PairTokenizer(content if isinstance(content, bytes) else json.dumps(content).encode(), max_length)


def changed(family, change):
    content = copy.deepcopy(FILES[family])
    change(content)
    return content


def map_with(content, spoil):
    """Gives it a character map: its size, a trie of that many bytes, and the replacements that the trie points to."""
    whole = tiny.charsmap()
    spoilt = spoil(whole, 4 + int.from_bytes(whole[:4], "little"))
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(spoilt).decode()}


def pair_of(content, *pieces):
    content["post_processor"]["pair"] = [{"Sequence": {"id": piece, "type_id": 0}} for piece in pieces]


def ids_of(content, *ids):
    special = content["post_processor"]["special_tokens"]["[SEP]"]
    special.update(ids=list(ids), tokens=["[SEP]"] * len(ids))


def add(file, number=1199, **token):
    file["added_tokens"].append({"id": number, **ADDED, **token})


def put(*path, value):
    def change(content):
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = value

    return change


# What it is, whose tokenizer, the change, and the message at load.
REFUSED = [
    ("map cut short", "xlm-roberta", lambda file: map_with(file, lambda whole, _: whole[:1000]), "cannot be read"),
    ("map without its end", "xlm-roberta", lambda file: map_with(file, lambda whole, end: whole[:end]), "cannot encode a text"),
    ("map of other bytes", "xlm-roberta", lambda file: map_with(file, lambda whole, end: whole[:end] + b"\xff" * 40), "cannot be"),
    ("pieces without an unknown one", "xlm-roberta", put("model", "unk_id", value=None), "`unk_id` is missing"),
    ("an unknown token that is none", "bert", put("model", "unk_token", value="nope"), "Missing"),
    ("a panic at load: a template with tokens it does not define", "bert", put("post_processor", "special_tokens", value={}), ""),
    ("a panic at encode: splits of no characters", "bert", put("pre_tokenizer", value={"type": "FixedLength", "length": 0}), ""),
    (
        "a panic at encode: added tokens that normalize to nothing",
        "bert",
        lambda file: [add(file, content=mark, lstrip=True, rstrip=True) for mark in ("\u0301", " ", "\x00", "\u200d")],
        "cannot encode a text",
    ),
    ("no pieces", "xlm-roberta", put("model", "vocab", value=[]), "EmptyVocabulary"),
    ("unknown token beyond the pieces", "xlm-roberta", put("model", "unk_id", value=10**6), "UnkIdNotInVocabulary"),
    ("no vocabulary", "bert", put("model", "vocab", value={}), "cannot encode a text: WordPiece error: Missing"),
    ("merge of unknown pieces", "roberta", put("model", "merges", value=[["a", "zzzz"]]), "`zzzz` out of vocabulary"),
    ("random merges", "roberta", put("model", "dropout", value=0.5), "drops 50% of its merges at random"),
    ("query a thousand times", "bert", lambda file: pair_of(file, *"A" * 1000, "B"), "has 1,001 parts"),
    ("query 99 times", "bert", lambda file: pair_of(file, *"A" * 99, "B"), "joins"),
    ("query twice around the document", "bert", lambda file: pair_of(file, *"ABA"), "joins"),
    ("document twice", "bert", lambda file: pair_of(file, *"ABB"), "joins"),
    ("document first", "bert", lambda file: pair_of(file, *"BA"), r"joins a pair as \$B\$A"),
    ("no document", "bert", lambda file: pair_of(file, "A"), r"joins a pair as \$A "),
    (
        "special token of 2**32 - 1",
        "bert",
        lambda file: ids_of(file, 2**32 - 1),
        "(out of bounds|joins empty texts)",
    ),
    ("token of 2**32 - 1", "bert", put("model", "vocab", "qqqq", value=2**32 - 1), "token id 4294967295"),
    ("added token without content", "bert", put("added_tokens", value=[{"id": 1}]), "missing field"),
    (
        "unclosed pattern",
        "bert",
        put("normalizer", value={"type": "Replace", "pattern": {"Regex": "("}, "content": ""}),
        "(Onig|NormalizerTypeWrapper)",
    ),
    ("a post-processor unheard of", "bert", put("post_processor", value={"type": "Unheard"}), "cannot be read"),
]


@pytest.mark.parametrize(("family", "change", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_file_that_cannot_join_pairs_is_refused_at_load(family, change, message):
    with pytest.raises(ArtifactError, match=rf"^tokenizer\.json .*{message}.*") as refused:
        load(changed(family, change))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content", [DEEP, NESTED, b"[" * 100_000, b'{"model":' * 100_000, b"{" + b" " * 1_000_000], ids=["a", "b", "c", "d", "e"]
)
def test_a_deep_or_empty_file_is_refused(content):
    with pytest.raises(ArtifactError, match=r"tokenizer\.json cannot be read"):
        load(content)


def test_a_huge_file_is_refused_unread(monkeypatch):
    monkeypatch.setattr(tokenizer_check, "SOURCE_BYTES", 1000)
    with pytest.raises(ArtifactError, match="bytes; expected at most 1,000"):
        load(FILES["bert"])


def test_a_template_of_a_hundred_thousand_tokens_leaves_no_room():
    content = changed("bert", lambda file: ids_of(file, *[3] * 50_000))
    with pytest.raises(InputError, match="100001 are special"):
        load(content)


# Files that load, and fail on some texts only.
FAILING = {
    "a pattern that takes for ever": (
        "bert",
        put("normalizer", value={"type": "Replace", "pattern": {"Regex": "(x+x+)+y"}, "content": ""}),
    ),
}


@pytest.mark.parametrize(("family", "change"), FAILING.values(), ids=FAILING)
def test_a_text_that_the_library_fails_on_is_an_artifact_error(family, change):
    ours = load(changed(family, change))
    with pytest.raises(ArtifactError, match=r"^tokenizer\.json cannot encode a text: .*export the artifact again$"):  # noqa: PT012
        for text in TEXTS:
            ours.encode("a", [text])
    assert ours.encode("a", ["a"]).lengths[0] > 0


def test_the_vocabulary_is_what_the_embeddings_must_hold():
    count = len(FILES["bert"]["model"]["vocab"])
    assert load(FILES["bert"]).vocabulary == count
    # Ids with gaps: more than there are tokens.
    assert load(changed("bert", put("model", "vocab", "qqqq", value=50_000))).vocabulary == 50_001
    # The template names ids of its own.
    assert load(changed("bert", lambda file: ids_of(file, 70_000))).vocabulary == 70_001
    # The library numbers an added token itself, whatever the file says.
    added = load(changed("bert", lambda file: add(file, number=77_777, content="qqqq")))
    assert added.vocabulary == count + 1
    assert count in added.encode("qqqq", ["a"]).ids


def test_without_a_post_processor_a_pair_is_two_texts():
    ours = load(changed("bert", put("post_processor", value=None)))
    assert ours.template() == []
    ids, segment_ids = ours.encode("a", ["b"]).row(0)
    assert ids.tolist() == [FILES["bert"]["model"]["vocab"][letter] for letter in "ab"]
    assert segment_ids.tolist() == [0, 1]


def places(value, path=()):
    """Where a file can be changed; the first entries stand for a whole vocabulary."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in list(items)[:12]:
        yield from places(inner, (*path, name))


PLACES = [(family, path) for family in FAMILIES for path in places(FILES[family]) if path]
ODD = st.none() | st.booleans() | st.integers(-3, 2**33) | st.floats(allow_nan=False) | st.text(max_size=4)
COMPONENTS = [file[name] for file in FILES.values() for name in ("normalizer", "pre_tokenizer", "post_processor", "model")]
VALUES = ODD | st.lists(ODD, max_size=3) | st.dictionaries(st.text(max_size=4), ODD, max_size=2) | st.sampled_from(COMPONENTS)


@settings(max_examples=150)
@given(place=st.sampled_from(PLACES), value=VALUES, text=st.text(max_size=20), remove=st.booleans())
def test_any_change_of_a_file_is_refused_or_encodes(place, value, text, remove):
    family, path = place
    content = changed(family, put(*path, value=value))
    if remove:
        owner = content
        for name in path[:-1]:
            owner = owner[name]
        del owner[path[-1]]
    try:
        ours = load(content)
        found = [ours.encode(text, [other]) for other in (*TEXTS, text)]
    except (ArtifactError, InputError):
        return
    assert max(int(encodings.ids.max(initial=0)) for encodings in found) < max(1, ours.vocabulary)
    assert all(encodings.lengths[0] <= 24 for encodings in found)
