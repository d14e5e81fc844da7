"""Language: whether a model's tokenizer knows the language of some texts.

The measure is UTF-8 bytes of letters a token covers. A tokenizer learned on a language has tokens for its words; words of another
one fall into short pieces, or are unknown to it. Bytes serve every script: Chinese has no spaces to count words by, and says in one
character of three bytes about what English says in three or four letters. Digits, punctuation, symbols and emoji are left out, as
they are short tokens in any language.

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
"""Most texts examined, evenly spaced: enough for a share to within 0.02."""
SAMPLED_CHARACTERS = 1_000
"""Characters examined of each text, from its beginning."""
LEAST_BYTES = 40
"""Fewest bytes of letters by which a text is judged, some eight words: the figure of a shorter one is chance."""
FOREIGN_RATIO = 0.74
"""A text is foreign if its tokens cover less than this share of the reference. 99 % of English texts, be they scientific, medical,
encyclopedic or from the web, are above; German ones lie between 0.5 and 0.72, French ones, the nearest, between 0.6 and 0.74."""
FOREIGN_UNKNOWN = 0.05
"""A text is also foreign if more of its tokens are unknown: in English corpora 0.001 of all tokens are, in Chinese ones 0.7."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """How a tokenizer splits n texts."""

    letters: NDArray[np.int64]
    """int64[n]: UTF-8 bytes of each text's letters"""
    tokens: NDArray[np.int64]
    """int64[n]: tokens these letters give"""
    unknown: NDArray[np.float64]
    """float64[n]: share of these tokens that are the unknown token"""

    def bytes_per_token(self) -> float:
        """Mean bytes a token covers; NaN without tokens."""
        tokens = int(self.tokens.sum())
        return float(self.letters.sum()) / tokens if tokens else float("nan")

    def at(self, places: NDArray[np.bool_]) -> Pieces:
        """The texts at `places`, bool[n]."""
        return Pieces(self.letters[places], self.tokens[places], self.unknown[places])

    def foreign(self, reference: float) -> NDArray[np.bool_]:
        """bool[n]: whether each text looks like another language than that of texts with `reference` bytes a token."""
        return (self.letters < FOREIGN_RATIO * reference * self.tokens) | (self.unknown > FOREIGN_UNKNOWN)


def measure(tokenizer: PairTokenizer, texts: Sequence[str]) -> Pieces:
    """The figures of a sample of `texts`, without those that have fewer than LEAST_BYTES of letters.

    Raises ArtifactError if the tokenizer fails on a text.
    """
    step = -(-len(texts) // SAMPLED_TEXTS) or 1
    words = [letters_of(text[:SAMPLED_CHARACTERS]) for text in texts[::step]]
    sizes = [len("".join(text.split()).encode("utf-8", "replace")) for text in words]
    judged = [(text, size) for text, size in zip(words, sizes, strict=True) if size >= LEAST_BYTES]
    encoded = tokenizer.encode("", ["", *(text for text, _ in judged)])  # the first row: special tokens and the prompt alone
    kept = np.diff(encoded.token_offsets)
    kept = (kept - kept[0])[1:]
    marks = encoded.ids == (-1 if tokenizer.unknown is None else tokenizer.unknown)
    unknown = np.diff(np.concatenate([[0], np.cumsum(marks)])[encoded.token_offsets])
    unknown = (unknown - unknown[0])[1:]
    return Pieces(
        letters=np.array([size for _, size in judged], np.int64),
        tokens=kept + encoded.tokens_cut[1:],
        unknown=unknown / np.maximum(kept, 1),
    )


def letters_of(text: str) -> str:
    """The text with everything but letters and their combining marks as spaces; empty if it has no letters."""
    kinds = {character: unicodedata.category(character)[0] for character in set(text)}
    if "L" not in kinds.values():
        return ""
    return text.translate({ord(character): " " for character, kind in kinds.items() if kind not in "LM"})
