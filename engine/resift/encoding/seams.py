"""Seams: positions at which a text can be cut without changing the tokens before them. Pure.

A seam lies before a single space between two words, as in "tides| rise". The tokens before it do not depend on the text after it
if (1) the normalizer maps each side independently, (2) no added token spans the space, and (3) the pre-tokenizer splits there, as
models see one split at a time. `seam_spaces` decides this from tokenizer.json, and only for components whose source
(https://github.com/huggingface/tokenizers) proves it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NORMALIZERS = frozenset(
    ["BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Prepend", "Strip", "StripAccents"]
)
"""Normalizers that map each character, or each run that ends before a space, independently, or change only the ends of a text."""

WORDS = frozenset(
    [
        # GPT-2, Llama 3 and Qwen 2: each match ends before a space that follows a non-space character.
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ]
)
SEARCH_CHARACTERS = 10_000
"""Number of characters before the limit that are searched for a seam."""


def seam_spaces(normalizer: dict[str, Any] | None, pre_tokenizer: dict[str, Any] | None, added_tokens: Iterable[str]) -> str:
    """The space characters that form a seam between two words; "" if none provably does.

    `normalizer` and `pre_tokenizer` are as in tokenizer.json; `added_tokens` are the tokens' contents, raw and normalized.
    """
    spans_words = any(re.search(r"\s", content) and re.search(r"\S", content) for content in added_tokens)
    if spans_words or not all(map(_maps_sides_independently, _components(normalizer, "normalizers"))):
        return ""
    for component in _components(pre_tokenizer, "pretokenizers"):
        if component["type"] not in ("Digits", "Punctuation"):  # these split elsewhere and leave spaces alone
            return _splits_at(component)
    return ""


def last_seam(text: str, limit: int, spaces: str, normalize: Callable[[str], str]) -> int | None:
    """The last position up to `limit` at which `text` can be cut; None if the last SEARCH_CHARACTERS characters have none.

    `spaces` is the result of `seam_spaces`. A seam counts only if the text that `normalize` returns has one of these spaces between
    the two words.
    """
    if not spaces:
        return None
    start = max(0, limit - SEARCH_CHARACTERS)
    candidates = re.finditer(rf"[^\W_]{{2}}[{spaces}](?=[^\W_]{{2}})", text[start : limit + 3])
    for match in reversed(list(candidates)):
        position = start + match.start() + 2
        if re.fullmatch(rf"\S+[{spaces}]\S+", normalize(text[position - 2 : position + 3])):
            return position
    return None


def _components(component: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    if component is None:
        return []
    if component["type"] != "Sequence":
        return [component]
    return [inner for item in component[name] for inner in _components(item, name)]


def _maps_sides_independently(normalizer: dict[str, Any]) -> bool:
    if normalizer["type"] != "Replace":
        return normalizer["type"] in NORMALIZERS
    pattern = normalizer["pattern"]
    # A seam has letters or digits around one space: text without either, or several spaces, is never part of it.
    return not re.search(r"\w|\s", pattern["String"]) if "String" in pattern else pattern["Regex"] == " {2,}"


def _splits_at(pre_tokenizer: dict[str, Any]) -> str:
    """Which of space and line feed a pre-tokenizer splits before. Later pre-tokenizers work within its splits."""
    match pre_tokenizer:
        case {"type": "BertPreTokenizer" | "Whitespace" | "WhitespaceSplit"} | {"type": "ByteLevel", "use_regex": True}:
            return " \n"
        case {"type": "Metaspace", "split": True} | {"type": "CharDelimiterSplit", "delimiter": " "}:
            return " "
        case {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed" | "Isolated" | "MergedWithNext", "invert": False}:
            return " "
        case {"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": False} if words in WORDS:
            return " "
        case {"type": "Split", "pattern": {"Regex": words}, "behavior": "Removed", "invert": True} if words in WORDS:
            return " "
    return ""
