"""Tokenizer check: what a tokenizer.json may hold, checked before the tokenizers library reads it.

The library passes every text, and each added token as it reads the file, through all components in turn, so components that each
lengthen a text a little lengthen it together without limit: thirty that double it make a gigabyte of one character. The bounds
here hold for all texts, as they multiply the most that each component can make of one character.

The length of a text is here that of its full decomposition (NFKD), which Unicode's normal forms and lower case keep, in whatever
order they come, while a text that a component puts in may become up to 18 times as long in the next one.
"""

from __future__ import annotations

import base64
import unicodedata
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from resift.errors import ArtifactError
from resift.files.json_decoding import decode_json

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE_BYTES = 1 << 28
"""Maximum size of tokenizer.json in bytes; one with a million tokens has about 64 MB."""
GROWTH = {
    "normalizer": {"BertNormalizer": 3, "ByteLevel": 11},
    "pre_tokenizer": {"ByteLevel": 5, "Metaspace": 2},
}
"""The most characters that a component makes of one by spaces around ideographs, by bytes written as characters (which decompose
where a normal form follows) and a space before each word, or by a mark before each word."""
GROWTH_LIMIT = 600
"""The most characters that all components together may make of one, with those that they put around it: the library splits a text
at added tokens, which may be at every other character. It is 72 for the files of ALBERT, DeBERTa and XLM-RoBERTa, and twice that
with each regular expression that a character replaces, as it may match nothing, before every character."""
COMPONENT_LIMIT = 100
"""The most components in a sequence, with those of the sequences within it (real files have up to 8), and parts of a template."""
TEXT_LIMIT = 10_000
"""The most characters of a text that a component states, such as a pattern (real ones have up to 600), and of an added token."""
ADDED_TOKENS_LIMIT = 1 << 23
"""The most characters of all added tokens together, as lengthened by the components; the library takes 60 bytes for each."""
PIECE_LIMIT = 100
"""The most characters of a Unigram model's piece (real ones have 16), as the library frees its tree of pieces by recursion (one of
100,000 ends the process), and of a prefix or suffix that a model puts before or after the parts of each word."""
PIECES_LIMIT = 1 << 24
"""The most bytes of all pieces together, for each of which the library may take 350; 250,000 real pieces have 3 MB."""
WORD_LIMIT = 200
"""The most characters of a word that WordPiece splits, in a time that grows with their cube; real files have 100."""


class _Model(msgspec.Struct):
    vocab: msgspec.Raw = msgspec.Raw(b"{}")
    continuing_subword_prefix: Any = None
    end_of_word_suffix: Any = None
    max_input_chars_per_word: Any = None


class _File(msgspec.Struct):
    model: _Model = msgspec.field(default_factory=_Model)
    normalizer: Any = None
    pre_tokenizer: Any = None
    post_processor: Any = None
    decoder: Any = None
    added_tokens: Any = None


def check_tokenizer(source: bytes) -> None:
    """Raises ArtifactError, which names the component, if a file of this content lengthens texts beyond the limits or is too large.

    Whatever else can be wrong with it is left to the library.
    """
    if len(source) > SOURCE_BYTES:
        raise ArtifactError(f"tokenizer.json has {len(source):,} bytes; expected at most {SOURCE_BYTES:,}")
    try:
        _check_names(source)
        file = decode_json(source, _File)
        vocab = bytes(file.model.vocab)
        pieces = decode_json(vocab, list[tuple[str, Any]]) if vocab.startswith(b"[") else []
    except ValueError as error:
        raise ArtifactError(f"tokenizer.json cannot be read: {error}; export the artifact again") from error
    growth, added = _check_growth(file)
    for kind in ("post_processor", "decoder"):
        _components(getattr(file, kind), kind)
    _check_added_tokens(file.added_tokens, growth, added)
    _check_model(file.model, pieces)


def _check_names(source: bytes) -> None:
    """Raises ValueError if a name is there twice: the library builds each section, while the last one is what is checked."""
    written = msgspec.json.encode(decode_json(source, dict[str, msgspec.Raw]))
    without_spaces = [len(content) - sum(map(content.count, b" \t\n\r")) for content in (source, written)]
    if without_spaces[0] != without_spaces[1]:
        raise ValueError("two of its sections have the same name")


def _check_growth(file: _File) -> tuple[float, float]:
    """The most characters that all components together make of one, and those that they put around a text."""
    growth, added = 1.0, 0.0
    for kind in GROWTH:
        for number, component in enumerate(_components(getattr(file, kind), kind), 1):
            own_growth, own_added = _growth(component, kind)
            growth, added = growth * own_growth, added * own_growth + own_added
            if growth + added > GROWTH_LIMIT:
                what = f"the {component['type']:.40} that is number {number} in its {kind}"
                _refuse(f"makes up to {growth + added:,.0f} characters of one, with {what}", f"{GROWTH_LIMIT:,}")
    return growth, added


def _growth(component: dict[str, Any], kind: str) -> tuple[float, int]:
    """The most characters that a component of that kind makes of one, and those that it puts around a text."""
    match component:
        case {"type": "Prepend", "prepend": str(prefix)}:
            return 1.0, _length(prefix)
        case {"type": "Replace", "pattern": {"String": str(pattern)}, "content": str(content)} if pattern:
            return max(1.0, _length(content) / _length(pattern)), 0
        case {"type": "Replace", "content": str(content)}:
            # A regular expression may match no character, before every one and at the end.
            return 1.0 + _length(content), _length(content)
        case {"type": "Precompiled", "precompiled_charsmap": str(charsmap)}:
            return max(1.0, _longest_mapped(charsmap)), 0
    return GROWTH[kind].get(component["type"], 1), 0


def _longest_mapped(charsmap: str) -> int:
    """Characters of the longest replacement in sentencepiece's character map: a trie after its size, then texts that a NUL ends.

    The library decodes the map without the padding of Base64, too.
    """
    try:
        content = base64.b64decode(charsmap + "=" * (-len(charsmap) % 4), validate=True)
    except ValueError as error:
        raise ArtifactError(
            f"tokenizer.json cannot be read: the precompiled_charsmap of its normalizer is not Base64 ({error}); "
            "expected it whole: use the file that the model was trained with"
        ) from error
    texts = content[4 + int.from_bytes(content[:4], "little") :]
    return max(_length(text.decode(errors="replace")) for text in texts.split(b"\0"))


def _components(component: Any, kind: str) -> list[dict[str, Any]]:
    """The components of a sequence, in order, or the component itself; none if it is null."""
    components = [] if component is None else list(_flat(component, kind))
    if len(components) > COMPONENT_LIMIT:
        _refuse(f"has {len(components):,} components in its {kind}", f"{COMPONENT_LIMIT}")
    for each in components:
        for name in ("single", "pair"):
            if isinstance(each.get(name), list) and len(each[name]) > COMPONENT_LIMIT:
                _refuse(f"has {len(each[name]):,} parts in the template of a {name} in its {kind}", f"{COMPONENT_LIMIT}")
        for text in _texts({name: value for name, value in each.items() if name != "precompiled_charsmap"}):
            if len(text) > TEXT_LIMIT:
                _refuse(f"has a text of {len(text):,} characters in the {each['type']:.40} of its {kind}", f"{TEXT_LIMIT:,}")
    return components


def _flat(component: Any, kind: str) -> Iterator[dict[str, Any]]:
    if not isinstance(component, dict) or not isinstance(component.get("type"), str):
        raise ArtifactError(
            f"tokenizer.json cannot be read: its {kind} has a component without a type; expected one: use the file that the model "
            "was trained with"
        )
    if component["type"] != "Sequence":
        yield component
    for value in component.values() if component["type"] == "Sequence" else ():
        for inner in value if isinstance(value, list) else ():
            yield from _flat(inner, kind)


def _texts(value: Any) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _texts(inner)


def _check_added_tokens(tokens: Any, growth: float, added: float) -> None:
    lengths = [_length(token.get("content")) for token in tokens if isinstance(token, dict)] if isinstance(tokens, list) else []
    if (longest := max(lengths, default=0)) > TEXT_LIMIT:
        _refuse(f"has an added token of {longest:,} characters", f"{TEXT_LIMIT:,}")
    if (total := int(sum(lengths) * growth + len(lengths) * added)) > ADDED_TOKENS_LIMIT:
        _refuse(f"makes up to {total:,} characters of its added tokens", f"{ADDED_TOKENS_LIMIT:,}")


def _check_model(model: _Model, pieces: list[tuple[str, Any]]) -> None:
    if (longest := max((len(piece) for piece, _ in pieces), default=0)) > PIECE_LIMIT:
        _refuse(f"has a piece of {longest:,} characters in its model", f"{PIECE_LIMIT:,}")
    if (total := sum(len(piece.encode()) for piece, _ in pieces)) > PIECES_LIMIT:
        _refuse(f"has {total:,} bytes of pieces in its model", f"{PIECES_LIMIT:,}")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if (length := _length(getattr(model, name))) > PIECE_LIMIT:
            _refuse(f"has a {name} of {length:,} characters in its model", f"{PIECE_LIMIT:,}")
    word = model.max_input_chars_per_word
    if isinstance(word, int) and word > WORD_LIMIT:
        _refuse(f"has max_input_chars_per_word {word!s:.40} in its model", f"{WORD_LIMIT:,}")


def _length(text: Any) -> int:
    """Characters of a text when it is decomposed; 0 for anything else."""
    return len(unicodedata.normalize("NFKD", text)) if isinstance(text, str) else 0


def _refuse(problem: str, limit: str) -> NoReturn:
    raise ArtifactError(f"tokenizer.json {problem}; expected at most {limit}: use the file that the model was trained with")
