"""Sessions: the graphs of an artifact on this machine's execution provider, each loaded once."""

from __future__ import annotations

import ctypes
import os
import threading
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from resift import machine
from resift.artifact.signature import OUTPUT
from resift.errors import (
    GPU_MEMORY,
    ArtifactError,
    ClosedError,
    InferenceError,
    OutOfMemoryError,
    ProviderError,
    first_line,
    is_out_of_memory,
    shortage,
)
from resift.process import renew_in_children
from resift.runtime import binding, probe, providers, wheels
from resift.runtime.providers import ORT_NAMES, failures, runtime
from resift.settings import LARGEST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from resift.artifact.folder import Artifact
    from resift.artifact.graph_on_disk import GraphOnDisk
    from resift.artifact.manifest import Graph
    from resift.artifact.signature import Signature
    from resift.artifact.variant import Variant
    from resift.runtime.providers import Policy
    from resift.settings import Auto, Precision, Provider, Settings

ORT_TYPES = {"int64": "tensor(int64)", "float32": "tensor(float)"}
"""onnxruntime's names of a signature's types."""

WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
"""onnxruntime's option for the folder with the external weights of a graph that it receives as bytes."""
RECORD_PLACES = "session.record_ep_graph_assignment_info"
"""onnxruntime's option to remember which provider runs which node; versions before 1.24 ignore it."""


class Sessions:
    """One Session per graph, all on the provider of the full graph. Any number of threads may use a Sessions object at once.

    A graph whose variant has a second one for short pairs has two Sessions. The number of a pair's tokens alone decides which of
    them scores it.
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

    def nodes(self, graph: str) -> dict[str, int] | None:
        """Number of the graph's nodes on each provider, by onnxruntime's names; see `Session.nodes`."""
        return self._session(graph).nodes()

    def open(self, graph: str) -> None:
        """Loads a graph unless it is loaded. Raises ProviderError, and like `Session.open`.

        A variant's graph for short pairs is loaded when the first of them comes.
        """
        self._session(graph).open()

    def run(self, graph: str, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """The logits of a graph, float32[b, labels], for the inputs of `Batch.stack`. Raises like `Session.run`."""
        return self._session(graph, inputs["input_ids"].shape[1]).run(inputs)

    def close(self) -> None:
        """Frees the graphs."""
        for session in list(self._sessions.values()):
            session.close()

    def _session(self, graph: str, width: int = LARGEST["max_length"]) -> Session:
        """The session of a graph for pairs of `width` tokens."""
        whole = self.variant(graph)
        variant = whole.of_width(width)
        key = graph, variant.file
        session = self._sessions.get(key)
        if session is None:
            can_map = self.provider in providers.SUPPORTED and providers.can_map()
            read = partial(self._artifact.read_graph, variant, can_map=can_map)
            is_short = variant.file != whole.file
            policy = replace(self.policy, folds_constants=is_short)
            signature = self._graphs[graph].signature
            if variant.is_masked:
                signature = signature.with_mask()
            elif is_short:
                signature = signature.unfrozen()
            fresh = Session(read, signature, policy, self._options)
            # If two threads come here at once, both get the Session of the first one.
            session = self._sessions.setdefault(key, fresh)
        return session


class Session:
    """Runs batches of one graph, which is opened at the first use. Any number of threads may use a Session at once.

    A forked child reopens the graph at its first run: onnxruntime's threads do not survive a fork, and a run on the parent's
    session would wait for them forever.
    """

    def __init__(
        self,
        read_graph: Callable[[], bytes | GraphOnDisk],
        signature: Signature,
        policy: Policy,
        options: Mapping[str, str] | None = None,
    ) -> None:
        """`read_graph` returns the ONNX graph or its location on disk; the graph must have that signature.

        `options`: onnxruntime's options of the policy's provider, by name.
        """
        self._read_graph = read_graph
        self._signature = signature
        self._policy = policy
        self._options = dict(options or {})
        self._device = binding.Device("cpu")
        if policy.provider == "cuda":
            number = self._options.get("device_id", "0")
            self._device = binding.Device("cuda", int(number) if number.isdecimal() else 0)  # onnxruntime refuses what is no number
        self._closed = False
        self._lock = threading.Lock()
        self._session: Any = None
        renew_in_children(self)

    def run(self, batch: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Logits float32[b, labels] of the inputs of `Batch.stack`; inputs that the graph does not read are ignored.

        Raises InferenceError if onnxruntime fails, ArtifactError if the logits have another shape, and like `open`.
        """
        session = self._session or self.open()
        inputs = self._signature.feed(batch)
        rows, width = inputs["input_ids"].shape
        try:
            logits: NDArray[np.float32] = (
                binding.run(session, inputs, OUTPUT, self._device) if self._policy.is_bound else session.run([OUTPUT], inputs)[0]
            )
        except failures() as error:
            what = f"onnxruntime failed on {rows} pairs of {width} tokens"
            reason = shortage(error) or f"{first_line(error)}; check the artifact with `resift verify`"
            if is_out_of_memory(error):
                raise OutOfMemoryError(f"{what}: {GPU_MEMORY if self._device.kind == 'cuda' else reason}") from error
            raise InferenceError(f"{what}: {reason}") from error
        if logits.shape != (rows, self._signature.labels):
            raise ArtifactError(
                f"the graph returned logits of shape {logits.shape}; expected {(rows, self._signature.labels)}, rows and labels, "
                "as its manifest says: export the checkpoint again"
            )
        return logits

    def nodes(self) -> dict[str, int] | None:
        """Number of nodes on each provider, by onnxruntime's names, most first; None before onnxruntime 1.24. Raises like `open`.

        They are the graph's nodes as the providers divided them; those that a provider then fuses are counted one by one.
        """
        find_places = getattr(self._session or self.open(), "get_provider_graph_assignment_info", None)
        if find_places is None:
            return None
        counts: Counter[str] = Counter()
        for subgraph in find_places():
            counts[subgraph.ep_name] += len(subgraph.get_nodes())
        return dict(counts.most_common())

    def open(self) -> Any:
        """Opens the graph unless it is open already, and returns onnxruntime's session.

        Raises ArtifactError if the graph cannot be loaded or does not match its manifest, InferenceError if memory or /proc is
        missing, ProviderError if the provider does not start, and ClosedError after `close`.
        """
        with self._lock:
            if self._closed:
                raise ClosedError
            if self._session is None:
                self._session = self._open()
            return self._session

    def close(self) -> None:
        """Frees the graph; batches running in other threads still finish."""
        with self._lock:
            self._closed = True
            self._session = None

    def _open(self) -> Any:
        onnxruntime = runtime()
        provider = self._policy.provider
        if lack := probe.find_lack(provider):
            raise ProviderError(_not_started(provider, lack))
        probe.prepare(provider)
        graph = self._read_graph()
        options = self._policy.options()
        options.add_session_config_entry(RECORD_PLACES, "1")
        if isinstance(graph, bytes):
            source: bytes | str = graph
        elif graph.content is None:
            source = os.fspath(graph.path)
        else:
            source = graph.content
            options.add_session_config_entry(WEIGHTS_FOLDER, os.fspath(graph.path.parent))
        try:
            # With its fallback, onnxruntime would print what fails and run on the CPU.
            session = onnxruntime.InferenceSession(
                source, options, providers=[(ORT_NAMES[provider], self._options)], enable_fallback=0
            )
        except failures() as error:
            failure = f"onnxruntime {onnxruntime.__version__} cannot load this graph"
            if short := shortage(error):
                raise InferenceError(f"{failure}: {short}") from error
            if provider != "cpu":
                raise ProviderError(
                    f"{failure} with {ORT_NAMES[provider]}: {first_line(error)}; use other provider_options, or the provider cpu"
                ) from error
            raise ArtifactError(f"{failure}: {first_line(error)}; export the checkpoint again") from error
        if not isinstance(graph, bytes):
            graph.check_unchanged()
        if ORT_NAMES[provider] not in session.get_providers():
            raise ProviderError(_not_started(provider, probe.explain(provider)))
        self._check_signature(session)
        return session

    def _check_signature(self, session: Any) -> None:
        """Raises ArtifactError unless the graph's inputs, outputs and labels are those of the manifest."""
        inputs = {item.name: item.type for item in session.get_inputs()}
        outputs = {item.name: item.type for item in session.get_outputs()}
        expected_inputs = {name: ORT_TYPES[kind] for name, kind in self._signature.inputs.items()}
        expected_outputs = {name: ORT_TYPES[kind] for name, kind in self._signature.outputs.items()}
        if (inputs, outputs) != (expected_inputs, expected_outputs):
            raise ArtifactError(
                f"the graph reads {inputs} and returns {outputs}; expected {expected_inputs} and {expected_outputs}, "
                "as its manifest says: export the checkpoint again"
            )
        labels = session.get_outputs()[0].shape[-1:]
        # A free dimension has a name or None; `run` checks its actual size.
        if not labels or (isinstance(labels[0], int) and labels[0] != self._signature.labels):
            raise ArtifactError(
                f"the graph returns logits of shape {session.get_outputs()[0].shape}; expected {self._signature.labels} labels, "
                "as its manifest says: export the checkpoint again"
            )

    def begin_anew(self) -> None:
        """In a forked child: drops the parent's session, so that the next run reopens the graph."""
        if self._session is not None:
            # Its destructor joins threads that the child does not have, so it must never run.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
        self._session = None
        self._lock = threading.Lock()


def _not_started(provider: Provider, reason: str) -> str:
    return f"onnxruntime cannot start {ORT_NAMES[provider]} on this machine: {reason}; use the provider cpu"


def _runnable(graph: Graph) -> list[Variant]:
    """The variants that this machine has the instruction sets for, best first."""
    available = machine.instruction_sets()
    return [variant for variant in graph.variants if available.issuperset(variant.instruction_sets)]
