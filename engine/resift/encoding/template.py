"""PairTemplate: how a tokenizer joins a query and a document. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from resift.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class PairTemplate:
    """The special tokens of a pair, int32[2, k] each (token ids, segment ids), and the segment ids of its texts."""

    prefix: NDArray[np.int32]
    """before the query"""
    separator: NDArray[np.int32]
    """between query and document"""
    suffix: NDArray[np.int32]
    """after the document"""
    query_segment: int
    document_segment: int

    @classmethod
    def read(cls, ids: Sequence[int], segment_ids: Sequence[int], owners: Sequence[int | None]) -> PairTemplate:
        """The template of one encoded pair, from each token's id, segment id and owner.

        An owner is the text that the token comes from: 0, 1, or None for a special token. Raises ArtifactError unless the query's
        tokens come first, then the document's, with special tokens around them.
        """
        columns = np.array([ids, segment_ids], np.int32).reshape(2, -1)
        query, document = ([position for position, owner in enumerate(owners) if owner == text] for text in (0, 1))
        is_contiguous = query + document == [*range(*_span(query)), *range(*_span(document))]
        segments = [set(columns[1, positions].tolist()) for positions in (query, document)]
        if not (is_contiguous and query and document and query[-1] < document[0] and all(len(ids) == 1 for ids in segments)):
            layout = "".join("$A" if owner == 0 else "$B" if owner == 1 else "." for owner in owners[:40])
            raise ArtifactError(
                f"tokenizer.json joins a pair as {layout} (a dot is a special token); "
                "expected the query once and then the document once: export the artifact again"
            )
        return cls(
            prefix=columns[:, : query[0]],
            separator=columns[:, query[-1] + 1 : document[0]],
            suffix=columns[:, document[-1] + 1 :],
            query_segment=segment_ids[query[0]],
            document_segment=segment_ids[document[0]],
        )

    @property
    def special(self) -> NDArray[np.int32]:
        """int32[2, k]: the pair of two empty texts."""
        return np.concatenate([self.prefix, self.separator, self.suffix], axis=1)

    @property
    def query_overhead(self) -> int:
        """The special tokens before the document."""
        return len(self.prefix[0]) + len(self.separator[0])

    def join(self, query: Sequence[int], documents: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Token ids and segment ids, int32[t] each, of the pairs of `query` with each document, concatenated."""
        head = np.concatenate([self.prefix, _text(query, self.query_segment), self.separator], axis=1)
        pieces = [piece for document in documents for piece in (head, _text(document, self.document_segment), self.suffix)]
        joined = np.concatenate([head[:, :0], *pieces], axis=1)
        return joined[0], joined[1]


def _text(ids: Sequence[int], segment: int) -> NDArray[np.int32]:
    columns = np.full((2, len(ids)), segment, np.int32)
    columns[0] = ids
    return columns


def _span(positions: Sequence[int]) -> tuple[int, int]:
    return (positions[0], positions[-1] + 1) if positions else (0, 0)
