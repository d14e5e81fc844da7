"""Tells whether a model's tokenizer knows the language of some texts.

The measure is the number of UTF-8 bytes of letters that a token covers. A tokenizer learned on a language has tokens for its words;
words of another language fall into short pieces, or are unknown to it. Bytes work for every script: Chinese has no spaces by which
to count words, and one of its characters, of three bytes, says about as much as three or four letters of English. Digits,
punctuation, symbols and emoji are left out, as they are short tokens in any language.

Under an uncased English WordPiece, a token covers 4.2 to 4.6 bytes of the letters of English corpora, and 2.1 (Polish) to 2.9
(Vietnamese) of those in other languages; of Chinese, most characters are unknown to it. Byte-level and Unigram tokenizers learned
on English separate them nearly as well.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from resift.encoding.tokenizer import PairTokenizer

SAMPLED_TEXTS = 2_000
"""Maximum number of texts examined, evenly spaced: enough to estimate a share to within 0.02."""
SAMPLED_CHARACTERS = 1_000
"""Number of characters examined at the beginning of each text."""
MIN_BYTES = 40
"""Minimum bytes of letters for a text to be examined, some eight words: the figure of a shorter text is chance."""
FOREIGN_RATIO = 0.74
"""A text is foreign if its tokens cover less than this share of the reference. 99 % of English texts, be they scientific, medical,
encyclopedic or from the web, are above; German ones lie between 0.5 and 0.72, French ones, the nearest, between 0.6 and 0.74."""
FOREIGN_UNKNOWN = 0.05
"""A text is also foreign if more than this share of its tokens are unknown: in English corpora 0.001 of all tokens are unknown, in
Chinese ones 0.7."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """How a tokenizer splits n texts."""

    letters: NDArray[np.int64]
    """int64[n]: UTF-8 bytes of each text's letters"""
    tokens: NDArray[np.int64]
    """int64[n]: number of tokens of these letters"""
    unknown: NDArray[np.float64]
    """float64[n]: share of these tokens that are the unknown token"""

    def bytes_per_token(self) -> float:
        """Mean number of bytes that a token covers; NaN without tokens."""
        tokens = int(self.tokens.sum())
        return float(self.letters.sum()) / tokens if tokens else float("nan")

    def select(self, mask: NDArray[np.bool_]) -> Pieces:
        """The texts that `mask`, bool[n], selects."""
        return Pieces(self.letters[mask], self.tokens[mask], self.unknown[mask])

    def foreign_mask(self, reference: float) -> NDArray[np.bool_]:
        """bool[n]: whether each text seems to be in another language than texts with `reference` bytes per token."""
        return (self.letters < FOREIGN_RATIO * reference * self.tokens) | (self.unknown > FOREIGN_UNKNOWN)


def measure(tokenizer: PairTokenizer, texts: Sequence[str]) -> Pieces:
    """The figures of a sample of `texts`, without texts that have fewer than MIN_BYTES bytes of letters.

    Raises ArtifactError if the tokenizer fails on a text.
    """
    step = -(-len(texts) // SAMPLED_TEXTS) or 1
    words = [letters_of(text[:SAMPLED_CHARACTERS]) for text in texts[::step]]
    sizes = [len("".join(text.split()).encode("utf-8", "replace")) for text in words]
    sampled = [(text, size) for text, size in zip(words, sizes, strict=True) if size >= MIN_BYTES]
    # The first row holds the special tokens and the prompt only.
    encoded = tokenizer.encode("", ["", *(text for text, _ in sampled)])
    tokens = np.diff(encoded.token_offsets)
    tokens = (tokens - tokens[0])[1:]
    marks = encoded.ids == (-1 if tokenizer.unknown is None else tokenizer.unknown)
    unknown = np.diff(np.concatenate([[0], np.cumsum(marks)])[encoded.token_offsets])
    unknown = (unknown - unknown[0])[1:]
    return Pieces(
        letters=np.array([size for _, size in sampled], np.int64),
        tokens=tokens + encoded.tokens_cut[1:],
        unknown=unknown / np.maximum(tokens, 1),
    )


def letters_of(text: str) -> str:
    """The text with a space for every character other than letters and combining marks; empty if it has no letters."""
    kinds = {character: unicodedata.category(character)[0] for character in set(text)}
    if "L" not in kinds.values():
        return ""
    return text.translate({ord(character): " " for character, kind in kinds.items() if kind not in "LM"})
