"""A tokenizer.json whose components lengthen texts without limit is refused before the library reads it."""

from __future__ import annotations

import copy
import json
import unicodedata

import pytest
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from resift.encoding.tokenizer import PairTokenizer
from resift.encoding.tokenizer_check import check_tokenizer
from resift.errors import ArtifactError
from tests.engine.encoding.test_tokenizer_files import FILES, add, changed, load, map_with, put
from tests.support import tiny


def content_of(tokenizer: Tokenizer) -> bytes:
    return tokenizer.to_str().encode()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_file_of_every_family_is_accepted(family):
    check_tokenizer(content_of(tiny.backend(family)))


def test_the_normalizers_that_transformers_converts_sentencepiece_to_are_accepted():
    """Those of ALBERT, with the lower case that sentence-transformers puts before them, are the longest."""
    tokenizer = tiny.backend("albert")
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace("``", '"'),
            normalizers.Replace("''", '"'),
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Precompiled(tiny.charsmap()),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    ours = PairTokenizer(content_of(tokenizer), 24)
    assert ours.encode("Tides \ufdfa", ["``\u00c9"]).lengths[0] > 0


def sequence(*components, name="normalizers"):
    return {"type": "Sequence", name: list(components)}


def replace(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def prepend(text):
    return {"type": "Prepend", "prepend": text}


def normalizer(value):
    return "bert", put("normalizer", value=value)


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
REFUSED = {
    "a long prefix": (
        *normalizer(prepend("x" * 2000)),
        "puts up to 2,000 characters before a text, with the Prepend that is number 1",
    ),
    "a prefix of megabytes": (*normalizer(prepend("x" * 1_000_000)), "has a text of 1,000,000 characters in the Prepend of its"),
    "many prefixes": (*normalizer(sequence(*[prepend("x" * 100)] * 20)), "puts up to 1,100 .* the Prepend that is number 11 in"),
    "prefixes that double": (
        *normalizer(sequence(prepend("a" * 600), replace("a", "aa"))),
        "puts up to 1,200 characters before a text, with the Replace that is number 2 in its normalizer",
    ),
    "a long replacement": (*normalizer(replace("a", "x" * 1000)), "makes up to 1,000 characters of one, with the Replace"),
    "a long replacement of a regular expression": (
        *normalizer(replace("a*", "x" * 300, "Regex")),
        "makes up to 301 .* the Replace",
    ),
    "a replacement of nothing": (*normalizer(replace("", "x" * 300)), "makes up to 301 characters of one"),
    "replacements that double": (
        *normalizer(sequence(*[replace("a", "aa")] * 40)),
        "256 characters of one, with the Replace .*number 8",
    ),
    "sequences within sequences": (
        *normalizer(sequence(*[sequence(replace("a", "aa"), replace("b", "a"))] * 40)),
        "256 characters of one, with the Replace that is number 15 in its normalizer",
    ),
    "a letter that decomposes again and again": (
        *normalizer(sequence(*[replace("\u0644", "\ufdfa"), {"type": "NFKD"}] * 20)),
        "makes up to 324 characters of one, with the Replace that is number 3",
    ),
    "a map to a long text": (
        "xlm-roberta",
        lambda file: map_with(file, lambda whole, _: whole + b"x" * 400 + b"\0"),
        "400 .*Precompiled",
    ),
    "bytes of bytes": (
        "roberta",
        put("pre_tokenizer", value=sequence(*[BYTE_LEVEL] * 40, name="pretokenizers")),
        "makes up to 625 characters of one, with the ByteLevel that is number 4 in its pre_tokenizer",
    ),
    "a normalizer and pre-tokenizers together": (
        "roberta",
        lambda file: file.update(normalizer=replace("a", "x" * 100), pre_tokenizer=BYTE_LEVEL),
        "makes up to 500 characters of one, with the ByteLevel that is number 1 in its pre_tokenizer",
    ),
    "many components": (*normalizer(sequence(*[{"type": "Nmt"}] * 1000)), "has 1,000 components in its normalizer"),
    "a long pattern": (*normalizer(replace("x" * 20_000, "")), "has a text of 20,000 characters in the Replace of its normalizer"),
    "a long pattern of a decoder": ("bert", put("decoder", value=replace("x" * 20_000, "")), "in the Replace of its decoder"),
    "a long special token": ("bert", put("post_processor", "special_tokens", "[SEP]", "tokens", value=["x" * 20_000]), "Template"),
    "a component without a type": (*normalizer({"prepend": "x"}), "cannot be read: its normalizer has a component without a type"),
    "a long added token": ("bert", lambda file: add(file, content="x" * 20_000), "has an added token of 20,000 characters"),
    "added tokens that lengthen": (
        "bert",
        lambda file: [file.update(normalizer=replace("x", "x" * 100)), *(add(file, content="x" * 10_000) for _ in range(80))],
        "makes up to 80,002,600 characters of its added tokens",
    ),
    "a long piece": (
        "xlm-roberta",
        lambda file: file["model"]["vocab"].append(["x" * 200_000, -20.0]),
        "has a piece of 200,000 characters in its model",
    ),
    "a long continuation": (
        "bert",
        put("model", "continuing_subword_prefix", value="#" * 2000),
        "continuing_subword_prefix of 2,000",
    ),
    "a long end of a word": ("roberta", put("model", "end_of_word_suffix", value="#" * 2000), "end_of_word_suffix of 2,000"),
    "long words": ("bert", put("model", "max_input_chars_per_word", value=10**9), "has max_input_chars_per_word 1000000000"),
}


@pytest.mark.parametrize(("family", "change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_lengthens_texts_beyond_any_family_is_refused_by_name(family, change, message):
    content = json.dumps(changed(family, change)).encode()
    with pytest.raises(ArtifactError, match=rf"^tokenizer\.json .*{message}") as refused:
        check_tokenizer(content)
    assert str(refused.value).endswith("use the file that the model was trained with")
    with pytest.raises(ArtifactError) as same:
        PairTokenizer(content, 24)
    assert str(same.value) == str(refused.value)


BOUNDED = {
    "regular expression": ("a*", "xyz", "Regex"),
    "text": ("aa", "xyzw", "String"),
    "empty text": ("", "xy", "String"),
}


@pytest.mark.parametrize(("pattern", "content", "kind"), BOUNDED.values(), ids=BOUNDED)
def test_the_bound_holds_for_what_the_library_makes(pattern, content, kind):
    """The library's own result of four rounds is within the factor by which the file is judged."""
    rounds = normalizers.Sequence([normalizers.Replace(Regex(pattern) if kind == "Regex" else pattern, content)] * 4)
    factor = (1 + len(content) if kind == "Regex" or not pattern else len(content) / len(pattern)) ** 4
    for text in ("a", "aa", "aaaa", "ab" * 10, "b"):
        assert len(rounds.normalize_str(text)) <= factor * len(text) + factor


def test_sequences_within_sequences_are_refused_before_they_are_walked():
    nested = '{"type": "Sequence", "normalizers": [' * 200 + "]}" * 200
    with pytest.raises(ArtifactError, match=r"^tokenizer\.json cannot be read: nested deeper than 100 levels"):
        check_tokenizer(f'{{"normalizer": {nested}}}'.encode())


def test_normal_forms_and_lower_case_keep_the_length_by_which_growth_is_judged():
    def length(text):
        return len(unicodedata.normalize("NFKD", text))

    characters = [chr(code) for code in range(0x30000) if not 0xD800 <= code < 0xE000]
    for form in ("NFC", "NFD", "NFKC"):
        assert [each for each in characters if length(unicodedata.normalize(form, each)) > length(each)] == []
    assert [each for each in characters if length(each.lower()) > length(each)] == []


def test_real_files_stay_as_they_are():
    before = copy.deepcopy(FILES)
    for file in FILES.values():
        load(file)
    assert before == FILES
