"""Extent: how much of a text is encoded, and the tokens that are kept of it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

SHORT_TEXT_CHARACTERS = 100_000
"""All tokens of a text of up to this many characters are counted."""
LONG_TEXT_LIMITS = (200_000, 400_000)
"""Characters that are encoded of a longer text that cannot be cut at a seam; the second if the first gives too few tokens."""
CHARACTERS_PER_WINDOW_TOKEN = 16
"""With several windows, so many more characters may be encoded for each token of a document beyond its first window."""


class Extent(NamedTuple):
    """How much of a text is read."""

    room: int
    """its tokens in one row"""
    tokens: int
    """its tokens in all its rows"""
    is_limited: bool = False
    """whether the caller limited the number of tokens"""

    @property
    def characters(self) -> int:
        """The maximum number of its characters that are encoded."""
        return LONG_TEXT_LIMITS[-1] + CHARACTERS_PER_WINDOW_TOKEN * max(0, self.tokens - self.room)

    def limits(self) -> Iterator[int]:
        """How many characters of a long text to encode: first, then if those give too few tokens, and so on."""
        yield from (SHORT_TEXT_CHARACTERS, *LONG_TEXT_LIMITS)
        limit = LONG_TEXT_LIMITS[-1]
        while limit < self.characters:
            limit = min(2 * limit, self.characters)
            yield limit


class EncodedText(NamedTuple):
    """The tokens of a text, after its end was cut."""

    ids: list[int]
    tokens_cut: int
    at_least: bool
    """whether `tokens_cut` is a lower bound"""

    @property
    def tokens(self) -> int:
        """Tokens before it was cut; a lower bound for a text whose tokens were not all counted."""
        return len(self.ids) + self.tokens_cut

    def first(self, count: int) -> EncodedText:
        """Its first `count` tokens."""
        return EncodedText(self.ids[:count], self.tokens_cut + max(0, len(self.ids) - count), self.at_least)
