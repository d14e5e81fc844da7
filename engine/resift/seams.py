"""Seams: places where a text can be cut without changing the tokens before them. Pure.

A seam lies between two letters or digits and a single space, as in "tides| rise". Text before it has the same tokens
whatever follows if (1) the normalizer maps both sides on their own, (2) no added token spans the space, and (3) the
pre-tokenizer splits there: models see one split at a time. `seam_spaces` decides this from tokenizer.json, for the
components whose source (https://github.com/huggingface/tokenizers) shows it, and for no others.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NORMALIZERS = frozenset(
    ["BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Prepend", "Strip", "StripAccents"]
)
"""Those that map each character, or each run that ends before a space, on its own, or touch the ends of a text only."""

WORDS = frozenset(
    [
        # GPT-2, Llama 3 and Qwen 2: each match ends before a space that follows a character other than a space.
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ]
)
SEARCHED = 10_000
"""Characters before the limit in which a seam is looked for."""


def seam_spaces(normalizer: dict[str, Any] | None, pre_tokenizer: dict[str, Any] | None, added_tokens: Iterable[str]) -> str:
    """The characters that make a seam between two words, "" if none can be proved to.

    `normalizer` and `pre_tokenizer` as in tokenizer.json; `added_tokens` are their contents, raw and normalized.
    """
    spanning = any(re.search(r"\s", content) and re.search(r"\S", content) for content in added_tokens)
    if spanning or not all(map(_maps_sides_alone, _components(normalizer, "normalizers"))):
        return ""
    for component in _components(pre_tokenizer, "pretokenizers"):
        if component["type"] not in ("Digits", "Punctuation"):  # these split elsewhere and leave spaces alone
            return _splits_at(component)
    return ""


def last_seam(text: str, limit: int, spaces: str, normalize: Callable[[str], str]) -> int | None:
    """The last place up to `limit` at which `text` can be cut, None if there is none among the last SEARCHED characters.

    `spaces` is what `seam_spaces` returned. `normalize` must leave one of them between the two words.
    """
    if not spaces:
        return None
    start = max(0, limit - SEARCHED)
    found = re.finditer(rf"[^\W_]{{2}}[{spaces}](?=[^\W_]{{2}})", text[start : limit + 3])
    for match in reversed(list(found)):
        place = start + match.start() + 2
        if re.fullmatch(rf"\S+[{spaces}]\S+", normalize(text[place - 2 : place + 3])):
            return place
    return None


def _components(component: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    if component is None:
        return []
    if component["type"] != "Sequence":
        return [component]
    return [inner for item in component[name] for inner in _components(item, name)]


def _maps_sides_alone(normalizer: dict[str, Any]) -> bool:
    if normalizer["type"] != "Replace":
        return normalizer["type"] in NORMALIZERS
    pattern = normalizer["pattern"]
    # Text without words and spaces is never part of a seam, nor are several spaces.
    return not re.search(r"\w|\s", pattern["String"]) if "String" in pattern else pattern["Regex"] == " {2,}"


def _splits_at(pre_tokenizer: dict[str, Any]) -> str:
    """Which of space and line feed a pre-tokenizer ends a split before. What follows it works within the splits."""
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
