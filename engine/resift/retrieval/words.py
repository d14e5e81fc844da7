"""Words: the parts of a text by which texts are retrieved and compared, also in scripts that are written without spaces."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Blocks of scripts without spaces between words: Thai, Lao, Burmese, Khmer, kana, and Han in all its planes."""
MARKS = "".join(
    chr(code) for code in range(0x300, 0x20000) if unicodedata.category(chr(code)) in ("Mn", "Mc") and not 0xFE00 <= code <= 0xFE0F
)
"""Marks of a letter, such as the vowels of Hindi, Tamil and Hebrew, which `\\w` does not match; variation selectors are none."""
LETTERS = rf"[^\W{UNSPACED}]+(?:[{MARKS}]+[^\W{UNSPACED}]*)*"
WORD = rf"[{UNSPACED}]|{LETTERS}"
LONG_WORD = rf"(?u)[{UNSPACED}]|(?=[^\W{UNSPACED}][{MARKS}]*[^\W{UNSPACED}]){LETTERS}"
"""WORD without single letters and digits, which say little to BM25."""
NAME = rf"(?:{WORD})[+#]*"
"""WORD with the signs by which names differ, as in C, C++ and C#."""
STOP_WORDS = frozenset(
    {"a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "of", "on", "or", "such"}
    | {"that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will", "with"}
    | {"do", "does", "did", "has", "have", "had", "what", "which", "who", "whom"}
)
"""Lucene's English stop words except for no and not, and the words of questions that do not say what is requested."""


def words(text: str) -> list[str]:
    """The words of a text in order, without case, punctuation and compatibility variants; a character each where no spaces are."""
    return re.findall(WORD, _normalized(text))


def key_of(text: str) -> str:
    """What texts have in common that differ only in case, punctuation and white space; of a text without words, the text itself."""
    return " ".join(re.findall(NAME, _normalized(text))) or " ".join(text.split())


def _normalized(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def singular(found: Iterable[str]) -> list[str]:
    """The words with English plurals as singulars, by the three rules of Harman's S stemmer (JASIS 42(1), 1991, p. 9)."""
    return [_singular(word) for word in found]


def _singular(word: str) -> str:
    if len(word) < 4 or not word.endswith("s"):
        return word
    if word.endswith("ies"):
        return word if word.endswith(("eies", "aies")) else word[:-3] + "y"
    if word.endswith("es"):
        return word if word.endswith(("aes", "ees", "oes")) else word[:-1]
    return word if word.endswith(("us", "ss")) else word[:-1]
