"""Session: one graph, opened by onnxruntime on one execution provider."""

from __future__ import annotations

import ctypes
import os
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from resift.artifact.signature import QUERY_OF, STATES
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
from resift.runtime import binding, probe
from resift.runtime.providers import ORT_NAMES, failures, runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from resift.artifact.graph_on_disk import GraphOnDisk
    from resift.artifact.signature import Signature
    from resift.runtime.providers import Policy
    from resift.settings import Provider

ORT_TYPES = {"int64": "tensor(int64)", "uint8": "tensor(uint8)", "float32": "tensor(float)"}
"""onnxruntime's names of a signature's types."""

WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
"""onnxruntime's option for the folder with the external weights of a graph that it receives as bytes."""
RECORD_PLACES = "session.record_ep_graph_assignment_info"
"""onnxruntime's option to remember which provider runs which node; versions before 1.24 ignore it."""


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
        *,
        size: int | None = None,
    ) -> None:
        """`read_graph` returns the ONNX graph or its location on disk; the graph must have that signature.

        `options`: onnxruntime's options of the policy's provider, by name. `size`: components of a state, of a document half.
        """
        self._read_graph = read_graph
        self._signature = signature
        [self._output] = signature.outputs
        self._size = size
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

    def run(self, batch: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """The output for the inputs of `Batch.stack`; inputs that the graph does not read are ignored.

        It is the logits, float32[b, labels]; of a document half, the states, uint8[b, width, size]. Raises InferenceError if
        onnxruntime fails, ArtifactError if the output has another shape, and like `open`.
        """
        session = self._session or self.open()
        inputs = self._signature.feed(batch)
        try:
            output: NDArray[Any] = (
                binding.run(session, inputs, self._output, self._device)
                if self._policy.is_bound
                else session.run([self._output], inputs)[0]
            )
        except failures() as error:
            what = f"onnxruntime failed on {_described(inputs)}"
            reason = shortage(error) or f"{first_line(error)}; check the artifact with `resift verify`"
            if is_out_of_memory(error):
                raise OutOfMemoryError(f"{what}: {GPU_MEMORY if self._device.kind == 'cuda' else reason}") from error
            raise InferenceError(f"{what}: {reason}") from error
        rows, width = inputs["input_ids"].shape
        expected: tuple[int, ...] = (len(inputs.get(QUERY_OF, inputs["input_ids"])), self._signature.labels)
        axes = "rows and labels"
        if self._size is not None:
            expected, axes = (rows, width, self._size), "documents, tokens and components"
        if output.shape != expected:
            raise ArtifactError(
                f"the graph returned {self._output} of shape {output.shape}; expected {expected}, {axes}, "
                "as its manifest says: export the checkpoint again"
            )
        return output

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
        shape, last = session.get_outputs()[0].shape, self._signature.labels if self._size is None else self._size
        # A free dimension has a name or None; `run` checks its actual size.
        if not shape or (isinstance(shape[-1], int) and shape[-1] != last):
            raise ArtifactError(
                f"the graph returns {self._output} of shape {shape}; expected {last} "
                f"{'labels' if self._size is None else 'components'}, as its manifest says: export the checkpoint again"
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


def _described(inputs: Mapping[str, NDArray[Any]]) -> str:
    """The rows of a batch and their tokens."""
    rows, width = inputs["input_ids"].shape
    if QUERY_OF not in inputs:
        return f"{rows} pairs of {width} tokens"
    return f"{len(inputs[QUERY_OF])} pairs of {width + inputs[STATES].shape[1]} tokens"
