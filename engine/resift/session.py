"""Session: one loaded graph on one execution provider."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from resift.errors import ArtifactError, ClosedError, ProviderError
from resift.manifest import OUTPUT
from resift.providers import ORT_NAMES, Provider, runtime
from resift.waiting import check_cancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from resift.manifest import Signature

ORT_TYPES = {"int64": "tensor(int64)", "float32": "tensor(float)"}
"""onnxruntime's names of the types that a signature knows."""


class Session:
    """Runs batches, several at a time; any number of threads may ask it to at once.

    A batch runs on one thread and `threads` batches run side by side, whoever asks for them: threads that share a batch wait
    for each other at every operator, of which 12 layers have some 260.

    After a fork, in the child, it opens the graph anew at the first run: neither its threads nor onnxruntime's survive a fork,
    and a run on what the parent had would wait for them for ever.
    """

    def __init__(self, read_graph: Callable[[], bytes], provider: Provider, threads: int, signature: Signature) -> None:
        """Opens the ONNX graph that `read_graph` returns. Raises ArtifactError if it does not have that signature."""
        self._read_graph = read_graph
        self._signature = signature
        self._provider = provider
        self._threads = threads if provider == "cpu" else 1
        self._closed = False
        self._lock = threading.Lock()
        self._session: Any = self._open()
        self._workers = self._new_workers()
        _live.add(self)

    def run_all(self, batches: Iterable[Mapping[str, NDArray[np.int64]]]) -> Generator[NDArray[np.float32]]:
        """`run` of each batch, in order. Takes from `batches` as it goes, so that few are held at once."""
        waiting: deque[Future[NDArray[np.float32]]] = deque()
        try:
            for batch in batches:
                waiting.append(self._submit(batch))
                if len(waiting) > 2 * self._threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def run(self, batch: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Logits float32[b, labels] of inputs int64[b, width]; inputs that the graph does not read are left out.

        Raises ArtifactError if the graph answers in another shape.
        """
        session = self._session or self._reopen()
        inputs = self._signature.feed(batch)
        logits: NDArray[np.float32] = session.run([OUTPUT], inputs)[0]
        expected = (len(inputs["input_ids"]), self._signature.labels)
        if logits.shape != expected:
            raise ArtifactError(
                f"the graph answered logits of shape {logits.shape}; expected {expected}, rows and labels, by its manifest: "
                "export the checkpoint again"
            )
        return logits

    def close(self) -> None:
        """Frees the graph; batches that other threads are running still finish."""
        with self._lock:
            self._closed = True
            self._session = None
        self._workers.shutdown(wait=False)

    def check_open(self) -> None:
        """Raises ClosedError after `close`."""
        if self._closed:
            raise ClosedError("this Reranker is closed; load another")

    def _submit(self, batch: Mapping[str, NDArray[np.int64]]) -> Future[NDArray[np.float32]]:
        try:
            # In the caller's context, which knows whether somebody still waits.
            return self._workers.submit(copy_context().run, self._run_if_awaited, batch)
        except RuntimeError:
            self.check_open()  # closed since by another thread
            raise

    def _run_if_awaited(self, batch: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        check_cancelled()
        return self.run(batch)

    def _new_workers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="resift")

    def _reopen(self) -> Any:
        with self._lock:
            self.check_open()
            if self._session is None:
                self._session = self._open()
            return self._session

    def _open(self) -> Any:
        onnxruntime = runtime()
        from onnxruntime.capi import onnxruntime_pybind11_state as states

        name = ORT_NAMES[self._provider]
        graph = self._read_graph()
        try:
            session = onnxruntime.InferenceSession(graph, sess_options=self._options(), providers=[name])
        except (states.Fail, states.InvalidGraph, states.InvalidProtobuf, states.InvalidArgument, states.NotImplemented) as error:
            raise ArtifactError(
                f"onnxruntime {onnxruntime.__version__} cannot load this graph: {error}; export the checkpoint again"
            ) from error
        if name not in session.get_providers():
            raise ProviderError(
                f"onnxruntime could not start {name} on this machine; its log on stderr says why. Use provider='cpu'"
            )
        self._check_signature(session)
        return session

    def _check_signature(self, session: Any) -> None:
        """Raises ArtifactError unless the graph reads and answers what the manifest says, by name, type and number of labels."""
        inputs = {item.name: item.type for item in session.get_inputs()}
        outputs = {item.name: item.type for item in session.get_outputs()}
        expected_inputs = {name: ORT_TYPES[kind] for name, kind in self._signature.inputs.items()}
        expected_outputs = {name: ORT_TYPES[kind] for name, kind in self._signature.outputs.items()}
        if (inputs, outputs) != (expected_inputs, expected_outputs):
            raise ArtifactError(
                f"the graph reads {inputs} and answers {outputs}; expected {expected_inputs} and {expected_outputs}, "
                "by its manifest: export the checkpoint again"
            )
        labels = session.get_outputs()[0].shape[-1:]
        # A free dimension has a name or None; `run` checks what it turns out to be.
        if not labels or (isinstance(labels[0], int) and labels[0] != self._signature.labels):
            raise ArtifactError(
                f"the graph answers logits of shape {session.get_outputs()[0].shape}; expected {self._signature.labels} labels, "
                "by its manifest: export the checkpoint again"
            )

    def _options(self) -> Any:
        onnxruntime = runtime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # The graph was optimized at export. onnxruntime's own pass would fuse SkipLayerNormalization, which is slower.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Every new shape would leave its pattern and its arena chunks behind: memory would grow with the shapes seen.
        options.enable_mem_pattern = False
        options.enable_cpu_mem_arena = False
        return options

    def forget_after_fork(self) -> None:
        """In a forked child: lets go of the parent's graph, so that the next run opens it anew."""
        if self._session is not None:
            # Its destructor joins threads that the child does not have: keep it alive for ever.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
        self._session = None
        self._lock = threading.Lock()
        self._workers = self._new_workers()


_live: weakref.WeakSet[Session] = weakref.WeakSet()


def _renew_sessions() -> None:
    for session in list(_live):
        session.forget_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_sessions)
