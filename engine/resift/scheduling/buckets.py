"""Buckets: which rows may share a batch. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from resift.artifact.manifest import Frozen
    from resift.encoding.encodings import Encodings


class Bucket(NamedTuple):
    """The rows of one width that, in a frozen graph, have as many updated tokens."""

    width: int
    """tokens of each row"""
    updated: int
    """tokens at the beginning of each row that all layers update; the width where the graph is not frozen"""


class Buckets:
    """The buckets of rows, by the graph that scores them."""

    def __init__(
        self,
        widths: Callable[[NDArray[np.int32]], NDArray[np.int32]] = lambda lengths: lengths,
        frozen: Mapping[str, Frozen] | None = None,
    ) -> None:
        """`widths`: those that rows run at, from their lengths. `frozen`: how the frozen graphs read, by their names."""
        self._widths = widths
        self._frozen = frozen or {}

    def of(self, graph: str, encodings: Encodings, rows: NDArray[np.int64]) -> list[Bucket]:
        """The bucket of each of the `rows`, int64[n], in their order."""
        widths = self._widths(encodings.lengths[rows])
        frozen = self._frozen.get(graph)
        updated = widths if frozen is None else frozen.updated_tokens(encodings.query_tokens[rows], widths)
        return [Bucket(*bucket) for bucket in zip(widths.tolist(), updated.tolist(), strict=True)]
