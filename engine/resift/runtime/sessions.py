"""Sessions: the graphs of an artifact on this machine's execution provider, each loaded once."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from resift import machine
from resift.errors import ProviderError, first_line
from resift.runtime import probe, providers, wheels
from resift.runtime.providers import ORT_NAMES, runtime
from resift.runtime.session import Session
from resift.settings import LARGEST

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from resift.artifact.folder import Artifact
    from resift.artifact.manifest import Graph
    from resift.artifact.signature import Signature
    from resift.artifact.variant import Variant
    from resift.runtime.providers import Policy
    from resift.settings import Auto, Precision, Provider, Settings

log = logging.getLogger(__name__)


class Sessions:
    """One Session per graph, all on the provider of the full graph. Any number of threads may use a Sessions object at once.

    A graph whose variant has a second one for short pairs has two Sessions. The number of a pair's tokens alone decides which of
    them scores it. A split graph has two as well: its document half, and its query half. On CUDA, a variant's packed graph takes
    the place of the one that computes padding, if it can run.
    """

    def __init__(self, artifact: Artifact, settings: Settings, rehearsed: Provider | None = None) -> None:
        """Chooses the provider and the full graph's variant. Raises ProviderError if the settings cannot be met.

        `rehearsed`: a provider whose variants and batches are run on the CPU, to see on any machine what they compute.
        """
        self._artifact, self._rehearsed = artifact, rehearsed
        self._precision: Precision | Auto = settings.precision
        self._graphs = {graph.name: graph for graph in artifact.manifest.graphs}
        self._variants: dict[str, Variant] = {}
        self._sessions: dict[tuple[str, str], Session] = {}
        self._is_closed = False
        self._padded: set[str] = set()
        """names of the graphs whose packed ones cannot run here"""
        full = artifact.manifest.full
        self.provider, self._variants[full.name] = self._choose(settings.provider, full)
        wheels.warn_of_several()
        self.policy = replace(providers.POLICIES[rehearsed or self.provider], provider=self.provider)
        self._options = {} if settings.provider_options == "auto" else dict(settings.provider_options)

    def variant(self, graph: str) -> Variant:
        """The graph's variant on this machine. Raises ProviderError if it has none of the requested precision."""
        if graph not in self._variants:
            try:
                _, variant = self._choose(self.provider, self._graphs[graph])
            except ProviderError as error:
                raise ProviderError(f"the graph {graph} cannot run: {error}; or use the plan full") from error
            self._variants[graph] = variant
        return self._variants[graph]

    def _choose(self, provider: Provider | Auto, graph: Graph) -> tuple[Provider, Variant]:
        choose = partial(providers.choose, precision=self._precision, variants=_runnable(graph), starts=probe.starts)
        if self._rehearsed is not None:
            return "cpu", choose(self._rehearsed, available=[ORT_NAMES[self._rehearsed]])[1]
        return choose(provider, available=providers.available())

    def is_masked(self, graph: str) -> bool:
        """Whether rows of several lengths share the graph's batches, padded. Raises like `variant`."""
        return self.variant(graph).is_masked

    def is_packed(self, graph: str) -> bool:
        """Whether no padding is computed in the graph's batches; until they run, whether that will be tried."""
        return self.provider == "cuda" and graph not in self._padded and self.variant(graph).packed is not None

    def compute_padding(self, graph: str, reason: str) -> None:
        """Runs the graph's batches with padding from now on, and logs the reason."""
        packed = self.variant(graph).of_packed()
        assert packed is not None
        self._padded.add(graph)
        self._sessions.pop((graph, packed.file), None)
        log.warning("%s is not used, and padding is computed: %s", packed.file, reason)

    def nodes(self, graph: str) -> dict[str, int] | None:
        """Number of the graph's nodes on each provider, by onnxruntime's names; see `Session.nodes`."""
        return self._session(graph).nodes()

    def open(self, graph: str) -> None:
        """Loads a graph unless it is loaded. Raises ProviderError, and like `Session.open`.

        A variant's graph for short pairs is loaded when the first of them comes.
        """
        self._session(graph).open()
        if self._graphs[graph].split is not None:
            self._document_half(graph).open()

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The logits of a graph, float32[b, labels], for the inputs of `Batch.stack`: of a split graph, by its query half.

        Raises like `Session.run`.
        """
        return self._session(graph, inputs["input_ids"].shape[1]).run(inputs)

    def states(self, graph: str, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.uint8]:
        """The states of b documents of d tokens, uint8[b, d, size], by the document half of a split graph.

        `inputs`: int64[b, d] each, by name. Raises like `Session.run`.
        """
        return self._document_half(graph).run(inputs)

    def states_identity(self, graph: str) -> str:
        """A digest of all that makes the bits of a split graph's states: its document half, and what computes it here.

        What the document half reads is in the digest of each document: the tokens, as the tokenizer gives them and as they are cut.
        Raises ProviderError like `variant`, and ArtifactError if the half or its weights cannot be read.
        """
        variant = self.variant(graph).document_half()
        parts = {
            "graph": self._artifact.graph_digest(variant),
            "precision": variant.precision,
            "onnxruntime": runtime().__version__,
            "provider": [self.provider, self._options],
            "processor": [platform.machine(), *sorted(machine.instruction_sets())],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def close(self) -> None:
        """Frees the graphs. None is loaded any longer: to open one raises ClosedError."""
        self._is_closed = True
        for session in list(self._sessions.values()):
            session.close()

    def _session(self, graph: str, width: int = LARGEST["max_length"]) -> Session:
        """The session of a graph for pairs of `width` tokens; of a split graph, that of its query half."""
        whole = self.variant(graph)
        packed = whole.of_packed() if self.is_packed(graph) else None
        variant = packed or whole.of_width(width)
        session = self._sessions.get((graph, variant.file))
        if session is None:
            is_short = packed is None and variant.file != whole.file
            about, policy = self._graphs[graph], self.policy
            signature = about.signature
            if variant.is_masked:
                signature = signature.with_mask()
            elif is_short:
                signature = signature.unfrozen()
            elif about.split is not None:
                signature, policy = signature.query_half(), replace(policy, is_bound=False)  # its inputs are of two types
            session = self._add(graph, variant, signature, replace(policy, folds_constants=is_short))
            if packed is not None:
                try:
                    session.open()
                except ProviderError as error:
                    self.compute_padding(graph, first_line(error.__cause__ or error))
                    return self._session(graph, width)
        return session

    def _document_half(self, graph: str) -> Session:
        """The session of a split graph's document half."""
        variant, about = self.variant(graph).document_half(), self._graphs[graph]
        session = self._sessions.get((graph, variant.file))
        if session is None:
            size = None if about.split is None else about.split.size
            session = self._add(graph, variant, about.signature.document_half(), self.policy, size)
        return session

    def _add(self, graph: str, variant: Variant, signature: Signature, policy: Policy, size: int | None = None) -> Session:
        """The session of the variant's one graph. If two threads come here at once, both get that of the first one."""
        can_map = self.provider in providers.SUPPORTED and providers.can_map()
        read = partial(self._artifact.read_graph, variant, can_map=can_map)
        fresh = Session(read, signature, policy, self._options, size=size)
        session = self._sessions.setdefault((graph, variant.file), fresh)
        if self._is_closed:
            session.close()
        return session


def _runnable(graph: Graph) -> list[Variant]:
    """The variants that this machine has the instruction sets for, best first."""
    available = machine.instruction_sets()
    return [variant for variant in graph.variants if available.issuperset(variant.instruction_sets)]
