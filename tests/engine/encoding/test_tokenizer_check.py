"""A tokenizer.json whose components lengthen texts without limit is refused before the library reads it."""

from __future__ import annotations

import copy
import json
import unicodedata

import pytest
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from resift.encoding.tokenizer import PairTokenizer
from resift.encoding.tokenizer_check import GROWTH, _check_growth, _File, _growth, check_tokenizer
from resift.errors import ArtifactError
from tests.engine.encoding.test_tokenizer_files import FILES, add, changed, load, map_with, put
from tests.support import tiny


def content_of(tokenizer: Tokenizer) -> bytes:
    return tokenizer.to_str().encode()


def decomposed(text):
    """Characters of the decomposed text, by which growth is judged."""
    return len(unicodedata.normalize("NFKD", text))


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


def unpadded_map(file):
    """A map with a text of 700 characters, and as many NULs after it that its Base64 ends with padding, which is left out."""
    map_with(file, lambda whole, _: whole + b"x" * 700 + b"\0" * (1 + -len(whole) % 3))
    content = file["normalizer"]["precompiled_charsmap"]
    assert content.endswith("=")
    file["normalizer"]["precompiled_charsmap"] = content.rstrip("=")


def bert_normalizer():
    return {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}


METASPACE = {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
REFUSED = {
    "a long prefix": (
        *normalizer(prepend("x" * 2000)),
        "makes up to 2,001 characters of one, with the Prepend that is number 1",
    ),
    "a prefix of megabytes": (*normalizer(prepend("x" * 1_000_000)), "has a text of 1,000,000 characters in the Prepend of its"),
    "many prefixes": (*normalizer(sequence(*[prepend("x" * 100)] * 20)), "makes up to 601 .* the Prepend that is number 6 in"),
    "prefixes that double": (
        *normalizer(sequence(prepend("a" * 400), replace("a", "aa"))),
        "makes up to 802 characters of one, with the Replace that is number 2 in its normalizer",
    ),
    "a long replacement": (*normalizer(replace("a", "x" * 1000)), "makes up to 1,000 characters of one, with the Replace"),
    "a long replacement of a regular expression": (
        *normalizer(replace("a*", "x" * 300, "Regex")),
        "makes up to 601 .* the Replace",
    ),
    "a replacement of nothing": (*normalizer(replace("", "x" * 300)), "makes up to 601 characters of one"),
    "replacements that double": (
        *normalizer(sequence(*[replace("a", "aa")] * 40)),
        "1,024 characters of one, with the Replace .*number 10",
    ),
    "sequences within sequences": (
        *normalizer(sequence(*[sequence(replace("a", "aa"), replace("b", "a"))] * 40)),
        "1,024 characters of one, with the Replace that is number 19 in its normalizer",
    ),
    "a letter that decomposes again and again": (
        *normalizer(sequence(*[replace("\u0644", "\ufdfa"), {"type": "NFKD"}] * 20)),
        "makes up to 5,832 characters of one, with the Replace that is number 5",
    ),
    "a map to a long text": (
        "xlm-roberta",
        lambda file: map_with(file, lambda whole, _: whole + b"x" * 700 + b"\0"),
        "700 .*Precompiled",
    ),
    "a map without the padding of Base64": ("xlm-roberta", unpadded_map, "700 .*Precompiled"),
    "a map that is not Base64": (*normalizer({"type": "Precompiled", "precompiled_charsmap": "A"}), "is not Base64"),
    "bytes of bytes": (
        "roberta",
        put("pre_tokenizer", value=sequence(*[BYTE_LEVEL] * 40, name="pretokenizers")),
        "makes up to 625 characters of one, with the ByteLevel that is number 4 in its pre_tokenizer",
    ),
    "bytes whose characters decompose": (
        *normalizer(sequence(*[{"type": "ByteLevel"}, {"type": "NFKD"}] * 3)),
        "makes up to 1,331 characters of one, with the ByteLevel that is number 5 in its normalizer",
    ),
    "ideographs of ideographs": (
        *normalizer(sequence(*[bert_normalizer()] * 6)),
        "makes up to 729 characters of one, with the BertNormalizer that is number 6",
    ),
    "marks of marks": (
        "bert",
        put("pre_tokenizer", value=sequence(*[METASPACE] * 10, name="pretokenizers")),
        "makes up to 768 characters of one, with the Metaspace that is number 8 in its pre_tokenizer",
    ),
    "a normalizer and pre-tokenizers together": (
        "roberta",
        lambda file: file.update(normalizer=replace("a", "x" * 200), pre_tokenizer=BYTE_LEVEL),
        "makes up to 1,000 characters of one, with the ByteLevel that is number 1 in its pre_tokenizer",
    ),
    "many components": (*normalizer(sequence(*[{"type": "Nmt"}] * 1000)), "has 1,000 components in its normalizer"),
    "a long pattern": (*normalizer(replace("x" * 20_000, "")), "has a text of 20,000 characters in the Replace of its normalizer"),
    "a long pattern of a decoder": ("bert", put("decoder", value=replace("x" * 20_000, "")), "in the Replace of its decoder"),
    "a long special token": ("bert", put("post_processor", "special_tokens", "[SEP]", "tokens", value=["x" * 20_000]), "Template"),
    "a template of many parts": (
        "bert",
        put("post_processor", "single", value=[{"Sequence": {"id": "A", "type_id": 0}}] * 1000),
        "has 1,000 parts in the template of a single in its post_processor",
    ),
    "a pair of many parts": (
        "bert",
        put("post_processor", "pair", value=[{"Sequence": {"id": "A", "type_id": 0}}] * 1000),
        "has 1,000 parts in the template of a pair in its post_processor",
    ),
    "a component without a type": (*normalizer({"prepend": "x"}), "cannot be read: its normalizer has a component without a type"),
    "a long added token": ("bert", lambda file: add(file, content="x" * 20_000), "has an added token of 20,000 characters"),
    "added tokens that lengthen": (
        "bert",
        lambda file: [file.update(normalizer=replace("x", "x" * 100)), *(add(file, content="x" * 10_000) for _ in range(9))],
        "makes up to 9,002,600 characters of its added tokens",
    ),
    "added tokens after a prefix": (
        "bert",
        lambda file: [file.update(normalizer=prepend("x" * 500)), *(add(file, content="x") for _ in range(20_000))],
        "makes up to 10,022,526 characters of its added tokens",
    ),
    "a long piece": (
        "xlm-roberta",
        lambda file: file["model"]["vocab"].append(["x" * 200_000, -20.0]),
        "has a piece of 200,000 characters in its model",
    ),
    "a piece longer than real ones": (
        "xlm-roberta",
        lambda file: file["model"]["vocab"].append(["x" * 101, -20.0]),
        "has a piece of 101 characters in its model; expected at most 100",
    ),
    "pieces of megabytes": (
        "xlm-roberta",
        lambda file: file["model"]["vocab"].extend([["\U0001f30a" * 100, -20.0]] * 42_000),
        "has 16,80.,... bytes of pieces in its model",
    ),
    "a long continuation": (
        "bert",
        put("model", "continuing_subword_prefix", value="#" * 200),
        "continuing_subword_prefix of 200",
    ),
    "a long end of a word": ("roberta", put("model", "end_of_word_suffix", value="#" * 200), "end_of_word_suffix of 200"),
    "long words": ("bert", put("model", "max_input_chars_per_word", value=10**9), "has max_input_chars_per_word 1000000000"),
    "words longer than real ones": ("bert", put("model", "max_input_chars_per_word", value=201), "_word 201 .* at most 200"),
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


def test_a_section_given_twice_is_refused_before_the_library_builds_both():
    """The library frees the first one, which is not what was checked."""
    first = changed("xlm-roberta", lambda file: file["model"]["vocab"].append(["x" * 400_000, -20.0]))
    content = json.dumps(FILES["xlm-roberta"], indent=2).encode()
    check_tokenizer(content)
    for section, indent in ((first["model"], None), (first["model"], 2), ({}, None), (None, 1)):
        twice = b'{"model": ' + json.dumps(section, indent=indent).encode() + b"," + content[1:]
        with pytest.raises(ArtifactError, match=r"^tokenizer\.json cannot be read: two of its sections have the same name; export"):
            check_tokenizer(twice)


def test_expressions_that_clean_a_text_are_accepted_before_the_normalizer_of_a_real_file():
    def clean(file):
        cleaning = [replace(r"https?://\S+", " ", "Regex"), replace(r"<[^>]+>", " ", "Regex")]
        map_with(file, lambda whole, _: whole)
        file["normalizer"] = sequence(*cleaning, file["normalizer"], replace(" {2,}", " ", "Regex"))

    ours = load(changed("xlm-roberta", clean))
    assert ours.encode("a", ["tides https://example.com"]).row(0)[0].tolist() == ours.encode("a", ["tides  "]).row(0)[0].tolist()


def test_a_vocabulary_as_large_as_the_largest_real_one_is_accepted():
    """XLM-V has 901,629 pieces; here they have 11 bytes each."""
    pieces = [[f"\u2581{number:08}", -20.0] for number in range(901_629)]
    check_tokenizer(json.dumps({"model": {"type": "Unigram", "vocab": pieces}}).encode())


CODES = (*range(1, 0x3400), *range(0x4E00, 0x4E40), *range(0xF900, 0x10000), 0x1F30A, 0x2FA1F, 0xFEFBE, 0x10FFFF)
"""Characters of every length in UTF-8, those of the longest decompositions among them."""


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in GROWTH.items() for name in names])
def test_a_component_makes_as_many_characters_of_one_as_stated(kind, name):
    """As many of one character as stated, and no more of any."""
    if kind == "normalizer":
        component = {"BertNormalizer": normalizers.BertNormalizer(), "ByteLevel": normalizers.ByteLevel()}[name]
        made = {text: decomposed(component.normalize_str(text)) / decomposed(text) for text in map(chr, CODES)}
    else:
        component = {"ByteLevel": pre_tokenizers.ByteLevel(), "Metaspace": pre_tokenizers.Metaspace()}[name]
        made = {text: sum(len(part) for part, _ in component.pre_tokenize_str(text)) for text in map(chr, CODES)}
    assert (max(made.values()), 0) == _growth({"type": name}, kind)


REPLACED = {
    "a character": ("a", "xyz"),
    "two characters": ("aa", "xyzw"),
    "an expression": (Regex("a*"), "xyz"),
    "nothing": ("", "xy"),
    "by a character that decomposes": ("a", "\u00e9"),
    "by less": ("ab", "c"),
}


@pytest.mark.parametrize(("pattern", "content"), REPLACED.values(), ids=REPLACED)
def test_the_bound_holds_for_what_the_library_replaces(pattern, content):
    """Rounds of it lengthen no text beyond what is judged, and the first lengthens one as much."""
    one = normalizers.Replace(pattern, content)
    for rounds in range(1, 5):
        whole = normalizers.Sequence([one] * rounds)
        growth, added = _check_growth(_File(normalizer=json.loads(whole.__getstate__())))
        made = {text: decomposed(whole.normalize_str(text)) for text in ("a", "aa", "aaaa", "ab" * 10, "b")}
        assert all(length <= growth * len(text) + added for text, length in made.items())
        assert rounds > 1 or any(length == growth * len(text) + added for text, length in made.items()) or content == "c"


def test_sequences_within_sequences_are_refused_before_they_are_walked():
    nested = '{"type": "Sequence", "normalizers": [' * 200 + "]}" * 200
    with pytest.raises(ArtifactError, match=r"^tokenizer\.json cannot be read: nested deeper than 100 levels"):
        check_tokenizer(f'{{"normalizer": {nested}}}'.encode())


def test_normal_forms_and_lower_case_keep_the_length_by_which_growth_is_judged():
    characters = [chr(code) for code in range(0x30000) if not 0xD800 <= code < 0xE000]
    for form in ("NFC", "NFD", "NFKC"):
        assert [each for each in characters if decomposed(unicodedata.normalize(form, each)) > decomposed(each)] == []
    assert [each for each in characters if decomposed(each.lower()) > decomposed(each)] == []


def test_real_files_stay_as_they_are():
    before = copy.deepcopy(FILES)
    for file in FILES.values():
        load(file)
    assert before == FILES
