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

    before: NDArray[np.int32]
    between: NDArray[np.int32]
    after: NDArray[np.int32]
    query_segment: int
    document_segment: int

    @classmethod
    def read(cls, ids: Sequence[int], segment_ids: Sequence[int], owners: Sequence[int | None]) -> PairTemplate:
        """Derived from one encoded pair: each token's id, segment id and text (0, 1, or None for a special token).

        Raises ArtifactError unless the query's tokens come first, then the document's, with special tokens around them.
        """
        columns = np.array([ids, segment_ids], np.int32).reshape(2, -1)
        query, document = ([place for place, owner in enumerate(owners) if owner == text] for text in (0, 1))
        whole = query + document == [*range(*_span(query)), *range(*_span(document))]
        segments = [set(columns[1, places].tolist()) for places in (query, document)]
        if not (whole and query and document and query[-1] < document[0] and all(len(found) == 1 for found in segments)):
            found = "".join("$A" if owner == 0 else "$B" if owner == 1 else "." for owner in owners[:40])
            raise ArtifactError(
                f"tokenizer.json joins a pair as {found} (a dot is a special token); "
                "expected the query once and then the document once: export the artifact again"
            )
        return cls(
            before=columns[:, : query[0]],
            between=columns[:, query[-1] + 1 : document[0]],
            after=columns[:, document[-1] + 1 :],
            query_segment=segment_ids[query[0]],
            document_segment=segment_ids[document[0]],
        )

    @property
    def special(self) -> NDArray[np.int32]:
        """int32[2, k]: the pair of two empty texts."""
        return np.concatenate([self.before, self.between, self.after], axis=1)

    def join(self, query: Sequence[int], documents: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Token ids and segment ids, int32[t] each, of the pairs of `query` with each document, concatenated."""
        head = np.concatenate([self.before, _text(query, self.query_segment), self.between], axis=1)
        pieces = [piece for document in documents for piece in (head, _text(document, self.document_segment), self.after)]
        joined = np.concatenate([head[:, :0], *pieces], axis=1)
        return joined[0], joined[1]


def _text(ids: Sequence[int], segment: int) -> NDArray[np.int32]:
    columns = np.full((2, len(ids)), segment, np.int32)
    columns[0] = ids
    return columns


def _span(places: Sequence[int]) -> tuple[int, int]:
    return (places[0], places[-1] + 1) if places else (0, 0)
