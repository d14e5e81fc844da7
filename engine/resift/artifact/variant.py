"""Variant: the files of a graph at one precision for some instruction sets."""

from __future__ import annotations

from typing import Annotated, Self

import msgspec

from resift.artifact.fields import FileName, GraphFile, Positive, Strict
from resift.settings import Precision

Weights = FileName | Annotated[list[FileName], msgspec.Meta(min_length=2, max_length=2)] | None
"""The file, or the two files, that hold weights which a graph shares with others; None: it shares none."""


class ShortGraph(Strict, frozen=True, omit_defaults=True):
    """A variant's second graph, closer to the checkpoint, which scores short pairs in place of the first."""

    file: GraphFile
    up_to: Positive
    """tokens of the longest pair that it scores"""
    weights: Weights = None
    """the file that holds weights shared with the variant's first graph"""


class DocumentGraph(Strict, frozen=True, omit_defaults=True):
    """The document half of a variant of a split graph; the variant's own file is the query half."""

    file: GraphFile
    weights: Weights = None
    """files that hold weights shared with the query half or with another graph"""


class Variant(Strict, frozen=True, omit_defaults=True):
    """A graph at one precision for some instruction sets."""

    file: GraphFile
    """variants may share a file, to name alternatives such as avx512_vnni or avx_vnni"""
    precision: Precision
    instruction_sets: list[str]
    """the machine must have all of them; empty: it runs everywhere"""
    weights: Weights = None
    """files that hold weights shared with other graphs, such as the table of embeddings: those graphs', or their weights' files"""
    short: ShortGraph | None = None
    """the graph for short pairs; None: one graph scores pairs of any length"""
    is_masked: bool = False
    """whether its graph also reads attention_mask, int64[b, width], so that rows of several lengths share a batch, padded"""
    document: DocumentGraph | None = None
    """the document half; exactly in the variants of a split graph"""

    def of_width(self, width: int) -> Self:
        """The variant, with only that of its graphs which scores pairs of `width` tokens: of a split graph, the query half."""
        graph = None if self.short is None or width > self.short.up_to else self.short
        return self._single(graph)

    def document_half(self) -> Self:
        """The variant of a split graph, with only its document half."""
        assert self.document is not None
        return self._single(self.document)

    def graphs(self) -> list[Self]:
        """The variant once for each of its graphs, with only that one."""
        further = [graph for graph in (self.short, self.document) if graph is not None]
        return [self._single(None), *map(self._single, further)]

    def weight_files(self) -> list[str]:
        """The names of the files that hold shared weights."""
        return [self.weights] if isinstance(self.weights, str) else list(self.weights or [])

    def _single(self, graph: ShortGraph | DocumentGraph | None) -> Self:
        """The variant with only that graph; None: its first."""
        file, weights = (self.file, self.weights) if graph is None else (graph.file, graph.weights)
        return msgspec.structs.replace(self, file=file, weights=weights, short=None, document=None)
