"""Sessions: the graphs of an artifact on this machine, each loaded once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from resift import machine
from resift.errors import ProviderError
from resift.runtime import providers
from resift.runtime.session import Session

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from resift.artifact.folder import Artifact
    from resift.artifact.manifest import Graph, Variant
    from resift.settings import Auto, Precision, Settings


class Sessions:
    """One Session per graph, all on the provider of the full graph. Any number of threads may use a Sessions object at once."""

    def __init__(self, artifact: Artifact, settings: Settings) -> None:
        """Chooses the provider and the full graph's variant. Raises ProviderError if the settings cannot be met."""
        self._artifact = artifact
        self._precision: Precision | Auto = settings.precision
        self._graphs = {graph.name: graph for graph in artifact.manifest.graphs}
        self._variants: dict[str, Variant] = {}
        self._sessions: dict[str, Session] = {}
        full = artifact.manifest.full
        self.provider, self._variants[full.name] = providers.choose(
            settings.provider, self._precision, available=providers.available(), variants=_runnable(full)
        )
        self.policy = providers.POLICIES[self.provider]

    def variant(self, graph: str) -> Variant:
        """The graph's variant on this machine. Raises ProviderError if it has none of the requested precision."""
        if graph not in self._variants:
            variants = _runnable(self._graphs[graph])
            try:
                _, variant = providers.choose(self.provider, self._precision, available=providers.available(), variants=variants)
            except ProviderError as error:
                raise ProviderError(f"the graph {graph} cannot run: {error}; or use the plan full") from error
            self._variants[graph] = variant
        return self._variants[graph]

    def open(self, graph: str) -> None:
        """Loads a graph unless it is loaded. Raises ProviderError, and like `Session.open`."""
        self._session(graph).open()

    def run(self, graph: str, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """The logits of a graph, float32[b, labels], for inputs int64[b, width] by name. Raises like `Session.run`."""
        return self._session(graph).run(inputs)

    def close(self) -> None:
        """Frees the graphs."""
        for session in list(self._sessions.values()):
            session.close()

    def _session(self, graph: str) -> Session:
        session = self._sessions.get(graph)
        if session is None:
            read = partial(self._artifact.read_graph, self.variant(graph), can_map=providers.can_map())
            # If two threads come here at once, both get the Session of the first one.
            session = self._sessions.setdefault(graph, Session(read, self._graphs[graph].signature, self.policy))
        return session


def _runnable(graph: Graph) -> list[Variant]:
    """The variants that this machine has the instruction sets for, best first."""
    available = machine.instruction_sets()
    return [variant for variant in graph.variants if available.issuperset(variant.instruction_sets)]
