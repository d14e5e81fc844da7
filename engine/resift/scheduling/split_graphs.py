"""SplitGraphs: the split graphs of an artifact as a process runs them, with the states of their documents."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from resift.artifact.resolved_plans import Step
from resift.errors import InputError, ProviderError
from resift.files.names import path_text
from resift.scheduling.call import Call
from resift.scheduling.halves import Documents, Phase, Reading, queue_name
from resift.states.document_states import DocumentStates

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from resift.artifact.manifest import Graph
    from resift.artifact.signature import Split
    from resift.encoding.encodings import Encodings
    from resift.runtime.sessions import Sessions
    from resift.settings import ResolvedSettings

log = logging.getLogger(__name__)


class SplitGraphs:
    """How the split graphs read here, and what is known of the documents that they read."""

    def __init__(self, graphs: Iterable[Graph], sessions: Sessions, settings: ResolvedSettings) -> None:
        """`graphs`: all of the artifact.

        A document has the tokens of a pair beyond the query's slot, whatever `Settings.max_length`, so that its states do not
        depend on the query. Raises InputError and ArtifactError like DocumentStates and, with a store, `Sessions.states_identity`.
        """
        self._graphs = {graph.name: graph for graph in graphs if graph.split is not None}
        self.splits = {
            graph.name: _within(graph.split, settings.max_length) for graph in self._graphs.values() if graph.split is not None
        }
        self.states = dict(self._open(sessions, settings))
        """by graph; none of a graph that cannot run here"""
        if settings.store is not None and not self._graphs:
            log.warning("the store %s is not used: the artifact has no split graph", path_text(settings.store))

    def _open(self, sessions: Sessions, settings: ResolvedSettings) -> Iterable[tuple[str, DocumentStates]]:
        for name, split in self.splits.items():
            try:
                sessions.variant(name)
            except ProviderError:  # a call whose plan has the graph raises it
                continue
            identity = partial(sessions.states_identity, name)
            cache_bytes = settings.document_cache // len(self.splits)
            yield name, DocumentStates(identity, split.size, cache_bytes=cache_bytes, store=settings.store)

    def operations(self) -> dict[str, int]:
        """Per token, by what its pace is known by: of a query half, per token of a query."""
        counts = {name: split.query_operations for name, split in self.splits.items()}
        for name, split in self.splits.items():
            document_half = self._graphs[name].operations - split.reading_operations
            counts[queue_name(name, Phase.DOCUMENT)] = max(1, document_half)
        return counts

    def documents(self, steps: Sequence[Step], encodings: Encodings) -> Mapping[str, Documents] | None:
        """What the split graphs of the steps read of the documents, by graph; None if one of them cannot read a pair."""
        splits = {step.graph: self.splits[step.graph] for step in steps if step.graph in self.splits}
        if not all(_can_read(split, encodings) for split in splits.values()):
            return None
        return {name: Documents.of(split, encodings) for name, split in splits.items()}

    def first_documents(self, encodings: Encodings) -> tuple[Graph, Documents]:
        """The first split graph, and what it reads of the documents. Raises InputError if there is none, or it cannot read them."""
        if not self._graphs:
            raise InputError(
                "this artifact has no split graph, and so no document that can be prepared; expected one that "
                "`resift export --first-look STUDENT` made with a student of `resift distill --split`"
            )
        graph = next(iter(self._graphs.values()))
        split = self.splits[graph.name]
        if not _can_read(split, encodings):
            raise InputError(
                f"documents have {split.document_tokens} tokens beside the {split.query_tokens} of a query; expected a max_length "
                f"of {2 * split.query_tokens} tokens or more, so that documents can be prepared"
            )
        return graph, Documents.of(split, encodings)

    def states_call(self, encodings: Encodings) -> Call:
        """A call for the states of the documents: (digest, uint8[tokens, size]) of each row. Raises like `first_documents`.

        They are computed, whatever is known of them, and kept nowhere.
        """
        graph, documents = self.first_documents(encodings)
        order = np.arange(len(encodings))
        reading = Reading(graph.name, documents, encodings, order, (Phase.DOCUMENT,))
        return Call(
            encodings,
            order,
            (Step(graph.name, graph.relevance),),
            lambda _: [(digest, reading.states[digest]) for digest in documents.digests],
            documents={graph.name: documents},
            reading=reading,
            states_owner=None,
        )

    def close(self) -> None:
        """Frees the states, and closes the store."""
        for states in self.states.values():
            states.close()


def _within(split: Split, max_length: int) -> Split:
    """How the graph reads pairs of at most `max_length` tokens, those of the query's slot included."""
    return msgspec.structs.replace(split, document_tokens=min(split.document_tokens, max_length - split.query_tokens))


def _can_read(split: Split, encodings: Encodings) -> bool:
    """Whether every query fits its slot and no part is empty, and documents have room for as many tokens as queries."""
    lengths = encodings.document_lengths(split.document_tokens)
    fits = (encodings.query_tokens > 0) & (encodings.query_tokens <= split.query_tokens) & (lengths > 0)
    return split.document_tokens >= split.query_tokens and bool(fits.all())
