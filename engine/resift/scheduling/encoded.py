"""Encoded: a call's pairs between tokenization and the queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from resift.encoding.encodings import Encodings

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from resift.artifact.steps import Step, Terms
    from resift.encoding.tokenizer import PairTokenizer
    from resift.inputs import Pair


@dataclass(frozen=True, slots=True)
class Encoded:
    """The n pairs of a call, ready to be queued; equal pairs are encoded once."""

    rows: Encodings | None
    """the d distinct pairs; None if there are no pairs"""
    places: NDArray[np.int64]
    """int64[n]: the caller's pair i is pair places[i] of those"""
    steps: tuple[Step, ...]
    """what reads them"""
    deadline: float | None = None
    """time, by time.monotonic, at which the call ends; None: once everything was read"""

    @classmethod
    def encode(  # noqa: PLR0913 - what to encode, and how much of it
        cls,
        tokenizer: PairTokenizer,
        pairs: list[Pair],
        terms: Terms,
        cancelled: Callable[[], bool],
        *,
        document_tokens: int | None = None,
        windows: int = 1,
    ) -> Self | None:
        """Encodes the distinct pairs, and their documents' first `document_tokens` (None: what the model takes).

        `windows`: most windows in which a document is read that is too long.
        None if `cancelled`, which is asked between two parts. Raises ArtifactError if the tokenizer fails on a text.
        """
        numbers: dict[Pair, int] = {}
        parts = []
        for query, documents in _by_query(pairs).items():
            numbers.update({(query, document): len(numbers) + place for place, document in enumerate(documents)})
            for part in tokenizer.parts(query, documents, document_tokens=document_tokens, windows=windows):
                if cancelled():
                    return None
                parts.append(part)
        encodings = Encodings.join(parts) if parts else None
        places = np.array([numbers[pair] for pair in pairs], np.int64)
        return cls(encodings, places, terms.plan.steps(len(numbers)), terms.deadline)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """int32[n]: tokens of each pair, special tokens included; those that two windows of a document share count once."""
        return np.empty(0, np.int32) if self.rows is None else self.rows.pair_lengths[self.places]

    @property
    def tokens(self) -> int:
        """Tokens of all n pairs in all their windows."""
        return 0 if self.rows is None else int(np.add.reduceat(self.rows.lengths, self.rows.firsts[:-1])[self.places].sum())

    @property
    def tokens_cut(self) -> NDArray[np.int32]:
        """int32[n]: tokens cut from the end of each document."""
        return np.empty(0, np.int32) if self.rows is None else self.rows.tokens_cut[self.places]

    @property
    def query_tokens_cut(self) -> int:
        """Tokens cut from the end of the query (of several queries, the largest count)."""
        return 0 if self.rows is None else self.rows.query_tokens_cut


def _by_query(pairs: list[Pair]) -> dict[str, list[str]]:
    """The distinct documents of each query, in order."""
    grouped: dict[str, dict[str, None]] = {}
    for query, document in pairs:
        grouped.setdefault(query, {})[document] = None
    return {query: list(documents) for query, documents in grouped.items()}
