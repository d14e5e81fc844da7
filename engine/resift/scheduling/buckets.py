"""Buckets: which rows may share a batch. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from resift.settings import LARGEST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from resift.artifact.signature import Frozen
    from resift.encoding.encodings import Encodings


class Bucket(NamedTuple):
    """The rows of one width that, in a frozen graph, have as many updated tokens."""

    width: int
    """tokens of each row, with the padding that a masked graph allows; in a query half, as many of the query as cost the same"""
    updated: int
    """tokens at the beginning of each row that all layers update; the width where the graph is not frozen"""
    states: int = 0
    """in a query half, tokens whose states are read of each document, with their padding"""


class Buckets:
    """The buckets of rows, by the graph that scores them. A graph is frozen, masked, or neither."""

    def __init__(
        self,
        frozen: Mapping[str, Frozen] | None = None,
        *,
        is_masked: Callable[[str], bool] = lambda graph: False,  # noqa: ARG005
        step: int = 1,
        fill: float = 1.0,
        max_length: int = LARGEST["max_length"],
    ) -> None:
        """`frozen`: how the frozen graphs read, by their names. `is_masked`: whether a graph reads padded rows, by its name.

        Of masked graphs alone: a width is a length rounded up to a multiple of `step`, but at most `max_length`, and rows that
        fill at least the share `fill` of a batch's width may be in it.
        """
        self._frozen, self._is_masked = frozen or {}, is_masked
        self._step, self._fill, self._max_length = step, fill, max_length

    def of(self, graph: str, encodings: Encodings, rows: NDArray[np.int64]) -> list[Bucket]:
        """The bucket of each of the `rows`, int64[n], in their order."""
        widths = encodings.lengths[rows]
        if self._is_masked(graph):
            widths = np.minimum(-(-widths // self._step) * self._step, self._max_length)
        frozen = self._frozen.get(graph)
        updated = widths if frozen is None else frozen.updated_tokens(encodings.query_tokens[rows], widths)
        return [Bucket(*bucket) for bucket in zip(widths.tolist(), updated.tolist(), strict=True)]

    def narrowest(self, graph: str, width: int) -> int:
        """Tokens of the narrowest bucket whose rows may be in the graph's batch of that width."""
        return math.ceil(self._fill * width) if self._is_masked(graph) else width
