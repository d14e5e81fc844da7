from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from resift.documents import encodable
from resift.encoding import extent as extents
from resift.encoding import tokenizer as pairs
from resift.encoding.seams import WORDS, last_seam, seam_spaces
from resift.encoding.tokenizer import PairTokenizer
from tests.support import tiny

MAX_LENGTH = 16
LLAMA = next(words for words in WORDS if "{1,3}" in words)
SPACES = Regex(" {2,}")
# Whatever could reach over a seam: spaces of all kinds, marks that combine, ligatures, added tokens and their halves.
PLAIN = ["ab", "ab cd", "x1 2y", "new york", "New", " york", "don't", "end", "[x]", "``", " ", "\n", "\t", ".", "'", "1", "  "]
SPECIAL = ["<mask>", "[SEP]", "</s>", "▁", "\x00", "\ud800", "🌊", "\U0001f1e9", "\U0001f1ea", "\u200d", "\xa0", "\u3000", "\u0600"]
MARKED = [
    "é",
    "e\u0301",
    " \u0301",
    "\xb4",
    "ﬁ",
    "\uff21",
    "⑴",
    "½",
    "İ",
    "Σ",
    "й",
    "東京",
    "각",
    "\u1100",
    "\u1161",
    "\ufb2a",
    "\ufc5e",
]
PIECES = st.sampled_from([*PLAIN, *SPECIAL, *MARKED, "क्", "ष"])
TEXT = st.lists(PIECES | st.text(max_size=3), max_size=30).map("".join)


def variant(family, normalizer=None, pre_tokenizer=None, added=()):
    """A tokenizer of tiny's with other components."""
    changed = Tokenizer.from_str(tiny.backend(family).to_str())
    if normalizer is not None:
        changed.normalizer = normalizer
    if pre_tokenizer is not None:
        changed.pre_tokenizer = pre_tokenizer
    changed.add_tokens(list(added))
    return changed


def trained(pre_tokenizer=None, normalizer=None):
    """A BPE tokenizer whose pieces reach as far as its splits do."""
    made = Tokenizer(models.BPE())
    if normalizer is not None:
        made.normalizer = normalizer
    if pre_tokenizer is not None:
        made.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    made.train_from_iterator([*tiny.texts(), *["ab cd x1 2y new york"] * 20], trainer)
    return made


def unigram(pre_tokenizer, *chain):
    return lambda: variant("xlm-roberta", normalizers.Sequence([*chain, normalizers.Precompiled(tiny.charsmap())]), pre_tokenizer)


def byte_level(*parts, **keywords):
    return lambda: variant("roberta", None, pre_tokenizers.Sequence([*parts, pre_tokenizers.ByteLevel(**keywords)]))


META = pre_tokenizers.Metaspace
BYTES = pre_tokenizers.ByteLevel
KINDS = {
    # name: (tokenizer, which spaces make a seam)
    "bert": (lambda: variant("bert"), " \n"),
    "roberta": (lambda: variant("roberta"), " \n"),
    "xlm-roberta": (lambda: variant("xlm-roberta"), " "),
    "modernbert": (lambda: variant("modernbert"), " \n"),
    "cased bert": (lambda: variant("bert", normalizers.BertNormalizer(lowercase=False, strip_accents=False)), " \n"),
    "no normalizers in a sequence": (lambda: variant("roberta", normalizers.Sequence([])), " \n"),
    "NFC, byte level": (lambda: variant("roberta", normalizers.NFC()), " \n"),
    "NFKD, accents, lowercase": (
        lambda: variant("bert", normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()])),
        " \n",
    ),
    "no normalizer": (lambda: variant("roberta", None, BYTES(add_prefix_space=True)), " \n"),
    "Llama's words": (byte_level(pre_tokenizers.Split(Regex(LLAMA), "isolated"), use_regex=False), " "),
    "charsmap": (unigram(META()), " "),
    "charsmap, WhitespaceSplit": (unigram(pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), META()])), " \n"),
    "charsmap, prepend first": (unigram(META(prepend_scheme="first")), " "),
    "charsmap, prepend never": (unigram(META(prepend_scheme="never")), " "),
    "deberta": (
        lambda: variant(
            "xlm-roberta",
            normalizers.Sequence([normalizers.Strip(), normalizers.Precompiled(tiny.charsmap()), normalizers.Replace(SPACES, " ")]),
            pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), META()]),
        ),
        " ",
    ),
    "albert": (
        unigram(META(), normalizers.Replace("``", '"'), normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()),
        " ",
    ),
    "digits": (byte_level(pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Punctuation()), " \n"),
    "delimiter": (lambda: variant("bert", None, pre_tokenizers.CharDelimiterSplit(" ")), " "),
    "split at spaces": (lambda: variant("xlm-roberta", None, pre_tokenizers.Split(" ", "merged_with_next")), " "),
    "tokens that strip": (
        lambda: variant(
            "roberta",
            added=[
                AddedToken("<mask>", lstrip=True, normalized=False),
                AddedToken("end", rstrip=True),
                AddedToken("cd", lstrip=True, rstrip=True, normalized=False),
                AddedToken("ab", single_word=True),
            ],
        ),
        " \n",
    ),
    "tokens of spaces": (lambda: variant("modernbert", added=[AddedToken("  "), AddedToken("    "), AddedToken(" ")]), " \n"),
    # Not provable: encoded whole.
    "token with a space": (lambda: variant("roberta", added=[AddedToken("ab cd", normalized=False)]), ""),
    "token that normalizes to one with a space": (
        lambda: variant("roberta", normalizers.NFKC(), added=[AddedToken("ab\u3000cd", normalized=True)]),
        "",
    ),
    "Metaspace without split": (lambda: trained(META(split=False)), ""),
    "bytes without words": (lambda: trained(BYTES(use_regex=False)), ""),
    "BPE alone": (trained, ""),
    "NFKC alone": (lambda: trained(None, normalizers.NFKC()), ""),
    "spaces stay with the word before": (lambda: trained(pre_tokenizers.Split(" ", "merged_with_previous")), ""),
    "unknown words": (lambda: variant("roberta", None, pre_tokenizers.Split(Regex(r"\w+ \w+|."), "isolated")), ""),
    "Llama's normalizer": (
        lambda: trained(None, normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])),
        "",
    ),
    "a normalizer that joins words": (lambda: variant("bert", normalizers.Replace("b c", "x")), ""),
    "a normalizer that joins words by pattern": (lambda: variant("bert", normalizers.Replace(Regex(r"b\sc"), "x")), ""),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    make, spaces = KINDS[request.param]
    tokenizer = make()
    return tokenizer, PairTokenizer(tokenizer.to_str().encode(), MAX_LENGTH), spaces


def whole(tokenizer, text):
    return tokenizer.encode(encodable(text), add_special_tokens=False).ids


def test_what_makes_a_seam_is_read_off_the_components(kind):
    _, ours, spaces = kind
    assert ours._seam_spaces == spaces
    # And is found: two plain words have one, if any text has.
    places = [last_seam(f"ab{space}cd", 5, spaces, ours._normalize) for space in spaces]
    assert 2 in places or not spaces


@settings(max_examples=150)
@given(before=TEXT, words=st.sampled_from(["ab cd", "x1\n2y", "new york", "éé ñandú", "мир труд"]), after=TEXT)
def test_tokens_before_a_seam_do_not_depend_on_what_follows(kind, before, words, after):
    tokenizer, ours, _ = kind
    text = before + words + after
    every = whole(tokenizer, text)
    places = {last_seam(text, limit, ours._seam_spaces, ours._normalize) for limit in range(len(text) + 1)} - {None}
    for place in places:
        found = whole(tokenizer, text[:place])
        assert found == every[: len(found)]


@settings(max_examples=100)
@given(query=TEXT, documents=st.lists(TEXT, min_size=1, max_size=3), counted=st.integers(1, 60))
def test_a_long_text_keeps_the_tokens_that_the_whole_text_has(kind, query, documents, counted):
    _, ours, _ = kind
    expected = ours.encode(query, documents)
    with pytest.MonkeyPatch.context() as patch:
        for module in (extents, pairs):
            patch.setattr(module, "SHORT_TEXT_CHARACTERS", counted)
        found = ours.encode(query, documents)
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.segment_ids.tolist() == expected.segment_ids.tolist()
    assert found.query_tokens_cut <= expected.query_tokens_cut
    for row, document in enumerate(documents):
        if found.tokens_cut_at_least[row]:
            assert len(document) > counted
            assert 0 <= found.tokens_cut[row] <= expected.tokens_cut[row]
        else:
            assert found.tokens_cut[row] == expected.tokens_cut[row]


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer"),
    [
        ({"type": "Unheard"}, {"type": "Whitespace"}),
        (None, {"type": "Unheard"}),
        (None, {"type": "Sequence", "pretokenizers": [{"type": "Unheard"}, {"type": "Whitespace"}]}),
        (None, {"type": "Sequence", "pretokenizers": []}),
        (None, None),
    ],
)
def test_a_component_that_is_not_known_makes_no_seam(normalizer, pre_tokenizer):
    assert seam_spaces(normalizer, pre_tokenizer, []) == ""
    assert seam_spaces(None, {"type": "Whitespace"}, ["[SEP]", "  "]) == " \n"
